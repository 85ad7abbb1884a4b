"""What an architecture allows, found out at load by brute force on a few tokens.

In: a subject. Out: the same, knowing whether a patched token may be passed through the layers above
alone (`patching`, fast) or its whole row must be run again (`whole_rows`, exact for any model).
Soft-capped logits, norms behind the MLP and scaled residuals are all covered by the comparison.
"""

import dataclasses
import warnings

import torch

from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice.patching import arm_losses
from rewrite_utils.subject.splice.sources import GivenOutput

TOKENS, POSITIONS = 9, (3, 6)
"""Of the row that is tried, and where it is patched."""
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Nats by which the two ways may differ; half precisions: .25."""


@torch.no_grad()
def checked(subject: Subject) -> Subject:
    """The subject, with the fast way where it equals the slow one, else with the slow one (said).

    Raises ValueError where a replaced output does not change what the model predicts.
    """
    reason = _difference(subject)
    if not reason:
        return subject
    warnings.warn(
        f"{subject.name}: one token cannot be passed through the layers above the splice alone "
        f"({reason}), so every loss is a pass of its whole row: exact, and slower by about the "
        "number of tokens in a row",
        stacklevel=2,
    )
    return dataclasses.replace(subject, resumes=False)


def _difference(subject: Subject) -> str:
    """What the fast way does wrong; empty: nothing."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(min(subject.vocab_size, 1000), (1, TOKENS), generator=generator)
    rows[:, 0] = subject.bos
    mask = torch.zeros(rows.shape, dtype=torch.bool)
    mask[0, list(POSITIONS)] = True
    slowly = dataclasses.replace(subject, resumes=False)
    limit = TOLERANCE.get(subject.dtype, 0.25)
    middle = Hookpoint(subject.n_layers // 2, "mlp")
    for place in dict.fromkeys((Hookpoint(0, "mlp"), middle, middle._replace(kind="resid"))):
        arms = [GivenOutput(torch.ones(subject.d_model))]
        exact = arm_losses(slowly, None, place, arms, rows, mask).losses
        if not (exact.kl > 0).any():
            raise ValueError(
                f"{subject.name}: what is put in the place of {place.name}'s output does not reach "
                "its predictions, so it cannot be rewritten: choose another model"
            )
        try:
            fast = arm_losses(subject, None, place, arms, rows, mask).losses
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            return f"at {place.name}: {type(error).__name__}"
        far = max(float((a - b).abs().max()) for a, b in zip(fast, exact, strict=True))
        if not far <= limit:
            return f"at {place.name} it differs by {far:.2g} nat"
    return ""

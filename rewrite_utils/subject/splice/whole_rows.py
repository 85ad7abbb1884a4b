"""The slow exact way: every (position, arm) is a pass of the whole row, with one token replaced.

For models whose tokens cannot be passed through the layers above alone: attention that does not see
the whole row, or an architecture whose fast way failed its check at load. Paper §6, as written.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice.context import spliced
from rewrite_utils.subject.splice.sources import Coder, Site, Source, Untouched


class Grids(NamedTuple):
    """What was measured at the scored positions; NaN elsewhere."""

    loss: Float[Tensor, "batch pos arm"]
    """−log p(next token) with only this position's output replaced."""
    base: Float[Tensor, "batch pos"]
    """The same in the untouched model."""
    kl: Float[Tensor, "batch pos arm"]
    """KL(untouched ‖ patched)."""
    error: Float[Tensor, "batch pos arm"]
    """‖y − ŷ‖² of the replaced output."""

    @classmethod
    def empty(cls, rows: Int[Tensor, "batch pos"], arms: int) -> "Grids":
        """All NaN."""
        whole, one = (*rows.shape, arms), rows.shape
        return cls(*(torch.full(size, torch.nan) for size in (whole, one, whole, whole)))


class _Seen:
    """A source that remembers how far its output is from the model's own."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.error = torch.zeros(0)

    def output(self, site: Site) -> Float[Tensor, "site d_model"]:
        """The source's output."""
        found = self._source.output(site)
        self.error = (found - site.outputs).square().sum(-1).cpu()
        return found


@torch.no_grad()
def whole_row_losses(
    subject: Subject,
    coder: Coder | None,
    hookpoint: Hookpoint,
    sources: Sequence[Source],
    rows: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
) -> Grids:
    """Every source at every True position, each patched alone."""
    found = Grids.empty(rows, len(sources))
    for turn in range(1, int(mask.sum(1).max()) + 1 if len(mask) else 1):
        here = mask & (mask.cumsum(1) == turn)
        target = rows.roll(-1, 1)[here][:, None]
        log_p = _next(subject, coder, hookpoint, Untouched(), rows, here)
        found.base[here] = -log_p.gather(1, target)[:, 0]
        for arm, source in enumerate(map(_Seen, sources)):
            log_q = _next(subject, coder, hookpoint, source, rows, here)
            found.loss[..., arm][here] = -log_q.gather(1, target)[:, 0]
            found.kl[..., arm][here] = (log_p.exp() * (log_p - log_q)).sum(-1)
            found.error[..., arm][here] = source.error
    return found


def _next(
    subject: Subject,
    coder: Coder | None,
    hookpoint: Hookpoint,
    source: Source,
    rows: Int[Tensor, "batch pos"],
    here: Bool[Tensor, "batch pos"],
) -> Float[Tensor, "site vocab"]:
    """Next-token log-probabilities at the True positions, which are spliced; on the CPU."""
    only = ("unembed.hook_in", lambda hidden, hook: hidden[here.to(hidden.device)][None])
    with (
        spliced(subject, coder, hookpoint, source, positions=here),
        subject.bridge.hooks(fwd_hooks=[only]),
    ):
        logits = subject.bridge(rows.to(subject.device))
    return logits[0].float().log_softmax(-1).cpu()

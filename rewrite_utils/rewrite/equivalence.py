"""As good as which training checkpoint? A patched cross-entropy, looked up on the training curve.

In: losses of every checkpoint and of the patched model at the same windows. Out: the training step
whose mean loss equals the patched one, with its bootstrap interval over windows. Several where the
curve passes that loss more than once, none where it never does.
Paper: §2 ("as good as a Pythia checkpoint at 25 % of training"), method §8.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from rewrite_utils import stats
from rewrite_utils.latents.windows import Windows
from rewrite_utils.subject.model import Subject

EQUAL = 1e-9
"""Nats: means closer than this are the same mean, summed in another order."""


class Equivalence(NamedTuple):
    """Where on its training curve the model is as good as the patched one."""

    loss: float
    """Mean patched loss, nats."""
    first: float
    """Step at which the curve first passes that loss; −inf: worse than every checkpoint, inf:
    better than every one."""
    last: float
    """Step at which it passes it last: another than `first` where the curve is not monotone."""
    low: float
    """Lower end of the 95 % interval of `first`, over windows; −inf or inf as there."""
    high: float
    """Upper end of the 95 % interval of `last`."""
    crossings: int
    """How often the curve passes the loss; 1 is the simple case."""
    windows: int
    """Windows that both were measured on."""
    final: int
    """Step of the last checkpoint: what a share of training is a share of."""

    @property
    def answer(self) -> str:
        """The result in words, with the share of training where there is one."""
        ends = f"[{self._share(self.low)}, {self._share(self.high)}] of training"
        if self.crossings == 0:
            side = "worse" if self.first < 0 else "better"
            return f"{side} than every checkpoint ({ends})"
        if self.crossings == 1:
            return f"step {self.first:,.0f}: {self._share(self.first)} {ends}"
        return (
            f"not unique: the curve passes it {self.crossings} times, from step {self.first:,.0f} "
            f"to {self.last:,.0f} ({ends})"
        )

    def _share(self, step: float) -> str:
        if np.isinf(step):
            return "none" if step < 0 else "beyond"
        return f"{step / self.final:.1%}"


def equivalent(
    curve: Float[ndarray, "window checkpoint"],
    patched: Float[ndarray, " window"],
    steps: Sequence[int],
    *,
    seed: int,
    resamples: int = 2000,
    units: Int[ndarray, " window"] | None = None,
) -> Equivalence:
    """The step at which the mean of ``curve`` is the mean of ``patched``.

    Between checkpoints the loss is taken to be linear in log(1 + step). Curve and patched model
    are resampled together: their windows are the same, or the rows of those (``units``).
    ValueError if they are not as many, or if the steps do not grow.
    """
    _require_curve(curve, patched, steps)
    first, last, crossings = _crossings(curve.mean(0)[None], patched.mean()[None], steps)
    both = np.column_stack([curve, patched, np.ones(len(patched))]).astype(np.float64)
    both = both if units is None else stats.summed(both, units)
    means = stats.resampled_means(both, seed=seed, resamples=resamples)
    means = means[:, :-1] / means[:, -1:]
    low, high, _ = _crossings(means[:, :-1], means[:, -1], steps)
    return Equivalence(
        loss=float(patched.mean()),
        first=float(first[0]),
        last=float(last[0]),
        low=float(np.quantile(low, 0.025, method="inverted_cdf")),
        high=float(np.quantile(high, 0.975, method="inverted_cdf")),
        crossings=int(crossings[0]),
        windows=len(patched),
        final=steps[-1],
    )


@torch.no_grad()
def next_token_losses(
    subject: Subject, tokens: Int[ndarray, "row pos"], windows: Windows, *, batch: int = 32
) -> Float[ndarray, " window"]:
    """−log p of the token behind each window's end, in nats: what the patched losses are of."""
    found = []
    for start in range(0, len(windows.rows), batch):
        part = slice(start, start + batch)
        rows = torch.from_numpy(tokens[windows.rows[part]]).to(subject.device)
        ends = torch.from_numpy(windows.ends[part]).to(subject.device)
        places = torch.arange(len(rows), device=subject.device)

        def only(hidden: Tensor, hook: object, at: tuple = (places, ends)) -> Tensor:
            return hidden[at][:, None]  # one position a row: no other logits are needed

        with subject.bridge.hooks(fwd_hooks=[("unembed.hook_in", only)]):
            logits = subject.bridge(rows[:, : int(ends.max()) + 1])[:, 0]
        loss = torch.nn.functional.cross_entropy(
            logits.float(), rows[places, ends + 1], reduction="none"
        )
        found.append(loss.cpu().numpy())
    return np.concatenate(found)


def _require_curve(
    curve: Float[ndarray, "window checkpoint"],
    patched: Float[ndarray, " window"],
    steps: Sequence[int],
) -> None:
    if len(curve) != len(patched) or curve.shape[1] != len(steps):
        raise ValueError(
            f"a curve of {curve.shape[0]} windows and {curve.shape[1]} checkpoints does not fit "
            f"{len(patched)} patched windows and {len(steps)} steps"
        )
    if len(steps) < 2 or (np.diff(steps) <= 0).any():
        raise ValueError(f"steps {list(steps)} do not grow: a curve needs two or more, in order")
    if not (np.isfinite(curve).all() and np.isfinite(patched).all()):
        raise ValueError("a loss is missing or infinite")


def _crossings(
    means: Float[ndarray, "draw checkpoint"], levels: Float[ndarray, " draw"], steps: Sequence[int]
) -> tuple[Float[ndarray, " draw"], Float[ndarray, " draw"], Int[ndarray, " draw"]]:
    """The first and the last step at which each draw's curve passes its level, and how often."""
    x = np.log1p(np.asarray(steps, np.float64))
    gap = means - levels[:, None]
    gap = np.where(np.abs(gap) < EQUAL, 0.0, gap)
    above = gap > 0
    passes = above[:, 1:] != above[:, :-1]
    difference = np.where(passes, gap[:, :-1] - gap[:, 1:], 1.0)
    at = np.expm1(x[:-1] + gap[:, :-1] / difference * np.diff(x))
    never = np.where(above[:, 0], np.inf, -np.inf)
    some = passes.any(1)
    first = np.where(some, np.where(passes, at, np.inf).min(1), never)
    last = np.where(some, np.where(passes, at, -np.inf).max(1), never)
    return first, last, passes.sum(1)

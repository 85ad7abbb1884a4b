"""How good one sentence is, every number with its interval and its floor.

In: which windows fire, and what the simulator or the judge said of them. Out: one row a score. The
floors are what a sentence that says nothing gets: chance, or the other latents' sentences.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from rewrite_utils.score.rates import auroc
from rewrite_utils.score.scores import Cut

RESAMPLES = 1000
NAN = float("nan")


class Scored(NamedTuple):
    """One number about a sentence."""

    name: str
    """What was measured."""
    found: tuple[float, float, float]
    """The number and its 95 % interval over windows; NaN where it cannot be measured."""
    floor: float
    """What a sentence that says nothing gets."""
    floor_name: str
    """Where the floor comes from."""
    firing: int
    """Windows that fire."""
    silent: int
    """Windows that do not."""

    @property
    def n(self) -> str:
        """Windows, firing + silent."""
        return f"{self.firing} + {self.silent}"


def rating(
    active: Bool[ndarray, " window"],
    expected: Float[ndarray, " window"],
    others: Float[ndarray, "window other"],
    *,
    seed: int,
) -> Scored:
    """AUROC of a latent's ratings, against that of the other latents' ratings for its firing."""
    found, floor = auroc(active, expected, seed=seed), NAN
    if active.any() and not active.all() and others.size:
        above = others[active][:, None] - others[~active][None]
        floor = float(((above > 0) + 0.5 * (above == 0)).mean())
    return Scored("rating AUROC", found, floor, "others' sentences", *_counts(active))


def detection(
    active: Bool[ndarray, " window"],
    probability: Float[ndarray, " window"],
    *,
    where: Cut,
    seed: int,
) -> list[Scored]:
    """AUROC and F1 of the judge's "yes", F1 cut ``where`` the run cuts it."""
    share, counts = active.mean() if len(active) else NAN, _counts(active)
    area, f1 = auroc(active, probability, seed=seed), _f1(active, where.yes(probability), seed)
    always = float(2 * share / (1 + share))
    return [
        Scored("detection AUROC", area, 0.5, "chance", *counts),
        Scored(f"detection F1 at {where.limit:.2f}", f1, always, "always yes", *counts),
    ]


def _counts(active: Bool[ndarray, " window"]) -> tuple[int, int]:
    return int(active.sum()), int((~active).sum())


def _f1(
    active: Bool[ndarray, " window"], said: Float[ndarray, " window"], seed: int
) -> tuple[float, float, float]:
    """F1 with its percentile interval, windows redrawn within firing and silent ones as for the
    AUROC; NaN where none fires."""
    if not active.any():
        return NAN, NAN, NAN
    generator = np.random.default_rng(seed)
    kinds = [np.flatnonzero(active), np.flatnonzero(~active)]
    parts = [generator.choice(kind, (RESAMPLES, len(kind))) for kind in kinds if len(kind)]
    drawn = np.vstack([np.concatenate(kinds), np.concatenate(parts, axis=1)])  # as they are first
    truth, yes = active[drawn], said[drawn]
    value, *redrawn = 2 * (truth * yes).sum(1) / (truth.sum(1) + yes.sum(1))
    return float(value), *map(float, np.percentile(redrawn, [2.5, 97.5]))

"""How good one sentence is, every number with its interval and its floor.

In: detection judgements and the simulator's ratings of one latent. Out: one row a score. The
floors are what a sentence that says nothing gets: chance, or the other latents' sentences.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from rewrite_utils.explorer.shelf import Rated, Reading, Shelf
from rewrite_utils.score.scores import cut
from rewrite_utils.stats import auroc

RESAMPLES = 1000
FLOOR = "others' sentences"


class Scored(NamedTuple):
    """One number about a sentence."""

    name: str
    """What was measured."""
    value: float
    """The number; NaN where it cannot be measured."""
    low: float
    """Lower end of the 95 % interval over windows."""
    high: float
    """Upper end."""
    floor: float
    """What a sentence that says nothing gets."""
    floor_name: str
    """Where the floor comes from."""
    n: str
    """Windows, firing + silent."""
    firing: int
    """Windows that fire."""


def rating(shelf: Shelf, latent: int, rated: Rated) -> Scored:
    """AUROC of the ratings at all rated windows, against the other latents' ratings of the same."""
    active = rated.true > 0
    found = auroc(active, rated.expected, seed=shelf.site.params.seed)
    n = f"{active.sum()} + {(~active).sum()}"
    floor = _others(shelf, latent, active)
    return Scored("rating AUROC", *found, floor, FLOOR, n, int(active.sum()))


def detection(shelf: Shelf, latent: int) -> list[Scored]:
    """AUROC and F1 of the judge who reads the run's sentence, F1 cut where the run cuts it."""
    table = shelf.site.judgements
    table = table[table["latent"] == latent]
    active, said = table["active"].to_numpy(bool), table["probability"].to_numpy(np.float64)
    found = auroc(active, said, seed=shelf.site.params.seed)
    where = cut(shelf.site.judgements, shelf.site.params.score.threshold)
    size = f"{active.sum()} + {(~active).sum()}", int(active.sum())
    share = active.mean() if len(active) else float("nan")
    interval = _f1_interval(active, where.yes(said), shelf.site.params.seed)
    f1 = shelf.scores["f1"].get(latent, float("nan"))
    return [
        Scored("detection AUROC", *found, 0.5, "chance", *size),
        Scored(f"detection F1 at {where.limit:.2f}", f1, *interval,
               2 * share / (1 + share), "always yes", *size),
    ]  # fmt: skip


def scored(shelf: Shelf, reading: Reading) -> list[Scored]:
    """All scores of a reading; detection only for the sentence that was judged."""
    found = [rating(shelf, reading.latent, reading.rated)]
    judged = reading.sentence == shelf.site.sentences[reading.latent]
    return found + (detection(shelf, reading.latent) if judged else [])


def _others(shelf: Shelf, latent: int, active: Bool[ndarray, " window"]) -> float:
    """Mean AUROC of the other latents' ratings for this latent's firing."""
    if active.all() or not active.any() or len(shelf.latents) < 2:
        return float("nan")
    expected = np.concatenate([part.expected for part in shelf.ratings.values()])
    others = np.delete(expected.astype(np.float64), shelf.place(latent), axis=1)
    above = others[active][:, None] - others[~active][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def _f1_interval(
    active: Bool[ndarray, " window"], said: Float[ndarray, " window"], seed: int
) -> tuple[float, float]:
    """Percentile interval, windows redrawn within firing and silent ones as for the AUROC."""
    if not active.any():
        return float("nan"), float("nan")
    generator, kinds = (
        np.random.default_rng(seed),
        (np.flatnonzero(active), np.flatnonzero(~active)),
    )
    parts = [generator.choice(kind, (RESAMPLES, len(kind))) for kind in kinds if len(kind)]
    drawn = np.concatenate(parts, axis=1)
    truth, yes = active[drawn], said[drawn]
    f1 = 2 * (truth * yes).sum(1) / np.maximum(truth.sum(1) + yes.sum(1), 1)
    low, high = np.percentile(f1, [2.5, 97.5])
    return float(low), float(high)

"""How well ratings tell firing from silence, and how ways of asking compare on the same pairs.

In: true activations and E, [window latent]. Out: numbers with intervals over windows, paired. AUROC
alone is a poor target (a few pure positives are worth more), so the precision at the firing rate
stands beside it.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.stats import spearmanr

from rewrite_utils.score.rates import auroc_value
from rewrite_utils.stats import resampled

Statistic = Callable[[ndarray, ndarray], float]


def precision_at_rate(active: Bool[ndarray, "*pair"], rating: Float[ndarray, "*pair"]) -> float:
    """Share of active pairs among the n best rated, n = number of active ones; there it equals the
    recall. Pairs that tie at the threshold count by their mean; NaN where none is active."""
    active, rating = active.ravel(), rating.ravel()
    n = int(active.sum())
    if n == 0:
        return float("nan")
    threshold = np.partition(rating, -n)[-n]
    above, at = rating > threshold, rating == threshold
    return float((active[above].sum() + (n - above.sum()) * active[at].mean()) / n)


def centred(rating: Float[ndarray, "window latent"]) -> Float[ndarray, "window latent"]:
    """The ratings minus their window's mean: the simulator's level drifts with the text."""
    return rating - rating.mean(1, keepdims=True)


def levelled(rating: Float[ndarray, "window latent"]) -> Float[ndarray, "window latent"]:
    """The same, each latent's then brought to one level and spread, as the headline's calibration
    does: what a sentence's own level adds is taken away."""
    rating = centred(rating)
    return (rating - rating.mean(0)) / np.maximum(rating.std(0), 1e-6)


STATISTICS: dict[str, Statistic] = {
    "AUROC": auroc_value,
    "AUROC, centred per window": lambda active, rating: auroc_value(active, centred(rating)),
    "AUROC, levelled": lambda active, rating: auroc_value(active, levelled(rating)),
    "precision at the firing rate": precision_at_rate,
    "precision, centred": lambda active, rating: precision_at_rate(active, centred(rating)),
}
COMMON = ("AUROC", "precision at the firing rate")


def compared(
    true: Float[ndarray, "window latent"],
    ways: Mapping[str, Float[ndarray, "window latent"]],
    *,
    base: str,
    seed: int,
    resamples: int = 500,
) -> pd.DataFrame:
    """One row a (way, statistic): its value, and the paired difference to ``base``, with 95 %
    intervals over the windows, and how far the ratings agree with the base's."""
    active, other, rows = true > 0, ways[base], []
    drawn = {"seed": seed, "resamples": resamples}
    differing = (f"minus {base}", "difference_low", "difference_high")
    for way, rating in ways.items():
        counted = {
            f"rank correlation with {base}": spearmanr(rating.ravel(), other.ravel()).statistic,
            "windows": len(true),
            "pairs": true.size,
            "active": int(active.sum()),
        }
        for name, of in STATISTICS.items():
            apart = _measured(of, active, rating, other, columns=differing, **drawn)
            own = _measured(of, active, rating, **drawn)
            rows.append({"way": way, "statistic": name} | own | apart | counted)
    return pd.DataFrame(rows)


def screening_curve(
    true: Float[ndarray, "window latent"],
    expected: Float[ndarray, "window latent"],
    sent: Mapping[float, Bool[ndarray, "window latent"]],
    *,
    seed: int,
    resamples: int = 500,
) -> pd.DataFrame:
    """One row a (share asked for, statistic), from ratings of all pairs: what is not among the
    ``sent`` ones of a share ties below.

    ``firings sent`` is the share of the true firings among the pairs that were sent.
    """
    measures = {name: STATISTICS[name] for name in COMMON}
    measures["firings sent"] = lambda a, r: float((r[a] >= 0).mean()) if a.any() else np.nan
    rows = []
    for share, which in sent.items():
        rating = np.where(which, expected.astype(np.float64), -1.0)
        counted = {"windows": len(true), "sent": int(which.sum())}
        for name, of in measures.items():
            found = _measured(of, true > 0, rating, seed=seed, resamples=resamples)
            rows.append({"share": share, "statistic": name} | found | counted)
    return pd.DataFrame(rows)


def by_place(
    true: Float[ndarray, "window latent token"],
    expected: Float[ndarray, "window latent token"],
    *,
    seed: int,
    resamples: int = 500,
) -> pd.DataFrame:
    """AUROC and precision of the all-positions mode by the token's place in its window, in four
    equal parts: one row a (part, statistic), 95 % over windows."""
    rows = []
    for places in np.array_split(np.arange(true.shape[2]), 4):
        active, rating = true[..., places] > 0, expected[..., places]
        counted = {"triples": active.size, "active": int(active.sum()), "windows": len(active)}
        for name in COMMON:
            row = {"tokens": f"{places[0] + 1}–{places[-1] + 1}", "statistic": name}
            of = STATISTICS[name]
            found = _measured(of, active, rating, seed=seed, resamples=resamples)
            rows.append(row | found | counted)
    return pd.DataFrame(rows)


def _measured(
    of: Statistic,
    active: ndarray,
    rating: ndarray,
    minus: ndarray | None = None,
    *,
    columns: tuple[str, str, str] = ("value", "low", "high"),
    seed: int,
    resamples: int,
) -> dict[str, float]:
    """A statistic, or what it is more than with the ratings ``minus``, with its interval over the
    windows, the first axis."""

    def value(which: ndarray) -> float:
        own = of(active[which], rating[which])
        return own if minus is None else own - of(active[which], minus[which])

    found = resampled(value, len(active), unit="window", seed=seed, resamples=resamples)
    return dict(zip(columns, found[:3], strict=True))

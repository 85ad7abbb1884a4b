"""How well ratings tell firing from silence, and how ways of asking compare on the same pairs.

In: true activations and E, [window latent]. Out: numbers with intervals over windows, paired. AUROC
alone is a poor target (a few pure positives are worth more), so the precision at the firing rate
stands beside it.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.stats import spearmanr

from rewrite_utils.simulate.screening import most_plausible
from rewrite_utils.stats import Estimate, auroc_value, resampled

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


def centred_auroc(active: Bool[ndarray, "window latent"], rating: ndarray) -> float:
    """AUROC of the ratings minus their window's mean: the simulator's level drifts with the
    text."""
    return auroc_value(active, rating - rating.mean(1, keepdims=True))


def centred_precision(active: Bool[ndarray, "window latent"], rating: ndarray) -> float:
    """`precision_at_rate` of the ratings minus their window's mean."""
    return precision_at_rate(active, rating - rating.mean(1, keepdims=True))


def levelled_auroc(active: Bool[ndarray, "window latent"], rating: ndarray) -> float:
    """AUROC of the ratings minus their window's mean, each latent's then brought to one level and
    spread, as the headline's calibration does: what a sentence's own level adds is taken away."""
    centred = rating - rating.mean(1, keepdims=True)
    spread = np.maximum(centred.std(0), 1e-6)
    return auroc_value(active, (centred - centred.mean(0)) / spread)


STATISTICS: dict[str, Statistic] = {
    "AUROC": auroc_value,
    "AUROC, centred per window": centred_auroc,
    "AUROC, levelled": levelled_auroc,
    "precision at the firing rate": precision_at_rate,
    "precision, centred": centred_precision,
}


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
    active, rows = true > 0, []
    for way, rating in ways.items():
        counted = {
            f"rank correlation with {base}": spearmanr(
                rating.ravel(), ways[base].ravel()
            ).statistic,
            "windows": len(true),
            "pairs": true.size,
            "active": int(active.sum()),
        }
        for name, statistic in STATISTICS.items():
            row = {"way": way, "statistic": name}
            value, apart = _paired(statistic, active, (rating, ways[base]), seed, resamples)
            rows.append(row | value | _named(apart, base) | counted)
    return pd.DataFrame(rows)


def _paired(
    statistic: Statistic,
    active: ndarray,
    ratings: tuple[ndarray, ndarray],
    seed: int,
    resamples: int,
) -> tuple[dict[str, float], Estimate]:
    """The statistic of one way, and its difference to the other's over the same windows."""
    rating, other = ratings

    def own(which: ndarray) -> float:
        return statistic(active[which], rating[which])

    def apart(which: ndarray) -> float:
        return own(which) - statistic(active[which], other[which])

    value, difference = (
        resampled(of, len(active), unit="window", seed=seed, resamples=resamples)
        for of in (own, apart)
    )
    return {"value": value.value, "low": value.low, "high": value.high}, difference


def _named(difference: Estimate, base: str) -> dict[str, float]:
    ends = {"difference_low": difference.low, "difference_high": difference.high}
    return {f"minus {base}": difference.value} | ends


def screening_curve(
    true: Float[ndarray, "window latent"],
    expected: Float[ndarray, "window latent"],
    plausibility: Float[ndarray, "window latent"],
    *,
    shares: Sequence[float],
    seed: int,
    resamples: int = 500,
) -> pd.DataFrame:
    """One row a (share sent, statistic), from ratings of all pairs: what is left out ties below.

    ``firings sent`` is the share of the true firings among the pairs that were sent.
    """
    active, rows = true > 0, []
    for share in shares:
        sent = most_plausible(plausibility, share=share)
        rating = np.where(sent, expected.astype(np.float64), -1.0)
        measures: dict[str, Statistic] = {
            "AUROC": auroc_value,
            "precision at the firing rate": precision_at_rate,
            "firings sent": lambda a, r: float((r[a] >= 0).mean()) if a.any() else float("nan"),
        }
        for name, statistic in measures.items():
            found = resampled(
                lambda which, s=statistic, r=rating: s(active[which], r[which]),
                len(true),
                unit="window",
                seed=seed,
                resamples=resamples,
            )
            rows.append(
                {"share": share, "statistic": name, "value": found.value, "low": found.low}
                | {"high": found.high, "windows": len(true), "sent": int(sent.sum())}
            )
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
        for name in ("AUROC", "precision at the firing rate"):
            found = resampled(
                lambda which, s=STATISTICS[name], a=active, r=rating: s(a[which], r[which]),
                len(active),
                unit="window",
                seed=seed,
                resamples=resamples,
            )
            row = {"tokens": f"{places[0] + 1}–{places[-1] + 1}", "statistic": name}
            row |= {"value": found.value, "low": found.low, "high": found.high}
            rows.append(row | counted)
    return pd.DataFrame(rows)

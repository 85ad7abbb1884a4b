"""Intervals over the unit that was drawn: windows for losses, latents for scores. Paired arms."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy import stats
from scipy.optimize import isotonic_regression
from sklearn.metrics import roc_auc_score


class Estimate(NamedTuple):
    """A number with what is needed to believe it."""

    value: float
    """The statistic on the sample."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    n: int
    """Units resampled."""
    unit: str
    """What was resampled: window, latent, row."""
    method: str = "BCa"
    """Kind of bootstrap interval."""

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}] ({self.counted})"

    @property
    def counted(self) -> str:
        """n and unit, and the kind of interval where it is not the usual BCa."""
        return f"n = {self.n} {self.unit}s" + ("" if self.method == "BCa" else f", {self.method}")

    @property
    def excludes_zero(self) -> bool:
        """The interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def bootstrap(
    sample: Float[ndarray, " unit"],
    *,
    unit: str,
    seed: int,
    resamples: int = 2000,
    statistic: Callable = np.mean,
) -> Estimate:
    """95 % bootstrap interval of ``statistic`` over units: BCa, percentile (and said so) where BCa
    fails.

    Raises ValueError for fewer than two units or NaN.
    """
    sample = np.asarray(sample, np.float64)
    if len(sample) < 2 or np.isnan(sample).any():
        raise ValueError(f"an interval needs two or more numbers, got {len(sample)} {unit}s or NaN")
    value = float(statistic(sample))
    if np.ptp(sample) == 0:
        return Estimate(value, value, value, len(sample), unit, "constant")
    low, high, method = *_interval(sample, "BCa", statistic, resamples, seed), "BCa"
    if np.isnan([low, high]).any():
        low, high, method = (
            *_interval(sample, "percentile", statistic, resamples, seed),
            "percentile",
        )
    return Estimate(value, low, high, len(sample), unit, method)


def recovered(
    coder: Float[ndarray, " window"],
    ablated: Float[ndarray, " window"],
    arm: Float[ndarray, " window"],
    *,
    seed: int,
    resamples: int = 2000,
) -> Estimate:
    """CE recovered = mean(ablated − arm) / mean(ablated − coder), paired over windows."""
    return ratio(ablated - arm, ablated - coder, unit="window", seed=seed, resamples=resamples)


def ratio(
    top: Float[ndarray, " unit"],
    bottom: Float[ndarray, " unit"],
    *,
    unit: str,
    seed: int,
    resamples: int = 2000,
) -> Estimate:
    """mean(top) / mean(bottom), both resampled together; percentile interval."""
    pairs = np.stack([top, bottom])
    drawn = np.random.default_rng(seed).integers(0, len(top), size=(resamples, len(top)))
    above, below = pairs[:, drawn].mean(-1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw may have nothing below the line
        low, high = np.percentile(above / below, [2.5, 97.5])
        value = float(pairs[0].mean() / pairs[1].mean())
    return Estimate(value, float(low), float(high), len(top), unit, "percentile")


def rank_correlation(
    x: Float[ndarray, " unit"],
    y: Float[ndarray, " unit"],
    *,
    unit: str,
    seed: int,
    resamples: int = 2000,
) -> Estimate:
    """Spearman's ρ of pairs, resampled together; NaN where one of them is constant."""
    drawn = np.random.default_rng(seed).integers(0, len(x), size=(resamples, len(x)))
    ranks = (stats.rankdata(values[drawn], axis=1) for values in (x, y))
    a, b = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    found = np.divide((a * b).sum(1), scale, where=scale > 0, out=np.full(resamples, np.nan))
    low, high = np.nanpercentile(found, [2.5, 97.5]) if (scale > 0).any() else (np.nan, np.nan)
    value = float(stats.spearmanr(x, y).statistic) if np.ptp(x) and np.ptp(y) else float("nan")
    return Estimate(value, float(low), float(high), len(x), unit, "percentile")


def crossing(
    x: Float[ndarray, " level"],
    difference: Float[ndarray, "level window"],
    *,
    seed: int,
    resamples: int = 2000,
) -> Estimate:
    """Where the mean difference, made rising in ``x``, crosses zero; linear between the levels.

    −inf or inf where it is above or below zero at every level, so an end of the interval says so.
    """
    n = difference.shape[1]
    drawn = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    found = [_crossing(x, difference[:, which].mean(1)) for which in drawn]
    low, high = np.quantile(found, [0.025, 0.975], method="inverted_cdf")
    value = _crossing(x, difference.mean(1))
    return Estimate(value, float(low), float(high), n, "window", "percentile")


def best_of(
    x: Float[ndarray, " level"],
    loss: Float[ndarray, "level window"],
    *,
    seed: int,
    resamples: int = 2000,
) -> Estimate:
    """The level of ``x`` with the least mean loss, and the percentile interval of that choice."""
    n = loss.shape[1]
    drawn = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    found = x[loss[:, drawn].mean(-1).argmin(0)]
    low, high = np.quantile(found, [0.025, 0.975], method="inverted_cdf")
    value = float(x[loss.mean(1).argmin()])
    return Estimate(value, float(low), float(high), n, "window", "percentile")


def _crossing(x: Float[ndarray, " level"], mean: Float[ndarray, " level"]) -> float:
    rising = isotonic_regression(mean).x
    if rising[0] > 0:
        return float("-inf")
    if rising[-1] <= 0:
        return float("inf")
    after = int(np.argmax(rising > 0))
    low, high = rising[after - 1], rising[after]
    return float(x[after - 1] - low / (high - low) * (x[after] - x[after - 1]))


def detectable(sample: Float[ndarray, " unit"]) -> float:
    """Smallest mean that this many units can see: 2.8 standard errors (80 % power at 5 %,
    two-sided)."""
    return float(2.8 * np.std(sample, ddof=1) / np.sqrt(len(sample)))


def wilson(hits: float, n: int) -> tuple[float, float, float]:
    """A share p with its 95 % Wilson interval, (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n);
    NaN where nothing was counted. ``hits`` need not be whole: ties count in part."""
    if n == 0:
        return float("nan"), float("nan"), float("nan")
    p, z = hits / n, float(stats.norm.ppf(0.975))
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((middle + side * half) / (1 + z**2 / n) for side in (-1, 1))
    return p, max(0.0, float(low)), min(1.0, float(high))


def wins(
    active: Bool[ndarray, " window"], score: Float[ndarray, " window"]
) -> Float[ndarray, "firing silent"]:
    """1 where a firing window scores above a silent one, ½ where they tie; the mean is AUROC."""
    above = np.subtract.outer(score[active], score[~active])
    return (above > 0) + 0.5 * (above == 0)


def auroc_value(active: Bool[ndarray, "*pair"], score: Float[ndarray, "*pair"]) -> float:
    """P(an active one scores above a silent one), ties half; NaN without both kinds."""
    if active.all() or not active.any():
        return float("nan")
    return float(roc_auc_score(active.ravel(), score.ravel()))


def auroc(
    active: Bool[ndarray, " window"],
    score: Float[ndarray, " window"],
    *,
    seed: int,
    resamples: int = 1000,
) -> tuple[float, float, float]:
    """AUROC with its 95 % percentile interval; windows redrawn within firing and silent ones.

    NaN where all windows fire or none does. With very few firing windows the interval is too
    narrow: it cannot know the windows that were not drawn.
    """
    if active.all() or not active.any():
        return float("nan"), float("nan"), float("nan")
    table = wins(active, score)
    generator = np.random.default_rng(seed)
    weights = [generator.multinomial(n, np.full(n, 1 / n), size=resamples) / n for n in table.shape]
    drawn = np.einsum("ra,ab,rb->r", weights[0], table, weights[1], optimize=True)
    return float(table.mean()), *map(float, np.percentile(drawn, [2.5, 97.5]))


def _interval(
    sample: ndarray, method: str, statistic: Callable, resamples: int, seed: int
) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interval = stats.bootstrap(
            (sample,),
            statistic,
            n_resamples=resamples,
            method=method,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return float(interval.low), float(interval.high)


def resampled(
    statistic: Callable[[Int[ndarray, " unit"]], float],
    n: int,
    *,
    unit: str,
    seed: int,
    resamples: int = 500,
) -> Estimate:
    """Percentile interval of a statistic of several numbers a unit; it is given the units drawn.

    Resamples on which the statistic is NaN (none active, say) are left out. Raises ValueError for
    fewer than two units; NaN with NaN ends where it is undefined on the sample itself.
    """
    if n < 2:
        raise ValueError(f"an interval needs two or more {unit}s, got {n}")
    value = float(statistic(np.arange(n)))
    drawn = np.random.default_rng(seed).integers(0, n, size=(resamples, n))
    found = np.array([statistic(which) for which in drawn])
    found = found[~np.isnan(found)]
    if np.isnan(value) or len(found) < resamples / 2:
        return Estimate(value, float("nan"), float("nan"), n, unit, "undefined")
    low, high = np.percentile(found, [2.5, 97.5])
    return Estimate(value, float(low), float(high), n, unit, "percentile")

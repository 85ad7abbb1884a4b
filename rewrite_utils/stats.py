"""Intervals over the unit that was drawn: rows or windows for losses, latents for scores.

In: one number a unit, or several numbers a unit and which is whose (``units``: the row of each
window). Out: estimates with 95 % intervals; arms are paired, so differences go in. At most a few
dozen MB are held, whatever the number of units.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import stats
from scipy.optimize import isotonic_regression

FEW = 50
"""Units below which BCa covers 82–89 % where it says 95: the wider of it and Student's t holds."""
AT_ONCE = 2**20
"""Numbers drawn at once: 8 MB an array."""
NAN = float("nan")
Numbers = Float[ndarray, " number"]
"""One number a unit, or several."""
Levels = Float[ndarray, "level window"]
"""A number of every window at several levels of something."""
Units = Int[ndarray, " _"] | None
"""Which unit each number belongs to; None: each is a unit of its own."""


class Estimate(NamedTuple):
    """A number with what is needed to believe it."""

    value: float
    """The statistic on the sample."""
    low: float
    """Lower end of the 95 % interval; NaN: there is none."""
    high: float
    """Upper end of the 95 % interval; NaN: there is none."""
    n: int
    """Units resampled."""
    unit: str
    """What was resampled: window, latent, row."""
    method: str = "BCa"
    """Kind of interval; "constant" and "undefined" have none."""

    def __str__(self) -> str:
        return f"{self.value:+.3f} {ends(self.low, self.high)} ({self.counted})"

    @property
    def counted(self) -> str:
        """n and unit, and the kind of interval where it is not the usual BCa."""
        return f"n = {self.n} {self.unit}s" + ("" if self.method == "BCa" else f", {self.method}")

    @property
    def excludes_zero(self) -> bool:
        """The interval lies on one side of zero."""
        return self.low > 0 or self.high < 0

    def named(self, name: str) -> dict[str, float]:
        """As the three columns of a table: name, name_low, name_high."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def ends(low: float, high: float, form: str = "+.3f") -> str:
    """An interval as text; "[no interval]" where there is none."""
    return "[no interval]" if np.isnan(low) else f"[{low:{form}}, {high:{form}}]"


def bootstrap(
    sample: Numbers, *, unit: str, seed: int, resamples: int = 2000, units: Units = None
) -> Estimate:
    """The mean of all numbers with its interval; see ``ratio``, of which it is the simplest."""
    sample = np.asarray(sample, np.float64)
    ones = np.ones(len(sample))
    return ratio(sample, ones, unit=unit, seed=seed, resamples=resamples, units=units)


def ratio(
    top: Numbers,
    bottom: Numbers,
    *,
    unit: str,
    seed: int,
    resamples: int = 2000,
    units: Units = None,
) -> Estimate:
    """mean(top) / mean(bottom), both resampled together, with its BCa interval.

    Below ``FEW`` units the wider of BCa and Student's t. The percentile interval where BCa is
    undefined, none where every unit has the same ratio; ``method`` says which it is. ValueError for
    fewer than two units, and for a number that is not finite.
    """
    sums = summed(np.stack([top, bottom], axis=1), units, unit=unit)
    n, (above, below) = len(sums), sums.T
    draws = resampled_means(sums, seed=seed, resamples=resamples)
    with np.errstate(divide="ignore", invalid="ignore"):  # there may be nothing below the line
        value = float(above.sum() / below.sum())
        found = draws[:, 0] / draws[:, 1]
        left_out = (above.sum() - above) / (below.sum() - below)
    if not np.isfinite(value):
        return Estimate(value, NAN, NAN, n, unit, "undefined")
    if np.abs(above - value * below).max() <= 1e-12 * max(np.abs(above).max(), 1e-300):
        return Estimate(value, NAN, NAN, n, unit, "constant")
    low, high, method = _bca(found, value, left_out)
    half = stats.t.ppf(0.975, n - 1) * _error(above, below)
    if n < FEW and not high - low > 2 * half:
        low, high, method = value - half, value + half, "Student's t"
    return Estimate(value, float(low), float(high), n, unit, method)


def detectable(sample: Numbers, *, units: Units = None) -> float:
    """Smallest mean that this many units can see: 2.8 standard errors (80 % power at 5 %,
    two-sided)."""
    pairs = np.stack([sample, np.ones(len(sample))], axis=1)
    return float(2.8 * _error(*summed(pairs, units, unit="number").T))


def resampled(
    statistic: Callable[[Int[ndarray, " number"]], float],
    n: int,
    *,
    unit: str,
    seed: int,
    resamples: int = 500,
    units: Units = None,
) -> Estimate:
    """Percentile interval of any statistic; it is given the places of the numbers drawn, of n.

    Resamples on which the statistic is NaN (none active, say) are left out. Raises ValueError for
    fewer than two units; NaN with NaN ends where it is undefined on the sample itself.
    """
    member = _members(np.zeros(n), unit, units)
    order, sizes = np.argsort(member, kind="stable"), np.bincount(member)
    places = np.split(order, sizes.cumsum()[:-1])
    draws = (which for part in _drawn(len(sizes), seed, resamples) for which in part)
    if len(sizes) == n:
        draws = (order[which] for which in draws)
    else:
        draws = (np.concatenate([places[one] for one in which]) for which in draws)
    value, found = float(statistic(np.arange(n))), np.array([statistic(which) for which in draws])
    return _percentile(found, value, len(sizes), unit)


def median(
    sample: Numbers, *, unit: str, seed: int, resamples: int = 2000, units: Units = None
) -> Estimate:
    """The median with its percentile interval; as ``resampled``, many draws at a time."""
    if units is not None:
        drawn = {"unit": unit, "seed": seed, "resamples": resamples, "units": units}
        return resampled(lambda which: float(np.median(sample[which])), len(sample), **drawn)
    _members(sample, unit, None)  # two or more, all finite
    found = [np.median(sample[part], axis=1) for part in _drawn(len(sample), seed, resamples)]
    return _percentile(np.concatenate(found), float(np.median(sample)), len(sample), unit)


def rank_correlation(
    x: Numbers, y: Numbers, *, unit: str, seed: int, resamples: int = 2000
) -> Estimate:
    """Spearman's ρ of pairs, resampled together; NaN where one of them is constant."""
    found, n = [], len(x)
    for drawn in _drawn(n, seed, resamples):
        a, b = (stats.rankdata(values[drawn], axis=1) - (n + 1) / 2 for values in (x, y))
        scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
        found.append(np.divide((a * b).sum(1), scale, where=scale > 0, out=np.full(len(a), NAN)))
    value = float(stats.spearmanr(x, y).statistic) if np.ptp(x) and np.ptp(y) else NAN
    return _percentile(np.concatenate(found), value, n, unit)


def crossing(
    x: Numbers, difference: Levels, *, seed: int, resamples: int = 2000, units: Units = None
) -> Estimate:
    """Where the mean difference, made rising in ``x``, crosses zero; linear between the levels.

    −inf or inf where it is above or below zero at every level, so an end of the interval says so.
    Percentile interval over windows, or over their rows (``units``).
    """
    return _chosen(lambda means: _crossing(x, means), difference, seed, resamples, units)


def best_of(
    x: Numbers, loss: Levels, *, seed: int, resamples: int = 2000, units: Units = None
) -> Estimate:
    """The level of ``x`` with the least mean loss, and the percentile interval of that choice."""
    return _chosen(lambda means: float(x[means.argmin()]), loss, seed, resamples, units)


def _chosen(
    choice: Callable[[Numbers], float], values: Levels, seed: int, resamples: int, units: Units
) -> Estimate:
    """A choice by the mean of each level, and by those of resampled windows or rows."""
    unit = "window" if units is None else "row"
    sums = summed(values.T, units, unit=unit)
    draws = resampled_means(sums, seed=seed, resamples=resamples)
    return _percentile(np.array([choice(m) for m in draws]), choice(sums.mean(0)), len(sums), unit)


def resampled_means(
    values: Float[ndarray, "unit column"], *, seed: int, resamples: int
) -> Float[ndarray, "draw column"]:
    """Means over units drawn with replacement, the same ones for all columns."""
    n = len(values)
    if n * resamples <= AT_ONCE:
        return _all_counts(n, seed, resamples) @ values / n
    parts = (_counts(drawn) for drawn in _drawn(n, seed, resamples))
    return np.concatenate([counts @ values / n for counts in parts])


@functools.lru_cache(maxsize=2)
def _all_counts(n: int, seed: int, resamples: int) -> Float[ndarray, "draw unit"]:
    """How often each unit was drawn: the same for every column of a table, so it is kept."""
    return np.concatenate([_counts(drawn) for drawn in _drawn(n, seed, resamples)])


def _drawn(n: int, seed: int, resamples: int) -> Iterator[Int[ndarray, "draw unit"]]:
    """The units of every resample, some resamples at a time."""
    generator, part = np.random.default_rng(seed), max(1, AT_ONCE // n)
    for start in range(0, resamples, part):
        yield generator.integers(0, n, size=(min(part, resamples - start), n))


def _counts(drawn: Int[ndarray, "draw unit"]) -> Float[ndarray, "draw unit"]:
    """How often each unit was drawn."""
    places = drawn + drawn.shape[1] * np.arange(len(drawn))[:, None]
    return np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)


def _members(sample: Numbers, unit: str, units: Units) -> Int[ndarray, " number"]:
    """The unit of each number, 0 …; ValueError for numbers that no interval can be made of."""
    units = np.arange(len(sample)) if units is None else units
    if len(units) != len(sample):
        raise ValueError(f"{len(sample)} numbers do not fit {len(units)} {unit}s")
    if not np.isfinite(sample).all():
        place = int(np.argmin(np.isfinite(sample)))
        raise ValueError(f"{unit} {units[place]} is {sample[place]}: no interval of that")
    names, member = np.unique(units, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"an interval needs two or more {unit}s, got {len(names)}")
    return member


def summed(
    values: Float[ndarray, "number column"], units: Units, *, unit: str = "row"
) -> Float[ndarray, "unit column"]:
    """Sums over the numbers of each unit: ratios of their means are those of all numbers."""
    member = _members(values.sum(1), unit, units)
    sums = np.zeros((member.max() + 1, values.shape[1]))
    np.add.at(sums, member, values)
    return sums


def _error(top: Float[ndarray, " unit"], bottom: Float[ndarray, " unit"]) -> float:
    """Standard error of mean(top) / mean(bottom), to first order; exact for a plain mean."""
    rest = top - top.sum() / bottom.sum() * bottom
    n = len(top)
    return float(np.sqrt(n / (n - 1) * np.square(rest).sum()) / abs(bottom.sum()))


def _bca(
    draws: Float[ndarray, " draw"], value: float, left_out: Float[ndarray, " unit"]
) -> tuple[float, float, str]:
    """BCa ends (Efron 1987) from resamples and the values without one unit; percentile if none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        tied = np.abs(draws - value) <= 1e-12 * np.abs(draws).max()
        bias = stats.norm.ppf(((draws < value) & ~tied).mean() + tied.mean() / 2)
        lean = left_out.mean() - left_out
        skew = (lean**3).sum() / (6 * np.square(lean).sum() ** 1.5)
        moved = bias + stats.norm.ppf([0.025, 0.975])
        shares = stats.norm.cdf(bias + moved / (1 - skew * moved))
    method = "BCa" if np.isfinite(shares).all() else "percentile"
    low, high = np.quantile(draws, shares if method == "BCa" else [0.025, 0.975])
    return low, high, method


def _percentile(found: Float[ndarray, " draw"], value: float, n: int, unit: str) -> Estimate:
    """The percentile interval over the resamples where there is a value; its ends are among those,
    infinite ones too."""
    kept = found[~np.isnan(found)]
    if np.isnan(value) or len(kept) < len(found) / 2:
        return Estimate(value, NAN, NAN, n, unit, "undefined")
    low, high = np.quantile(kept, [0.025, 0.975], method="inverted_cdf")
    return Estimate(value, float(low), float(high), n, unit, "percentile")


def _crossing(x: Float[ndarray, " level"], mean: Float[ndarray, " level"]) -> float:
    rising = isotonic_regression(mean).x
    if rising[0] > 0:
        return float("-inf")
    if rising[-1] <= 0:
        return float("inf")
    after = int(np.argmax(rising > 0))
    low, high = rising[after - 1], rising[after]
    return float(x[after - 1] - low / (high - low) * (x[after] - x[after - 1]))

"""Intervals over the unit that was drawn: rows or windows for losses, latents for scores.

In: one number a unit, or several numbers a unit and which is whose (``units``: the row of each
window). Out: estimates with 95 % intervals; arms are paired, so differences go in. At most a few
dozen MB are held, whatever the number of units.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy import stats
from scipy.optimize import isotonic_regression
from sklearn.metrics import roc_auc_score

FEW = 50
"""Units below which BCa covers 82–89 % where it says 95: the wider of it and Student's t holds."""
AT_ONCE = 2**20
"""Numbers drawn at once: 8 MB an array."""
NAN = float("nan")
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
    sample: Float[ndarray, " number"],
    *,
    unit: str,
    seed: int,
    resamples: int = 2000,
    units: Units = None,
) -> Estimate:
    """The mean of all numbers with its interval; see ``ratio``, of which it is the simplest."""
    sample = np.asarray(sample, np.float64)
    ones = np.ones(len(sample))
    return ratio(sample, ones, unit=unit, seed=seed, resamples=resamples, units=units)


def recovered(
    coder: Float[ndarray, " window"],
    ablated: Float[ndarray, " window"],
    arm: Float[ndarray, " window"],
    *,
    seed: int,
    unit: str = "window",
    resamples: int = 2000,
    units: Units = None,
) -> Estimate:
    """CE recovered = mean(ablated − arm) / mean(ablated − coder), paired over windows."""
    options = {"unit": unit, "seed": seed, "resamples": resamples, "units": units}
    return ratio(ablated - arm, ablated - coder, **options)


def ratio(
    top: Float[ndarray, " number"],
    bottom: Float[ndarray, " number"],
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
    sums = _summed(np.stack([top, bottom], axis=1), unit, units)
    n, (above, below) = len(sums), sums.T
    draws = resampled_means(sums, seed=seed, resamples=resamples)
    with np.errstate(divide="ignore", invalid="ignore"):  # there may be nothing below the line
        value = float(above.sum() / below.sum())
        found = draws[:, 0] / draws[:, 1]
        left_out = (above.sum() - above) / (below.sum() - below)
    rest = above - value * below
    if not np.isfinite(value):
        return Estimate(value, NAN, NAN, n, unit, "undefined")
    if np.abs(rest).max() <= 1e-12 * max(np.abs(above).max(), 1e-300):
        return Estimate(value, NAN, NAN, n, unit, "constant")
    low, high, method = _bca(found, value, left_out)
    half = stats.t.ppf(0.975, n - 1) * _error(above, below)
    if n < FEW and not high - low > 2 * half:
        low, high, method = value - half, value + half, "Student's t"
    return Estimate(value, float(low), float(high), n, unit, method)


def median(
    sample: Float[ndarray, " number"],
    *,
    unit: str,
    seed: int,
    resamples: int = 2000,
    units: Units = None,
) -> Estimate:
    """The median of all numbers and its percentile interval (a jackknife of it says nothing)."""
    member = _summed(sample, unit, units, member=True)
    order, found = np.argsort(sample), []
    for drawn in _drawn(member.max() + 1, seed, resamples):
        below = _counts(drawn)[:, member[order]].cumsum(axis=1)
        middles = ((below[:, -1:] - 1) // 2, below[:, -1:] // 2)
        places = [(below > middle).argmax(axis=1) for middle in middles]
        found.append(sample[order][places].mean(axis=0))
    value = float(np.median(sample))
    return _percentile(np.concatenate(found), value, n=int(member.max()) + 1, unit=unit)


def detectable(sample: Float[ndarray, " number"], *, units: Units = None) -> float:
    """Smallest mean that this many units can see: 2.8 standard errors (80 % power at 5 %,
    two-sided)."""
    sums = _summed(np.stack([sample, np.ones(len(sample))], axis=1), "number", units)
    return float(2.8 * _error(*sums.T))

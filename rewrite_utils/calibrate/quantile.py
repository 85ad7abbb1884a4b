"""Quantile normalisation, the paper's one equation: T_j = F_true,j⁻¹ ∘ F_pred,j for each latent j.

All nine Hyndman–Fan (1996) estimators, chosen separately for the source (F_pred: plotting
positions) and the target (F_true⁻¹: numpy.quantile's methods). In: ratings, true activations. Out:
a monotone transform.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rewrite_utils.calibrate.curves import distinct
from rewrite_utils.calibrate.protocol import Calibrator, Digits, Rated, Sample, Transform, unknown
from rewrite_utils.calibrate.target import Target


class Estimator(NamedTuple):
    """One of the nine definitions of a sample quantile."""

    number: int
    """Hyndman and Fan's type, 1 … 9."""
    alpha: float
    """α of the plotting positions p_k = (k − α) / (n + 1 − α − β)."""
    beta: float
    """β of the plotting positions."""


ESTIMATORS = {
    "inverted_cdf": Estimator(1, 0.0, 1.0),
    "averaged_inverted_cdf": Estimator(2, 0.5, 0.5),
    "closest_observation": Estimator(3, 0.0, 1.0),
    "interpolated_inverted_cdf": Estimator(4, 0.0, 1.0),
    "hazen": Estimator(5, 0.5, 0.5),
    "weibull": Estimator(6, 0.0, 0.0),
    "linear": Estimator(7, 1.0, 1.0),
    "median_unbiased": Estimator(8, 1 / 3, 1 / 3),
    "normal_unbiased": Estimator(9, 3 / 8, 3 / 8),
}
NUMBERED = {f"type{e.number}": name for name, e in ESTIMATORS.items()}


def estimator(name: str) -> Estimator:
    """The estimator by numpy.quantile's method name or by Hyndman and Fan's number ("type8")."""
    known = ESTIMATORS.get(NUMBERED.get(name, name))
    if known is None:
        raise unknown(name, "quantile estimator", [*ESTIMATORS, *NUMBERED], listed=ESTIMATORS)
    return known


def probabilities(
    x: Float[np.ndarray, "*any"],
    values: Float[np.ndarray, " value"],
    counts: Int[np.ndarray, " value"],
    by: Estimator,
) -> Float[np.ndarray, "*any"]:
    """F_pred(x) from the distinct calibration ``values`` and their ``counts``.

    At a value: (k − α) / (n + 1 − α − β) with k its mid-rank. Between two values, types 4–9
    interpolate linearly; types 1–3 take the p at which their quantile function jumps from the one
    to the other (c/n, type 3: (c + ½)/n, for the c ratings below). Beyond the calibration range a
    rating counts as the nearest calibration value.
    """
    below = np.cumsum(counts)
    total = below[-1]
    at = (below - (counts - 1) / 2 - by.alpha) / (total + 1 - by.alpha - by.beta)
    if by.number > 3:
        return np.interp(x, values, at)
    jump = np.minimum((below + (0.5 if by.number == 3 else 0.0)) / total, 1.0)
    last = np.searchsorted(values, x, side="right") - 1
    between = (last >= 0) & (last < len(values) - 1) & (values[last] != x)
    last = np.maximum(last, 0)
    return np.where(between, jump[last], at[last])


def quantiles(
    p: Float[np.ndarray, "*any"], positive: Float[np.ndarray, " active"], total: int, by: Estimator
) -> Float[np.ndarray, "*any"]:
    """``numpy.quantile(sample, p, method=…)`` of ``total`` numbers given the sorted positive ones.

    The others are exact zeros and are held as a count. As in R, an index within rounding of a whole
    number is that number, so that F⁻¹(F(x)) = x for every estimator.
    """
    index = p * (total + 1 - by.alpha - by.beta) + by.alpha
    if by.number < 4:
        index = p * total - (0.5 if by.number == 3 else 0.0)
    whole = np.rint(index)
    index = np.where(np.abs(index - whole) < 8 * np.finfo(float).eps * (total + 1), whole, index)
    lower = np.floor(index)
    share = index - lower
    if by.number < 4:
        exact = {1: 0.0, 2: 0.5, 3: lower % 2}[by.number]
        share = np.where(share > 0, 1.0, exact)
    first = _order_statistic(lower, positive, total)
    return first + share * (_order_statistic(lower + 1, positive, total) - first)


def _order_statistic(
    rank: Float[np.ndarray, "*any"], positive: Float[np.ndarray, " active"], total: int
) -> Float[np.ndarray, "*any"]:
    """The rank-th smallest (from 1, clipped to the sample) of zeros followed by ``positive``."""
    place = np.clip(rank, 1, total).astype(np.int64) - (total - len(positive))
    return np.concatenate([[0.0], positive])[np.maximum(place, 0)]


@dataclass(frozen=True)
class QuantileTransform(Transform):
    """F_pred and F_true⁻¹ of each latent."""

    values: Float[np.ndarray, " value"]
    """Distinct calibration ratings, latent after latent, ascending within each."""
    counts: Int[np.ndarray, " value"]
    """How often each of them occurred."""
    offsets: Int[np.ndarray, " latent_and_one"]
    """Where each latent's ratings begin in ``values``."""
    target: Target
    """The true activations."""
    source_method: str
    """Estimator of F_pred."""
    target_method: str
    """Estimator of F_true⁻¹."""

    @property
    def latents(self) -> int:
        """Number of latents it was fitted on."""
        return len(self.offsets) - 1

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """T_j of every column j, once for each distinct rating."""
        out = np.empty(predicted.shape, np.float32)
        for latent, column in enumerate(np.ascontiguousarray(predicted.T)):
            values, place, _ = distinct(column)
            out[:, latent] = self.curve(latent, values)[place]
        return out

    def curve(self, latent: int, x: Float[np.ndarray, " value"]) -> Float[np.ndarray, " value"]:
        """T_j at any ratings ``x``."""
        positive, total = self.target.of(latent), self.target.total
        if not len(positive):
            return np.zeros(x.shape)
        mine = slice(self.offsets[latent], self.offsets[latent + 1])
        p = probabilities(x, self.values[mine], self.counts[mine], estimator(self.source_method))
        return quantiles(p, positive, total, estimator(self.target_method))


@dataclass(frozen=True)
class Quantile(Calibrator):
    """Quantile normalisation; the paper does not name its estimator (numpy's default is type 7).

    With one type on both sides and F_true from the same windows as F_pred, types 4–9 are one and
    the same transform (rank k to order statistic k): the estimator matters only with a larger
    ``target`` sample, as in v1, or with two different types. KeyError for an unknown one.
    """

    source: str = "median_unbiased"
    """Estimator of F_pred: a method name of numpy.quantile, or type1 … type9."""
    target: str = "median_unbiased"
    """Estimator of F_true⁻¹."""

    def __post_init__(self) -> None:
        for name in (self.source, self.target):
            estimator(name)

    def fitted(self, sample: Sample) -> QuantileTransform:
        """Both distributions of every latent."""
        found = [distinct(column) for column in np.ascontiguousarray(sample.predicted.T)]
        return QuantileTransform(
            values=np.concatenate([one.values for one in found]),
            counts=np.concatenate([one.counts for one in found]).astype(np.int32),
            offsets=np.cumsum([0, *(len(one.values) for one in found)]),
            target=sample.target,
            source_method=self.source,
            target_method=self.target,
        )

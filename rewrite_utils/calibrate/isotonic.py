"""Calibrate by the conditional mean E[a | E], assumed to rise with E: it cannot lose to the mean.

Per latent (pool-adjacent-violators on the distinct ratings), pooled over latents in units of each
latent's scale, and the empirical-Bayes mixture of the two for latents with few activations.
Where: science.md's answer to the paper's question what should replace quantile normalisation.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import isotonic_regression

from rewrite_utils.calibrate.curves import Curves, Mix, SharedCurve
from rewrite_utils.calibrate.protocol import (
    Calibrator,
    Mapped,
    Sample,
    half,
    settled,
)
from rewrite_utils.calibrate.target import Target
from rewrite_utils.calibrate.ties import distinct, keys, values_of

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


class Knots(NamedTuple):
    """A piecewise linear curve."""

    x: Float[np.ndarray, " knot"]
    """Ratings, ascending."""
    y: Float[np.ndarray, " knot"]
    """What they mean."""


def isotonic_knots(
    values: Float[np.ndarray, " value"],
    weights: Float[np.ndarray, " value"],
    sums: Float[np.ndarray, " value"],
) -> Knots:
    """The rising curve f least in Σ w (sums/w − f(values))², as the ends of its flat pieces.

    The same as scikit-learn's IsotonicRegression (out_of_bounds="clip"): linear between two pieces.
    """
    fit = isotonic_regression(sums / weights, weights=weights)
    left, right = fit.blocks[:-1], fit.blocks[1:] - 1
    ends = np.unique(np.concatenate([left, right]))
    return Knots(values[ends].astype(np.float32), fit.x[ends].astype(np.float32))


def _latent_knots(column: np.ndarray, true: np.ndarray) -> Knots:
    values, counts = distinct(column)
    active = np.flatnonzero(true)
    where = np.searchsorted(values, column[active].astype(np.float32))
    sums = np.bincount(where, weights=true[active], minlength=len(values)).astype(np.float64)
    return isotonic_knots(values, counts.astype(np.float64), sums)


def _curves(predicted: np.ndarray, true: np.ndarray) -> Curves:
    columns, truths = np.ascontiguousarray(predicted.T), np.ascontiguousarray(true.T)
    knots = [_latent_knots(*pair) for pair in zip(columns, truths, strict=True)]
    return Curves(
        x=np.concatenate([k.x for k in knots]),
        y=np.concatenate([k.y for k in knots]),
        offsets=np.cumsum([0] + [len(k.x) for k in knots]),
    )


@dataclass(frozen=True)
class Isotonic(Calibrator):
    """E[a | E] of each latent from its own windows; its mean on them is the true mean."""

    def fitted(self, sample: Sample) -> Curves:
        """One curve a latent."""
        return _curves(sample.predicted, sample.true)


@dataclass(frozen=True)
class TwoPart(Calibrator):
    """P(active | E), isotonic per latent, × the latent's mean when active."""

    def fitted(self, sample: Sample) -> Curves:
        """One curve a latent."""
        active = _curves(sample.predicted, (sample.true > 0).astype(np.float32))
        size = np.repeat(sample.target.mean_active, np.diff(active.offsets))
        return replace(active, y=active.y * size)


class Units(NamedTuple):
    """How latents are made comparable before pooling."""

    scale: Float[np.ndarray, " latent"]
    """What one unit of the shared curve is."""
    weight: Float[np.ndarray, " latent"]
    """Weight of one window of this latent in the shared curve."""


def _pooled_table(sample: Sample, units: Units) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct ratings over all latents with their summed weights and weighted activations."""
    used = units.weight > 0
    predicted = np.ascontiguousarray(sample.predicted[:, used])
    weight, scale = units.weight[used], units.scale[used]
    if predicted.dtype == np.float16:
        values, place = values_of(np.arange(1 << 16)), keys(predicted)
    else:
        values, place = np.unique(predicted, return_inverse=True)
        place = place.reshape(predicted.shape)
    n = len(values)
    window, latent = np.nonzero(sample.true[:, used])
    share = sample.true[:, used][window, latent] * (weight / scale)[latent]
    sums = np.bincount(place[window, latent], weights=share, minlength=n)
    mass = np.bincount(
        place.ravel(), weights=np.broadcast_to(weight, predicted.shape).ravel(), minlength=n
    )
    kept = mass > 0
    return values[kept], mass[kept], sums[kept]


@dataclass(frozen=True)
class IsotonicPooled(Calibrator):
    """One rising curve for all latents, in units of each latent's scale, times that scale.

    With ``scale="mean"`` the curve is g(E) = E[a_j | E] / E[a_j]. If ratings of active and of
    silent windows are distributed alike over the latents, Bayes' rule for rare events gives exactly
    this form: a simulator that does not know how rare a latent is, is right up to a factor.
    ``"maximum"`` instead assumes that a rating means the same probability for frequent and rare
    latents.
    """

    scale: Literal["mean", "maximum"] = "mean"
    """Unit of the shared curve."""
    weighting: Literal["variance", "error"] = "variance"
    """scale² / E[a_j²] ("variance": every activation counts alike) or scale² ("error": least
    squares in activations, which never loses to the mean in-sample, but few latents decide)."""
    knots: Knots | None = None
    """The shared curve, once estimated."""

    def units(self, target: Target) -> Units:
        """Scale and weight of each latent; a latent that is silent in the target has weight 0."""
        scale = target.mean if self.scale == "mean" else target.maximum
        if self.weighting == "error":
            return Units(scale, scale.astype(np.float64) ** 2)
        spread = target.mean_square
        weight = np.divide(scale.astype(np.float64) ** 2, spread, where=spread > 0, out=spread * 0)
        return Units(scale, weight)

    def prepared(self, samples: Iterable[Sample]) -> "IsotonicPooled":
        """With the shared curve estimated from all samples together."""
        if self.knots is not None:
            return self
        super().prepared(samples)
        tables = [_pooled_table(sample, self.units(sample.target)) for sample in samples]
        values, mass, sums = (np.concatenate(parts) for parts in zip(*tables, strict=True))
        merged, place = np.unique(values, return_inverse=True)
        sums_of = [np.bincount(place, weights=part) for part in (mass, sums)]
        return replace(self, knots=isotonic_knots(merged, *sums_of))

    def fitted(self, sample: Sample) -> SharedCurve:
        """The shared curve with each latent's scale."""
        return SharedCurve(*settled(self.knots), self.units(sample.target).scale)


@dataclass(frozen=True)
class IsotonicShrunk(Calibrator):
    """n⁺/(n⁺ + κ) × the latent's own curve + κ/(n⁺ + κ) × the pooled one, n⁺ = its activations.

    κ is how many activations the pooled curve is worth: given, or the one of ``STRENGTHS`` with the
    least squared error when each half of the windows (first, second) is predicted from the other.
    """

    strength: float | None = None
    """κ; None: chosen on held-out halves."""
    pooled: IsotonicPooled = IsotonicPooled()
    """The curve that rare latents are drawn towards."""

    def prepared(self, samples: Iterable[Sample]) -> "IsotonicShrunk":
        """With the pooled curve and κ."""
        strength = self.strength
        if strength is None:
            errors = sum(self._errors(samples, held) for held in (0, 1))
            strength = STRENGTHS[int(np.argmin(errors))]
        return replace(self, strength=strength, pooled=self.pooled.prepared(samples))

    def fitted(self, sample: Sample) -> Mix:
        """The mixture."""
        positives = (sample.true > 0).sum(axis=0)
        share = (positives / np.maximum(positives + settled(self.strength), 1e-12)).astype(
            np.float32
        )
        own = _curves(sample.predicted, sample.true)
        return Mix(own, self.pooled.fitted(sample), share)

    def _errors(self, samples: Iterable[Sample], held: int) -> Float[np.ndarray, " strength"]:
        """Squared error on one half of the windows, for every strength, fitted on the other."""
        halves = Mapped(samples, lambda sample: half(sample, 1 - held))
        trained = replace(self, strength=1.0, pooled=self.pooled.prepared(halves))
        errors = np.zeros(len(STRENGTHS))
        for sample in samples:
            train, test = half(sample, 1 - held), half(sample, held)
            mix = trained.fitted(train)
            own, shared = mix.first.apply(test.predicted), mix.second.apply(test.predicted)
            positives = (train.true > 0).sum(axis=0)
            for i, strength in enumerate(STRENGTHS):
                estimate = shared + positives / (positives + strength) * (own - shared)
                errors[i] += np.square(test.true - estimate).sum()
        return errors

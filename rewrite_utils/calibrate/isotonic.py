"""Calibrate by the conditional mean E[a | E], assumed to rise with E: it cannot lose to the mean.

Per latent (pool-adjacent-violators on the distinct ratings), pooled over latents in units of each
latent's scale, and the empirical-Bayes mixture of the two for latents with few activations.
Where: science.md's answer to the paper's question what should replace quantile normalisation.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import isotonic_regression

from rewrite_utils.calibrate.curves import Curves, Mix, distinct, one_curve
from rewrite_utils.calibrate.protocol import Calibrator, Sample

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
    ends = np.unique(np.concatenate([fit.blocks[:-1], fit.blocks[1:] - 1]))
    return Knots(values[ends].astype(np.float32), fit.x[ends].astype(np.float32))


def _own_curves(sample: Sample, true: np.ndarray, scale: Float[np.ndarray, " latent"]) -> Curves:
    """A rising curve of each latent through ``true``, times ``scale``."""
    knots = []
    for column, truth in zip(np.ascontiguousarray(sample.predicted.T), true.T, strict=True):
        values, place, counts = distinct(column)
        sums = np.bincount(place, weights=truth, minlength=len(values))
        knots.append(isotonic_knots(values, counts.astype(np.float64), sums))
    x, y = (np.concatenate(parts) for parts in zip(*knots, strict=True))
    return Curves(x, y, np.cumsum([0, *(len(k.x) for k in knots)]), scale)


@dataclass(frozen=True)
class Isotonic(Calibrator):
    """E[a | E] of each latent from its own windows; its mean on them is the true mean."""

    def fitted(self, sample: Sample) -> Curves:
        """One curve a latent."""
        return _own_curves(sample, sample.true, np.ones(sample.true.shape[1], np.float32))


@dataclass(frozen=True)
class TwoPart(Calibrator):
    """P(active | E), isotonic per latent, × the latent's mean when active."""

    def fitted(self, sample: Sample) -> Curves:
        """One curve a latent."""
        return _own_curves(sample, sample.true > 0, sample.target.mean_active)


@dataclass(frozen=True)
class IsotonicPooled(Calibrator):
    """One rising curve for all latents, in units of each latent's mean, times that mean.

    The curve is g(E) = E[a_j | E] / E[a_j]. If ratings of active and of silent windows are
    distributed alike over the latents, Bayes' rule for rare events gives exactly this form: a
    simulator that does not know how rare a latent is, is right up to a factor. Weighted by
    E[a_j]² / E[a_j²], so that every activation counts alike; a latent that is silent in the target
    has weight 0.
    """

    def fitted(self, sample: Sample) -> Curves:
        """The curve of all latents together, with each one's mean."""
        mean, square = sample.target.mean.astype(np.float64), sample.target.mean_square
        weight = np.divide(mean**2, square, where=square > 0, out=0 * mean)
        used = weight > 0
        weight, relative = weight[used], sample.true[:, used] / mean[used]
        values, place, _ = distinct(np.ascontiguousarray(sample.predicted[:, used]))
        masses = (np.broadcast_to(weight, place.shape), weight * relative)
        sums = (np.bincount(place.ravel(), part.ravel()) for part in masses)
        return one_curve(*isotonic_knots(values, *sums), sample.target.mean)


@dataclass(frozen=True)
class IsotonicShrunk(Calibrator):
    """n⁺/(n⁺ + κ) × the latent's own curve + κ/(n⁺ + κ) × the pooled one, n⁺ = its activations.

    κ is how many activations the pooled curve is worth: given, or the one of ``STRENGTHS`` with the
    least squared error when each half of the windows (first, second) is predicted from the other.
    """

    strength: float | None = None
    """κ; None: chosen on held-out halves."""

    def fitted(self, sample: Sample) -> Mix:
        """The mixture."""
        strength = self.strength
        if strength is None:
            errors = _errors(sample, 0) + _errors(sample, 1)
            strength = STRENGTHS[int(np.argmin(errors))]
        positives = (sample.true > 0).sum(axis=0)
        share = positives / np.maximum(positives + strength, 1e-12)
        return Mix(*_own_and_pooled(sample), share.astype(np.float32))


def _own_and_pooled(sample: Sample) -> tuple[Curves, Curves]:
    return Isotonic().fitted(sample), IsotonicPooled().fitted_on(sample)


def _errors(sample: Sample, held: int) -> Float[np.ndarray, " strength"]:
    """Squared error on one half of the windows, for every strength, fitted on the other."""
    train, test, errors = sample.half(1 - held), sample.half(held), np.zeros(len(STRENGTHS))
    own, other = (curves.apply(test.predicted) for curves in _own_and_pooled(train))
    positives = (train.true > 0).sum(axis=0)
    for i, strength in enumerate(STRENGTHS):
        estimate = other + positives / (positives + strength) * (own - other)
        errors[i] = np.square(test.true - estimate).sum()
    return errors

"""Calibrators around another one: what goes into it is changed, or what comes out.

Centring (a window's ratings), standardising (a latent's), only the same windows for F_true; a cap
on the estimates, and one shrink factor for all. The simulator's mean rating drifts with the text;
subtracting each window's mean took the AUROC across latents from .61 to .77 in the probe. In and
out: ratings; after a step they may leave [0, 9].
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from rewrite_utils.calibrate.curves import Mean, Mix
from rewrite_utils.calibrate.protocol import (
    CalibrationError,
    Calibrator,
    Digits,
    Rated,
    Sample,
    Transform,
)


@dataclass(frozen=True)
class Around(Calibrator):
    """A calibrator around another one; this one hands everything on."""

    inner: Calibrator
    """The calibrator inside."""

    @property
    def reads_digits(self) -> bool:
        """As the inner one."""
        return self.inner.reads_digits

    def changed(self, sample: Sample) -> Sample:
        """What the inner calibrator sees of a sample."""
        return sample

    def fitted(self, sample: Sample) -> Transform:
        """The inner transform of the changed sample."""
        return self.inner.fitted_on(self.changed(sample))


@dataclass(frozen=True)
class AroundTransform(Transform):
    """A transform around another one."""

    inner: Transform
    """What is inside."""

    @property
    def latents(self) -> int:
        """Number of latents it was fitted on."""
        return self.inner.latents


def center(predicted: Rated, *, level: float | None = None) -> Rated:
    """E minus its window's mean over the latents plus ``level`` (default: the mean of all of E).

    Ratings of new windows take the calibration windows' ``level``, or they would move with their
    batch. float16 stays float16: no more is known of E.
    """
    means = predicted.mean(axis=1, dtype=np.float64, keepdims=True)
    shift = (means.mean() if level is None else level) - means
    return (predicted + shift).astype(predicted.dtype)


@dataclass(frozen=True)
class CentredTransform(AroundTransform):
    """Centre, then transform."""

    level: Float[np.ndarray, ""]
    """Mean rating of the calibration windows."""

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """The inner transform of the centred ratings."""
        return self.inner.apply(center(predicted, level=float(self.level)), digits)


@dataclass(frozen=True)
class Centred(Around):
    """Subtract each window's mean rating; needs all latents of a window."""

    def changed(self, sample: Sample) -> Sample:
        """Centred at the sample's own level."""
        if sample.predicted.shape[1] < 2:
            raise CalibrationError("centring over 1 latent leaves nothing; rate at least 2 latents")
        return replace(sample, predicted=center(sample.predicted))

    def fitted(self, sample: Sample) -> CentredTransform:
        """The inner transform behind centring at this sample's level."""
        level = np.array(sample.predicted.mean(dtype=np.float64), np.float32)
        return CentredTransform(super().fitted(sample), level)


@dataclass(frozen=True)
class StandardisedTransform(AroundTransform):
    """(E − mean_j) / deviation_j, then transform."""

    mean: Float[np.ndarray, " latent"]
    """Mean rating of each latent in the calibration windows."""
    deviation: Float[np.ndarray, " latent"]
    """Its standard deviation (1 where the ratings are constant)."""

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """The inner transform of the standardised ratings."""
        moved = ((predicted - self.mean) / self.deviation).astype(predicted.dtype)
        return self.inner.apply(moved, digits)


@dataclass(frozen=True)
class Standardised(Around):
    """Give each latent's ratings mean 0 and deviation 1: pooling then compares like with like."""

    def changed(self, sample: Sample) -> Sample:
        """Standardised by the sample's own moments."""
        mean, deviation = _moments(sample.predicted)
        moved = ((sample.predicted - mean) / deviation).astype(sample.predicted.dtype)
        return replace(sample, predicted=moved)

    def fitted(self, sample: Sample) -> StandardisedTransform:
        """The inner transform behind standardising by this sample's moments."""
        return StandardisedTransform(super().fitted(sample), *_moments(sample.predicted))


def _moments(ratings: Rated) -> tuple[np.ndarray, np.ndarray]:
    mean, deviation = (f(ratings, axis=0, dtype=np.float64) for f in (np.mean, np.std))
    return mean.astype(np.float32), np.where(deviation > 1e-6, deviation, 1).astype(np.float32)


@dataclass(frozen=True)
class SameWindows(Around):
    """Everything from the rated windows alone, F_true too, as in v2; v1 reads it from all."""

    def changed(self, sample: Sample) -> Sample:
        """Without the larger sample of true activations."""
        return replace(sample, larger=None)


@dataclass(frozen=True)
class CappedTransform(AroundTransform):
    """min(inner, top) of each latent."""

    top: Float[np.ndarray, " latent"]
    """The largest estimate of each latent."""

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """The inner estimates, none above ``top``."""
        return np.minimum(self.inner.apply(predicted, digits), self.top)


@dataclass(frozen=True)
class Capped(Around):
    """E[a | E] = P(active | E) · E[a | active, E] ≤ E[a | active], if E says whether, not how much.

    A curve pooled in units of the latents' means rests, at its top, on one activation of a rare
    latent, which is 1/rate of those means; given to a frequent latent it says P(active) = 60. A
    latent that is silent in the target sample is cut to 0. It adds no parameter to estimate.
    """

    def fitted(self, sample: Sample) -> CappedTransform:
        """The inner transform below each latent's mean when active."""
        return CappedTransform(super().fitted(sample), sample.target.mean_active)


@dataclass(frozen=True)
class GlobalShrink(Around):
    """mean + factor × (inner − mean), one factor for all latents.

    At factor 0 it is mean ablation: a best factor whose interval excludes 0 says that the sentences
    carry something. Chosen here by the least held-out squared error, Σ(t−m)(a−m) / Σ(t−m)² ≥ 0 over
    the two halves of the windows; to choose on a loss of one's own, replace the ``share``.
    """

    def fitted(self, sample: Sample) -> Mix:
        """The mixture of inner and mean."""
        over, under = self._moments_of(sample, 0) + self._moments_of(sample, 1)
        factor = max(over / under, 0.0) if under > 0 else 0.0
        share = np.full(sample.true.shape[1], factor, np.float32)
        return Mix(self.inner.fitted_on(sample), Mean().fitted(sample), share)

    def _moments_of(self, sample: Sample, held: int) -> Float[np.ndarray, " two"]:
        """Σ(t−m)(a−m) and Σ(t−m)² on one half of the windows, fitted on the other."""
        train, test = sample.half(1 - held), sample.half(held)
        mean = train.target.mean
        moved = self.inner.fitted_on(train).apply(test.predicted, test.digits) - mean
        return np.array([(moved * (test.true - mean)).sum(), np.square(moved, dtype=float).sum()])

"""Done to the sample before a calibrator sees it: centring (window), standardising (latent), or
leaving the larger sample of true activations out.

The simulator's mean rating drifts with the text; subtracting each window's mean over the latents
took the AUROC across latents from .61 to .77 in the probe. In and out: ratings; after a step they
may leave [0, 9].
"""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from rewrite_utils.calibrate.protocol import (
    Around,
    CalibrationError,
    Digits,
    Mapped,
    Rated,
    Sample,
    Transform,
)


def center(
    predicted: Float[np.ndarray, "window latent"], *, level: float | None = None
) -> Float[np.ndarray, "window latent"]:
    """E minus its window's mean over the latents plus ``level`` (default: the mean of all of E).

    Ratings of new windows take the calibration windows' ``level``, or they would move with their
    batch. float16 stays float16: no more is known of E.
    """
    means = predicted.mean(axis=1, dtype=np.float64, keepdims=True)
    shift = (means.mean() if level is None else level) - means
    return (predicted + shift).astype(predicted.dtype)


@dataclass(frozen=True)
class CentredTransform(Transform):
    """Centre, then transform."""

    level: Float[np.ndarray, ""]
    """Mean rating of the calibration windows."""
    inner: Transform
    """What follows."""

    @property
    def latents(self) -> int:
        """Number of latents it was fitted on."""
        return self.inner.latents

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """The inner transform of the centred ratings."""
        return self.inner.apply(center(predicted, level=float(self.level)), digits)


@dataclass(frozen=True)
class StandardisedTransform(Transform):
    """(E − mean_j) / deviation_j, then transform."""

    mean: Float[np.ndarray, " latent"]
    """Mean rating of each latent in the calibration windows."""
    deviation: Float[np.ndarray, " latent"]
    """Its standard deviation (1 where the ratings are constant)."""
    inner: Transform
    """What follows."""

    @property
    def latents(self) -> int:
        """Number of latents it was fitted on."""
        return self.inner.latents

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """The inner transform of the standardised ratings."""
        return self.inner.apply(_standard(predicted, self.mean, self.deviation), digits)


def _standard(predicted: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return ((predicted - mean) / deviation).astype(predicted.dtype)


@dataclass(frozen=True)
class Step(Around):
    """A calibrator that changes the ratings and hands them on."""

    @abstractmethod
    def changed(self, sample: Sample) -> Sample:
        """The sample with the changed ratings."""

    def prepared(self, samples: Iterable[Sample]) -> "Step":
        """With the inner calibrator prepared on changed ratings."""
        return replace(self, inner=self.inner.prepared(Mapped(samples, self.changed)))


@dataclass(frozen=True)
class Centred(Step):
    """Subtract each window's mean rating; needs all latents of a window."""

    whole_windows = True

    def changed(self, sample: Sample) -> Sample:
        """Centred at the sample's own level."""
        if sample.predicted.shape[1] < 2:
            raise CalibrationError("centring over 1 latent leaves nothing; rate at least 2 latents")
        return replace(sample, predicted=center(sample.predicted))

    def fitted(self, sample: Sample) -> CentredTransform:
        """The inner transform behind centring at this sample's level."""
        level = np.array(sample.predicted.mean(dtype=np.float64), np.float32)
        return CentredTransform(level, self.inner.fitted(self.changed(sample)))


@dataclass(frozen=True)
class Standardised(Step):
    """Give each latent's ratings mean 0 and deviation 1: pooling then compares like with like."""

    def changed(self, sample: Sample) -> Sample:
        """Standardised by the sample's own moments."""
        return replace(sample, predicted=_standard(sample.predicted, *_moments(sample)))

    def fitted(self, sample: Sample) -> StandardisedTransform:
        """The inner transform behind standardising by this sample's moments."""
        return StandardisedTransform(*_moments(sample), self.inner.fitted(self.changed(sample)))


@dataclass(frozen=True)
class SameWindows(Step):
    """Everything from the rated windows alone, F_true too, as in v2; v1 reads it from all."""

    def changed(self, sample: Sample) -> Sample:
        """Without the larger sample of true activations."""
        return replace(sample, larger=None)

    def fitted(self, sample: Sample) -> Transform:
        """The inner transform itself: the ratings stay what they are."""
        return self.inner.fitted(self.changed(sample))


def _moments(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    ratings = sample.predicted.astype(np.float32)
    deviation = ratings.std(axis=0, dtype=np.float64)
    mean = ratings.mean(axis=0, dtype=np.float64)
    return mean.astype(np.float32), np.where(deviation > 1e-6, deviation, 1).astype(np.float32)

"""Calibrators with few numbers: raw, mean and the pooled logistic.

In: ratings and true activations. Out: curves. ``raw`` is the paper's simulation without
normalisation, ``mean`` is mean ablation as a calibrator.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import expit, logit

from rewrite_utils.calibrate.curves import Curves, one_curve
from rewrite_utils.calibrate.protocol import (
    TOP,
    CalibrationError,
    Calibrator,
    Digits,
    Rated,
    Sample,
    Samples,
    Transform,
)


@dataclass(frozen=True)
class Raw(Calibrator):
    """E / 9 × the latent's maximum: no calibration (method.md §5)."""

    def fitted(self, sample: Sample, shared: None) -> Curves:
        """With the maximum of the target sample."""
        return one_curve(np.array([0, TOP]), np.array([0, 1]), sample.target.maximum)


@dataclass(frozen=True)
class Mean(Calibrator):
    """The latent's mean, whatever the rating: mean ablation as a calibrator."""

    def fitted(self, sample: Sample, shared: None) -> Curves:
        """With the mean of the target sample."""
        return one_curve(np.array([0]), np.array([1]), sample.target.mean)


@dataclass(frozen=True)
class Logistic(Transform):
    """P(active | E) × mean when active, with P = σ(offset_j + slope × E)."""

    offset: Float[np.ndarray, " latent"]
    """Log-odds at E = 0."""
    slope: Float[np.ndarray, ""]
    """Log-odds a digit, shared by all latents."""
    scale: Float[np.ndarray, " latent"]
    """Mean activation when active."""

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """Probability times size."""
        odds = self.offset + self.slope * predicted.astype(np.float32)
        return (self.scale * expit(odds)).astype(np.float32)


@dataclass(frozen=True)
class LogisticPooled(Calibrator):
    """P(active) = σ(logit(rate_j) + a + b E) × mean when active; a and b shared by all latents.

    Maximum likelihood by Newton steps, with a weak normal prior (``ridge``) so that it stays finite
    when the ratings separate the activations.
    """

    ridge: float = 1e-3
    """Precision of the prior on a and b."""

    def shared(self, samples: Samples) -> Float[np.ndarray, " two"]:
        """a and b, estimated from all samples together."""
        super().shared(samples)
        line = np.zeros(2)
        for _ in range(100):
            step = self._newton(samples, line)
            line = line + step
            if np.abs(step).max() < 1e-8:
                return line
        raise CalibrationError(f"the pooled logistic did not settle (a, b = {line}); raise ridge")

    def fitted(self, sample: Sample, shared: Float[np.ndarray, " two"]) -> Logistic:
        """With each latent's rate and size."""
        at_zero, slope = shared.astype(np.float32)
        offset = logit(sample.target.smoothed_rate) + at_zero
        return Logistic(offset.astype(np.float32), np.array(slope), sample.target.mean_active)

    def _newton(
        self, samples: Samples, line: Float[np.ndarray, " two"]
    ) -> Float[np.ndarray, " two"]:
        """One step, shortened as a whole to at most 1: clipped apart, a and b may go in circles."""
        gradient, curvature = -self.ridge * line, self.ridge * np.eye(2)
        for sample in samples():
            e = sample.predicted.astype(np.float64)
            p = expit(logit(sample.target.smoothed_rate) + line[0] + line[1] * e)
            error, spread = (sample.true > 0) - p, p * (1 - p)
            gradient += np.array([error.sum(), (error * e).sum()])
            cross = (spread * e).sum()
            curvature += np.array([[spread.sum(), cross], [cross, (spread * e**2).sum()]])
        step = np.linalg.solve(curvature, gradient)
        return step / max(np.abs(step).max(), 1.0)

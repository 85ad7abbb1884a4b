"""Calibrators with few numbers: raw, mean, pooled logistic, and one global shrink factor.

In: ratings and true activations. Out: transforms of curves.py. ``raw`` is the paper's simulation
without normalisation; ``global_shrink`` asks whether any share of another calibrator beats mean
ablation.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from rewrite_utils.calibrate.curves import Constant, Logistic, Mix, Proportional
from rewrite_utils.calibrate.protocol import (
    Around,
    CalibrationError,
    Calibrator,
    Mapped,
    Sample,
    half,
    settled,
)


@dataclass(frozen=True)
class Raw(Calibrator):
    """E / 9 × the latent's maximum: no calibration (method.md §5)."""

    def fitted(self, sample: Sample) -> Proportional:
        """With the maximum of the target sample."""
        return Proportional(sample.target.maximum)


@dataclass(frozen=True)
class Mean(Calibrator):
    """The latent's mean, whatever the rating: mean ablation as a calibrator."""

    def fitted(self, sample: Sample) -> Constant:
        """With the mean of the target sample."""
        return Constant(sample.target.mean)


@dataclass(frozen=True)
class GlobalShrink(Around):
    """mean + factor × (inner − mean), one factor for all latents.

    At factor 0 it is mean ablation: a best factor whose interval excludes 0 says that the sentences
    carry something. Chosen here by the least held-out squared error, Σ(t−m)(a−m) / Σ(t−m)² ≥ 0 over
    the two halves of the windows; to choose on held-out CE, call ``at_factor`` on the transform.
    """

    factor: float | None = None
    """The factor; None: chosen on held-out halves."""

    def prepared(self, samples: Iterable[Sample]) -> "GlobalShrink":
        """With the inner calibrator prepared and the factor chosen."""
        factor = self.factor
        if factor is None:
            over, under = self._moments(samples, 0) + self._moments(samples, 1)
            factor = max(over / under, 0.0) if under > 0 else 0.0
        return replace(self, inner=self.inner.prepared(samples), factor=float(factor))

    def fitted(self, sample: Sample) -> Mix:
        """The mixture of inner and mean."""
        share = np.full(sample.true.shape[1], self.factor, np.float32)
        return Mix(self.inner.fitted(sample), Constant(sample.target.mean), share)

    def _moments(self, samples: Iterable[Sample], held: int) -> Float[np.ndarray, " two"]:
        """Σ(t−m)(a−m) and Σ(t−m)² on one half of the windows, fitted on the other."""
        inner = self.inner.prepared(Mapped(samples, lambda sample: half(sample, 1 - held)))
        moments = np.zeros(2)
        for sample in samples:
            train, test = half(sample, 1 - held), half(sample, held)
            mean = train.target.mean
            moved = inner.fitted(train).apply(test.predicted, test.digits) - mean
            moments += (moved * (test.true - mean)).sum(), np.square(moved, dtype=float).sum()
        return moments


def at_factor(transform: Mix, factor: float) -> Mix:
    """A fitted ``GlobalShrink`` with another factor, for choosing it on a loss of one's own."""
    return replace(transform, share=np.full_like(transform.share, factor))


@dataclass(frozen=True)
class LogisticPooled(Calibrator):
    """P(active) = σ(logit(rate_j) + a + b E) × mean when active; a and b shared by all latents.

    Maximum likelihood by Newton steps, with a weak normal prior (``ridge``) so that it stays finite
    when the ratings separate the activations.
    """

    ridge: float = 1e-3
    """Precision of the prior on a and b."""
    line: Float[np.ndarray, " two"] | None = None
    """a and b, once estimated."""

    def prepared(self, samples: Iterable[Sample]) -> "LogisticPooled":
        """With a and b estimated from all samples together."""
        if self.line is not None:
            return self
        super().prepared(samples)
        line = np.zeros(2)
        for _ in range(100):
            step = self._newton(samples, line)
            line = line + step
            if np.abs(step).max() < 1e-8:
                return replace(self, line=line)
        raise CalibrationError(f"the pooled logistic did not settle (a, b = {line}); raise ridge")

    def fitted(self, sample: Sample) -> Logistic:
        """With each latent's rate and size."""
        at_zero, slope = settled(self.line).astype(np.float32)
        offset = _logit(sample.target.smoothed_rate) + at_zero
        return Logistic(offset.astype(np.float32), np.array(slope), sample.target.mean_active)

    def _newton(
        self, samples: Iterable[Sample], line: Float[np.ndarray, " two"]
    ) -> Float[np.ndarray, " two"]:
        """One step, shortened as a whole to at most 1: clipped apart, a and b may go in circles."""
        gradient, curvature = -self.ridge * line, self.ridge * np.eye(2)
        for sample in samples:
            e = sample.predicted.astype(np.float64)
            odds = _logit(sample.target.smoothed_rate) + line[0] + line[1] * e
            p = 1 / (1 + np.exp(-odds))
            error, spread = (sample.true > 0) - p, p * (1 - p)
            gradient += np.array([error.sum(), (error * e).sum()])
            cross = (spread * e).sum()
            curvature += np.array([[spread.sum(), cross], [cross, (spread * e**2).sum()]])
        step = np.linalg.solve(curvature, gradient)
        return step / max(np.abs(step).max(), 1.0)


def _logit(p: Float[np.ndarray, " latent"]) -> Float[np.ndarray, " latent"]:
    return np.log(p / (1 - p))

"""Calibrators with few numbers: the pooled logistic, and two that correct the digits' probabilities
themselves (prior shift by the firing rate, temperature).

In: ratings, or [window latent digit] probabilities beside them. Out: P(active) × size, or a
corrected expected digit / 9 × the latent's maximum. The simulator spreads digits as if latents were
common; the last two say how much that is it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import fminbound
from scipy.special import expit, logit

from rewrite_utils.calibrate.protocol import (
    DIGITS,
    TOP,
    CalibrationError,
    Calibrator,
    Digits,
    Rated,
    Sample,
    Transform,
    Truth,
)

FLOOR = 1e-6


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

    def fitted(self, sample: Sample) -> Logistic:
        """a and b of all latents together, with each one's rate and size."""
        line = np.zeros(2)
        for _ in range(100):
            step = self._newton(sample, line)
            line = line + step
            if np.abs(step).max() < 1e-8:
                break
        else:
            raise CalibrationError(
                f"the pooled logistic did not settle (a, b = {line}); raise ridge"
            )
        at_zero, slope = line.astype(np.float32)
        offset = logit(sample.target.smoothed_rate) + at_zero
        return Logistic(offset.astype(np.float32), np.array(slope), sample.target.mean_active)

    def _newton(self, sample: Sample, line: Float[np.ndarray, " two"]) -> Float[np.ndarray, " two"]:
        """One step, shortened as a whole to at most 1: clipped apart, a and b may go in circles."""
        e = sample.predicted.astype(np.float64)
        p = expit(logit(sample.target.smoothed_rate) + line[0] + line[1] * e)
        error, spread = (sample.true > 0) - p, p * (1 - p)
        gradient = np.array([error.sum(), (error * e).sum()]) - self.ridge * line
        cross = (spread * e).sum()
        curvature = np.array([[spread.sum(), cross], [cross, (spread * e**2).sum()]])
        step = np.linalg.solve(curvature + self.ridge * np.eye(2), gradient)
        return step / max(np.abs(step).max(), 1.0)


# ── the digits' probabilities ─────────────────────────────────────────────────────────────────────


def needed(digits: Digits, who: str) -> Float[np.ndarray, "window latent digit"]:
    """The digit probabilities, or an error that says who needs them."""
    if digits is None:
        raise CalibrationError(
            f"{who} reads the ten digits' probabilities: pass digits=[window latent digit]"
        )
    return digits


@dataclass(frozen=True)
class DigitShift(Transform):
    """p′(d) ∝ p(d)^power × ratio_j(d); activation = Σ p′(d) d / 9 × maximum."""

    ratio: Float[np.ndarray, "latent digit"]
    """True over simulated frequency of each digit (1 where nothing shifts)."""
    power: Float[np.ndarray, ""]
    """1 / temperature."""
    scale: Float[np.ndarray, " latent"]
    """The latent's largest activation."""

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """The corrected expected digit, as an activation."""
        p = needed(digits, "this transform") ** self.power * self.ratio
        expected = p @ np.arange(DIGITS, dtype=np.float32) / p.sum(axis=-1)
        return (expected / TOP * self.scale).astype(np.float32)


def true_digits(
    true: Truth, maximum: Float[np.ndarray, " latent"]
) -> Int[np.ndarray, "window latent"]:
    """The digit an activation deserves: 0 when silent, else ⌈9 a / maximum⌉ in 1 … 9."""
    scaled = TOP * true / np.where(maximum > 0, maximum, 1)
    return np.where(true > 0, np.clip(np.ceil(scaled), 1, TOP), 0).astype(np.int64)


@dataclass(frozen=True)
class PriorShift(Calibrator):
    """p′(d) ∝ p(d) π_j(d) / q_j(d) (Saerens et al. 2002, one step).

    q_j is the latent's mean simulated distribution over the calibration windows; π_j puts the
    firing rate on the digits 1 … 9, divided as the true digits of all latents together are, each
    count plus one.
    """

    reads_digits = True

    def fitted(self, sample: Sample) -> DigitShift:
        """The frequency ratios of every latent."""
        digits, target = needed(sample.digits, "prior_shift"), sample.target
        counts = np.bincount(true_digits(sample.true, target.maximum).ravel(), minlength=DIGITS)
        when_active = np.where(np.arange(DIGITS) > 0, 1.0 + counts, 0)
        rate = target.smoothed_rate[:, None]
        prior = rate * (when_active / when_active.sum()) + (1 - rate) * (np.arange(DIGITS) == 0)
        simulated = np.maximum(digits.mean(axis=0, dtype=np.float64), FLOOR)
        ratio = (prior / simulated).astype(np.float32)
        return DigitShift(ratio, np.array(1.0, np.float32), target.maximum)


@dataclass(frozen=True)
class Temperature(Calibrator):
    """p′(d) ∝ p(d)^(1/T), with the one T most likely to give the true digits (1/20 … 20)."""

    reads_digits = True

    def fitted(self, sample: Sample) -> DigitShift:
        """T with each latent's maximum."""
        log_p = np.log(np.maximum(needed(sample.digits, "temperature"), FLOOR))
        label = true_digits(sample.true, sample.target.maximum)[..., None]

        def surprise(log_t: float) -> float:
            """Σ −log p′(true digit)."""
            tempered = np.exp(-log_t) * log_p
            chosen = np.take_along_axis(tempered, label, axis=-1)[..., 0]
            return float((np.log(np.exp(tempered).sum(axis=-1)) - chosen).sum())

        temperature = np.exp(fminbound(surprise, -np.log(20), np.log(20)))
        ratio = np.ones((sample.true.shape[1], DIGITS), np.float32)
        return DigitShift(ratio, np.array(1 / temperature, np.float32), sample.target.maximum)

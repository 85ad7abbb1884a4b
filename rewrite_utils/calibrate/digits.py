"""Calibrate the digits' probabilities themselves: prior shift by the firing rate, and temperature.

In: [window latent digit] probabilities beside the ratings. Out: a corrected expected digit / 9 ×
the latent's maximum. The simulator spreads digits as if latents were common; these two say how much
that is it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import fminbound

from rewrite_utils.calibrate.protocol import (
    DIGITS,
    TOP,
    CalibrationError,
    Calibrator,
    Digits,
    Rated,
    Sample,
    Samples,
    Transform,
    Truth,
)

FLOOR = 1e-6


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
    firing rate on the digits 1 … 9, divided as the true digits of all latents together are.
    """

    reads_digits = True

    def shared(self, samples: Samples) -> Float[np.ndarray, " digit"]:
        """How the true digits of active windows are distributed, each count plus one."""
        super().shared(samples)
        counts = np.ones(DIGITS)
        for sample in samples():
            found = true_digits(sample.true, sample.target.maximum)
            counts += np.bincount(found.ravel(), minlength=DIGITS)
        counts[0] = 0
        return counts / counts.sum()

    def fitted(self, sample: Sample, shared: Float[np.ndarray, " digit"]) -> DigitShift:
        """The frequency ratios of every latent."""
        digits = needed(sample.digits, "prior_shift")
        simulated = np.maximum(digits.mean(axis=0, dtype=np.float64), FLOOR)
        rate = sample.target.smoothed_rate[:, None]
        prior = rate * shared + (1 - rate) * (np.arange(DIGITS) == 0)
        ratio = (prior / simulated).astype(np.float32)
        return DigitShift(ratio, np.array(1.0, np.float32), sample.target.maximum)


@dataclass(frozen=True)
class Temperature(Calibrator):
    """p′(d) ∝ p(d)^(1/T), with the one T most likely to give the true digits (1/20 … 20)."""

    reads_digits = True
    temperature: float | None = None
    """T; None: maximum likelihood."""

    def shared(self, samples: Samples) -> float:
        """T."""
        super().shared(samples)
        if self.temperature is not None:
            return self.temperature

        def surprise(log_t: float) -> float:
            return sum(_surprise(sample, np.exp(-log_t)) for sample in samples())

        return float(np.exp(fminbound(surprise, -np.log(20), np.log(20))))

    def fitted(self, sample: Sample, shared: float) -> DigitShift:
        """T with each latent's maximum."""
        ratio = np.ones((sample.true.shape[1], DIGITS), np.float32)
        return DigitShift(ratio, np.array(1 / shared, np.float32), sample.target.maximum)


def _surprise(sample: Sample, power: float) -> float:
    """Σ −log p′(true digit)."""
    log_p = power * np.log(np.maximum(needed(sample.digits, "temperature"), FLOOR))
    label = true_digits(sample.true, sample.target.maximum)
    chosen = np.take_along_axis(log_p, label[..., None], axis=-1)[..., 0]
    return float((np.log(np.exp(log_p).sum(axis=-1)) - chosen).sum())

"""Calibrate the digits' probabilities themselves: prior shift by the firing rate, and temperature.

In: [window latent digit] probabilities beside the ratings. Out: a corrected expected digit / 9 ×
the latent's maximum. The simulator spreads digits as if latents were common; these two say how much
that is it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import fminbound

from rewrite_utils.calibrate.protocol import (
    DIGITS,
    TOP,
    Calibrator,
    Digits,
    Rated,
    Sample,
    Transform,
    needed_digits,
    settled,
)

FLOOR = 1e-6


@dataclass(frozen=True)
class DigitShift(Transform):
    """p′(d) ∝ p(d)^power × ratio_j(d); activation = Σ p′(d) d / 9 × maximum."""

    ratio: Float[np.ndarray, "latent digit"]
    """True over simulated frequency of each digit (1 where nothing shifts)."""
    power: Float[np.ndarray, ""]
    """1 / temperature."""
    maximum: Float[np.ndarray, " latent"]
    """The latent's largest activation."""

    @property
    def latents(self) -> int:
        """Number of latents it was fitted on."""
        return len(self.maximum)

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """The corrected expected digit, as an activation."""
        p = needed_digits(digits, "this transform") ** self.power * self.ratio
        expected = p @ np.arange(DIGITS, dtype=np.float32) / p.sum(axis=-1)
        return (expected / TOP * self.maximum).astype(np.float32)


def true_digits(
    true: Float[np.ndarray, "window latent"], maximum: Float[np.ndarray, " latent"]
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
    shape: Float[np.ndarray, " digit"] | None = None
    """How the true digits of active windows are distributed, once estimated; 0 for the digit 0."""

    def prepared(self, samples: Iterable[Sample]) -> "PriorShift":
        """With that distribution, each count plus one."""
        if self.shape is not None:
            return self
        super().prepared(samples)
        counts = np.ones(DIGITS)
        for sample in samples:
            found = true_digits(sample.true, sample.target.maximum)
            counts += np.bincount(found.ravel(), minlength=DIGITS)
        counts[0] = 0
        return replace(self, shape=counts / counts.sum())

    def fitted(self, sample: Sample) -> DigitShift:
        """The frequency ratios of every latent."""
        digits = needed_digits(sample.digits, "prior_shift")
        simulated = np.maximum(digits.mean(axis=0, dtype=np.float64), FLOOR)
        rate = sample.target.smoothed_rate[:, None]
        prior = rate * settled(self.shape) + (1 - rate) * (np.arange(DIGITS) == 0)
        ratio = (prior / simulated).astype(np.float32)
        return DigitShift(ratio, np.array(1.0, np.float32), sample.target.maximum)


@dataclass(frozen=True)
class Temperature(Calibrator):
    """p′(d) ∝ p(d)^(1/T), with the one T most likely to give the true digits (1/20 … 20)."""

    reads_digits = True
    temperature: float | None = None
    """T; None: maximum likelihood."""

    def prepared(self, samples: Iterable[Sample]) -> "Temperature":
        """With T."""
        super().prepared(samples)
        if self.temperature is not None:
            return self
        log_t = fminbound(
            lambda log_t: sum(_surprise(s, np.exp(-log_t)) for s in samples),
            -np.log(20),
            np.log(20),
        )
        return replace(self, temperature=float(np.exp(log_t)))

    def fitted(self, sample: Sample) -> DigitShift:
        """T with each latent's maximum."""
        needed_digits(sample.digits, "temperature")
        ratio = np.ones((sample.true.shape[1], DIGITS), np.float32)
        power = np.array(1 / settled(self.temperature), np.float32)
        return DigitShift(ratio, power, sample.target.maximum)


def _surprise(sample: Sample, power: float) -> float:
    """Σ −log p′(true digit)."""
    digits = needed_digits(sample.digits, "temperature")
    log_p = power * np.log(np.maximum(digits, FLOOR))
    label = true_digits(sample.true, sample.target.maximum)
    chosen = np.take_along_axis(log_p, label[..., None], axis=-1)[..., 0]
    return float((np.log(np.exp(log_p).sum(axis=-1)) - chosen).sum())

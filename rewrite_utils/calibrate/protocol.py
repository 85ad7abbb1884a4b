"""What a calibration is: ``Calibrator.fit(predicted, true) -> Transform``; then ``(predicted)``.

In: the simulator's expected digits E in [0, 9] (window × latent; NaN = not simulated, an error) and
the true activations (≥ 0, mostly exact zeros). Out: estimated activations, float32. Knows no LLM,
no splicing. Where in the paper: "quantile normalisation" and the open question of what should
replace it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from rewrite_utils.calibrate.target import Target

DIGITS = 10
TOP = 9.0
T = TypeVar("T")


Rated = Float[np.ndarray, "window latent"]
"""Ratings, or the activations they are turned into."""
Digits = Float[np.ndarray, "window latent digit"] | None
"""Probability of each digit, where a calibrator reads them."""


class CalibrationError(ValueError):
    """Ratings or activations that nothing can be fitted on; the message says which and why."""


def check_ratings(predicted: np.ndarray, *, latents: int | None = None) -> None:
    """Raise unless ``predicted`` is a complete [window latent] array of numbers in [0, 9]."""
    if predicted.ndim != 2:
        raise CalibrationError(f"predicted has shape {predicted.shape}; expected [window latent]")
    if latents is not None and predicted.shape[1] != latents:
        raise CalibrationError(
            f"predicted has {predicted.shape[1]} latents, the transform was fitted on {latents}; "
            "pass the same latents in the same order"
        )
    if predicted.size == 0 or _plainly_digits(predicted):
        return
    low, high = predicted.min(), predicted.max()
    if np.isnan(low):
        missing = int(np.isnan(predicted).sum())
        raise CalibrationError(
            f"{missing} of {predicted.size} predictions are NaN (not simulated); "
            "pass only windows and latents that were simulated"
        )
    if low < 0 or high > TOP:
        raise CalibrationError(
            f"predictions reach from {low} to {high}; expected digits E in [0, 9], "
            "not activations or probabilities × 100"
        )


def _plainly_digits(predicted: np.ndarray) -> bool:
    """A quick yes for float16: the bits of 0 … 9 are the smallest, NaN and negatives are above."""
    return predicted.dtype == np.float16 and bool(
        predicted.view(np.uint16).max() <= np.float16(TOP).view(np.uint16)
    )


def check_pair(predicted: np.ndarray, true: np.ndarray) -> None:
    """Raise unless a calibrator can be fitted on this pair (both [window latent])."""
    check_ratings(predicted)
    if predicted.shape != true.shape:
        raise CalibrationError(
            f"predicted is {predicted.shape} and true is {true.shape}; "
            "both must be [window latent] for the same windows and latents"
        )
    if len(predicted) < 2:
        raise CalibrationError(
            f"{len(predicted)} calibration window(s); a calibrator needs at least 2"
        )
    if (predicted == predicted.flat[0]).all():
        raise CalibrationError(
            f"all {predicted.size} predictions are {predicted.flat[0]}: the simulator said "
            "nothing; check its prompt and the digit tokens"
        )


@dataclass(frozen=True)
class Sample:
    """What a calibrator is fitted on: a block of latents on the calibration windows."""

    predicted: Float[np.ndarray, "window latent"]
    """Expected digits E (float16 or float32); after a step such as centring no longer in [0, 9]."""
    true: Num[np.ndarray, "window latent"]
    """True activations, ≥ 0."""
    digits: Float[np.ndarray, "window latent digit"] | None = None
    """The ten digits' probabilities, each row summing to 1; only some calibrators need them."""
    larger: Target | None = None
    """A separate, larger sample of true activations, if one was given."""

    @classmethod
    def checked(
        cls,
        predicted: Float[np.ndarray, "window latent"],
        true: Num[np.ndarray, "window latent"],
        *,
        digits: Float[np.ndarray, "window latent digit"] | None = None,
        target: Target | None = None,
    ) -> "Sample":
        """A sample without NaNs, shapes that disagree, negative activations or constant ratings."""
        check_pair(predicted, true)
        if target is not None and target.latents != true.shape[1]:
            raise CalibrationError(
                f"the target sample has {target.latents} latents, predicted has {true.shape[1]}"
            )
        checked = None if digits is None else check_digits(digits, predicted.shape)
        if predicted.dtype == np.float64:
            predicted = predicted.astype(np.float32)
        return cls(predicted, true, checked, target)

    @cached_property
    def target(self) -> Target:
        """Where means, maxima, rates and F_true are taken from: the larger sample if given."""
        return self.larger or Target.from_true(self.true)

    def windows(self, which: slice | Int[np.ndarray, " _"] | Bool[np.ndarray, " _"]) -> "Sample":
        """The same latents on some of the windows."""
        digits = None if self.digits is None else self.digits[which]
        return Sample(self.predicted[which], self.true[which], digits, self.larger)


@dataclass(frozen=True)
class Mapped:
    """Samples changed one at a time, anew at every iteration: only one is ever in memory."""

    samples: Iterable[Sample]
    """What is changed."""
    change: Callable[[Sample], Sample]
    """How."""

    def __iter__(self) -> Iterator[Sample]:
        return map(self.change, self.samples)


def check_digits(
    digits: Float[np.ndarray, "window latent digit"], shape: tuple[int, ...]
) -> Float[np.ndarray, "window latent digit"]:
    """The digit probabilities of the ratings with this shape, renormalised over the ten digits."""
    if digits.shape != (*shape, DIGITS):
        raise CalibrationError(f"digits is {digits.shape}; expected {(*shape, DIGITS)}")
    mass = digits.sum(axis=-1, keepdims=True, dtype=np.float32)
    if not (np.isfinite(mass).all() and (mass > 0).all() and (digits >= 0).all()):
        raise CalibrationError("digit probabilities must be finite, ≥ 0 and not all zero")
    return (digits / mass).astype(np.float32)


class Transform(ABC):
    """A fitted calibration: arrays only, frozen, picklable, and written by ``write``."""

    latents: int
    """Number of latents it was fitted on."""

    def __call__(
        self,
        predicted: Float[np.ndarray, "window latent"],
        *,
        digits: Float[np.ndarray, "window latent digit"] | None = None,
    ) -> Float[np.ndarray, "window latent"]:
        """Estimated activations (float32, ≥ 0) of ratings E in [0, 9]."""
        check_ratings(predicted, latents=self.latents)
        checked = None if digits is None else check_digits(digits, predicted.shape)
        if predicted.dtype == np.float64:
            predicted = predicted.astype(np.float32)
        return self.apply(predicted, checked)

    @abstractmethod
    def apply(
        self,
        predicted: Float[np.ndarray, "window latent"],
        digits: Float[np.ndarray, "window latent digit"] | None = None,
    ) -> Float[np.ndarray, "window latent"]:
        """The same for ratings already checked, or changed by a step."""


class Calibrator(ABC):
    """A way to turn ratings into activations, before it has seen any."""

    reads_digits: bool = False
    """Whether it reads the digit probabilities instead of E."""
    whole_windows: bool = False
    """Whether it must see all latents of a window at once (then it cannot stream over latents)."""

    def fit(
        self,
        predicted: Float[np.ndarray, "window latent"],
        true: Num[np.ndarray, "window latent"],
        *,
        digits: Float[np.ndarray, "window latent digit"] | None = None,
        target: Target | None = None,
    ) -> Transform:
        """Fit on calibration windows.

        ``target``: a larger sample of true activations of the same latents (v1: 10M tokens), from
        which means, maxima, firing rates and F_true are then taken; by default ``true`` itself.
        In-sample calibration is fitting and transforming the same windows.
        """
        sample = Sample.checked(predicted, true, digits=digits, target=target)
        return self.prepared([sample]).fitted(sample)

    def prepared(self, samples: Iterable[Sample]) -> "Calibrator":
        """With what is shared between latents estimated; ``samples`` may be iterated repeatedly."""
        for sample in samples:
            if sample.target.values.size:
                return self
        raise CalibrationError(
            "no activation is above 0 in the calibration sample: nothing to calibrate to; "
            "take more windows or leave the silent latents out"
        )

    @abstractmethod
    def fitted(self, sample: Sample) -> Transform:
        """The transform of one block of latents, after ``prepared``."""


@dataclass(frozen=True)
class Around(Calibrator):
    """A calibrator around another one: it changes what goes in or what comes out."""

    inner: Calibrator
    """The calibrator inside."""

    @property
    def reads_digits(self) -> bool:
        """As the inner one."""
        return self.inner.reads_digits

    @property
    def whole_windows(self) -> bool:
        """As the inner one."""
        return self.inner.whole_windows


def half(sample: Sample, which: int) -> Sample:
    """The first (0) or second (1) half of the windows: neighbours, often of one row, stay."""
    middle = len(sample.predicted) // 2
    if middle < 2:
        raise CalibrationError(
            f"{len(sample.predicted)} calibration windows are too few to hold out half of them; "
            "take at least 4, or give the strength or factor"
        )
    return sample.windows(slice(middle * which, middle if which == 0 else None))


def settled(value: T | None) -> T:
    """A number that ``prepared`` estimates; raises RuntimeError before that."""
    if value is None:
        raise RuntimeError("this calibrator is not prepared: call fit, or prepared before fitted")
    return value


def needed_digits(
    digits: Float[np.ndarray, "window latent digit"] | None, who: str
) -> Float[np.ndarray, "window latent digit"]:
    """The digit probabilities, or an error that says who needs them."""
    if digits is None:
        raise CalibrationError(
            f"{who} reads the ten digits' probabilities: pass digits=[window latent digit]"
        )
    return digits

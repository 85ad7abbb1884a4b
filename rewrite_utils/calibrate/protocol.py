"""What a calibration is: ``Calibrator.fit(predicted, true) -> Transform``; then ``(predicted)``.

In: the simulator's expected digits E in [0, 9] (window × latent; NaN = not simulated, an error) and
the true activations (≥ 0, mostly exact zeros). Out: estimated activations, float32. Knows no LLM,
no splicing. Where in the paper: "quantile normalisation" and the open question of what should
replace it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

import numpy as np
from jaxtyping import Float, Num

from rewrite_utils.calibrate.target import Target

DIGITS, TOP = 10, 9.0
Rated = Float[np.ndarray, "window latent"]
"""Ratings, or the activations they are turned into."""
Truth = Num[np.ndarray, "window latent"]
"""True activations, ≥ 0."""
Digits = Float[np.ndarray, "window latent digit"] | None
"""Probability of each digit, where a calibrator reads them."""


class CalibrationError(ValueError):
    """Ratings or activations that nothing can be fitted on; the message says which and why."""


def unknown(part: str, what: str, known: Iterable[str], *, listed: Iterable[str] = ()) -> KeyError:
    """The error for a misspelt name: the closest known one, and all (or those ``listed``)."""
    close = get_close_matches(part, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return KeyError(f"no {what} {part!r}{hint} (known: {', '.join(listed or known)})")


def check_ratings(predicted: np.ndarray, *, latents: int | None = None) -> None:
    """Raise unless ``predicted`` is a complete [window latent] array of numbers in [0, 9]."""
    if predicted.ndim != 2:
        raise CalibrationError(f"predicted has shape {predicted.shape}; expected [window latent]")
    if latents is not None and predicted.shape[1] != latents:
        raise CalibrationError(
            f"predicted has {predicted.shape[1]} latents, the transform was fitted on {latents}; "
            "pass the same latents in the same order"
        )
    if predicted.size == 0:
        return
    low, high = predicted.min(), predicted.max()
    if np.isnan(low):
        raise CalibrationError(
            f"{np.isnan(predicted).sum()} of {predicted.size} predictions are NaN (not simulated); "
            "pass only windows and latents that were simulated"
        )
    if low < 0 or high > TOP:
        raise CalibrationError(
            f"predictions reach from {low} to {high}; expected digits E in [0, 9], "
            "not activations or probabilities × 100"
        )


def check_digits(digits: Digits, shape: tuple[int, ...]) -> Digits:
    """The digit probabilities of ratings of this shape, renormalised over the ten; None stays."""
    if digits is None:
        return None
    if digits.shape != (*shape, DIGITS):
        raise CalibrationError(f"digits is {digits.shape}; expected {(*shape, DIGITS)}")
    mass = digits.sum(axis=-1, keepdims=True, dtype=np.float32)
    if not (np.isfinite(mass).all() and (mass > 0).all() and (digits >= 0).all()):
        raise CalibrationError("digit probabilities must be finite, ≥ 0 and not all zero")
    return (digits / mass).astype(np.float32)


@dataclass(frozen=True)
class Sample:
    """What a calibrator is fitted on: ratings beside the truth at the calibration windows."""

    predicted: Rated
    """Expected digits E (float16 or float32); after a step such as centring no longer in [0, 9]."""
    true: Truth
    """True activations, ≥ 0."""
    digits: Digits = None
    """The ten digits' probabilities, each row summing to 1; only some calibrators need them."""
    larger: Target | None = None
    """A separate, larger sample of true activations, if one was given."""

    @classmethod
    def checked(
        cls,
        predicted: np.ndarray,
        true: np.ndarray,
        *,
        digits: Digits = None,
        target: Target | None = None,
    ) -> "Sample":
        """A sample without NaNs, shapes that disagree, negative activations or constant ratings."""
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
        if target is not None and target.latents != true.shape[1]:
            raise CalibrationError(
                f"the target sample has {target.latents} latents, predicted has {true.shape[1]}"
            )
        return cls(_narrow(predicted), true, check_digits(digits, predicted.shape), target)

    @cached_property
    def target(self) -> Target:
        """Where means, maxima, rates and F_true are taken from: the larger sample if given."""
        return self.larger or Target.from_true(self.true)

    def half(self, which: int) -> "Sample":
        """The first (0) or second (1) half of the windows: neighbours, often of one row, stay."""
        middle = len(self.predicted) // 2
        if middle < 2:
            raise CalibrationError(
                f"{len(self.predicted)} calibration windows are too few to hold out half of them; "
                "take at least 4, or give the strength or factor"
            )
        part = slice(middle * which, middle if which == 0 else None)
        digits = None if self.digits is None else self.digits[part]
        return Sample(self.predicted[part], self.true[part], digits, self.larger)


class Transform(ABC):
    """A fitted calibration: arrays only, frozen and picklable."""

    scale: Float[np.ndarray, " latent"]
    """What one unit of each latent's curve is, where a transform is a curve."""

    @property
    def latents(self) -> int:
        """Number of latents it was fitted on."""
        return len(self.scale)

    def __call__(self, predicted: Rated, *, digits: Digits = None) -> Rated:
        """Estimated activations (float32, ≥ 0) of ratings E in [0, 9]."""
        check_ratings(predicted, latents=self.latents)
        return self.apply(_narrow(predicted), check_digits(digits, predicted.shape))

    @abstractmethod
    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """The same for ratings already checked, or changed by a step; NaN may give anything."""


class Calibrator(ABC):
    """A way to turn ratings into activations, before it has seen any."""

    reads_digits: bool = False
    """Whether it reads the digit probabilities instead of E."""

    def fit(
        self, predicted: Rated, true: Truth, *, digits: Digits = None, target: Target | None = None
    ) -> Transform:
        """Fit on calibration windows.

        ``target``: a larger sample of true activations of the same latents (v1: 10M tokens), from
        which means, maxima, firing rates and F_true are then taken; by default ``true`` itself.
        In-sample calibration is fitting and transforming the same windows.
        """
        return self.fitted_on(Sample.checked(predicted, true, digits=digits, target=target))

    def fitted_on(self, sample: Sample) -> Transform:
        """The transform of a checked sample, in whose target one latent or more must fire."""
        if not len(sample.target.values):
            raise CalibrationError(
                "no activation is above 0 in the calibration sample: nothing to calibrate to; "
                "take more windows or leave the silent latents out"
            )
        return self.fitted(sample)

    @abstractmethod
    def fitted(self, sample: Sample) -> Transform:
        """The transform of a sample, of which ``fitted_on`` has seen that a latent fires."""


def _narrow(predicted: Rated) -> Rated:
    return predicted.astype(np.float32) if predicted.dtype == np.float64 else predicted

"""Calibration where a cheap first pass left pairs out: what was left out is a bin of its own.

In: ratings with NaN for the pairs that were not sent. A calibrator is fitted on the sent pairs
alone; the others get their own mean on the calibrate windows, shared by all latents in units of
each latent's mean. So nothing is assumed of them, not even that they are silent.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from rewrite_utils.calibrate.protocol import (
    CalibrationError,
    Calibrator,
    Digits,
    Rated,
    Sample,
    Transform,
    Truth,
    check_digits,
    check_ratings,
)
from rewrite_utils.calibrate.quantile import Quantile
from rewrite_utils.calibrate.steps import Around, AroundTransform, Centred, CentredTransform, center
from rewrite_utils.calibrate.target import Target


@dataclass(frozen=True)
class ScreenedTransform(AroundTransform):
    """The calibration of sent pairs, and the bin of the others."""

    left_out: Float[np.ndarray, " latent"]
    """E[a_j | left out]."""

    def __call__(self, predicted: Rated, *, digits: Digits = None) -> Rated:
        """Estimated activations of ratings in which NaN is a pair that was not sent."""
        check_ratings(np.nan_to_num(predicted), latents=self.latents)
        return self.apply(predicted, digits)

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """The same for ratings already checked: behind centring, curves work entry by entry."""
        sent = ~np.isnan(predicted)
        if digits is not None:
            digits = check_digits(np.where(sent[..., None], digits, 0.1), sent.shape)
        return np.where(sent, self.inner.apply(filled(predicted), digits), self.left_out)


@dataclass(frozen=True)
class Screened(Around):
    """A calibrator fitted on the sent pairs; centring is over a window's sent pairs.

    Quantile normalisation takes F_true from the sent pairs too, since F_pred is theirs.
    """

    def fit(
        self, predicted: Rated, true: Truth, *, digits: Digits = None, target: Target | None = None
    ) -> ScreenedTransform:
        """Fitted on as many sent windows of each latent as every latent has; NaN is not sent."""
        sent = ~np.isnan(predicted)
        kept = int(sent.sum(0).min())
        if kept < 2:
            raise CalibrationError(
                f"a latent has {kept} windows that were sent; fitting needs 2 of each: raise "
                "simulate.screen or the site's calibrate_windows"
            )
        order = np.argsort(~sent, axis=0, kind="stable")[:kept]
        larger = None if isinstance(_without(Around, self.inner), Quantile) else target
        sample = Sample.checked(
            np.take_along_axis(predicted, order, 0),
            np.take_along_axis(true, order, 0),
            digits=None if digits is None else np.take_along_axis(digits, order[..., None], 0),
            target=larger,
        )
        fitted = self._fitted(sample, predicted, order)
        return ScreenedTransform(fitted, bin_mean(true, ~sent, target or Target.from_true(true)))

    def _fitted(self, sample: Sample, predicted: Rated, order: np.ndarray) -> Transform:
        """On the picked windows, which are centred with all that was sent of them."""
        plain = _without(Centred, self.inner)
        if plain == self.inner:
            return self.inner.fitted_on(sample)
        level = np.array(np.nanmean(predicted, dtype=np.float64), np.float32)
        moved = np.take_along_axis(center(filled(predicted), level=float(level)), order, 0)
        return CentredTransform(plain.fitted_on(replace(sample, predicted=moved)), level)


def filled(predicted: Rated) -> Rated:
    """With its window's mean over the sent pairs in the place of every NaN (float32): the mean that
    centring takes away stays that of the sent pairs."""
    sent = ~np.isnan(predicted)
    total = np.where(sent, predicted, 0).sum(axis=1, dtype=np.float64, keepdims=True)
    mean = total / np.maximum(sent.sum(axis=1, keepdims=True), 1)
    return np.where(sent, predicted, mean).astype(np.float32)


def _without(kind: type[Around], calibrator: Calibrator) -> Calibrator:
    """A calibrator without its steps of this kind."""
    if not isinstance(calibrator, Around):
        return calibrator
    inner = _without(kind, calibrator.inner)
    return inner if isinstance(calibrator, kind) else replace(calibrator, inner=inner)


def bin_mean(
    true: Truth, out: Bool[np.ndarray, "window latent"], scale: Target
) -> Float[np.ndarray, " latent"]:
    """E[a_j | left out] = g · E[a_j]: one g for all latents, each activation counting alike."""
    mean, square = scale.mean.astype(np.float64), scale.mean_square
    weight = np.divide(mean, square, where=square > 0, out=np.zeros_like(square))
    bottom = (out * (weight * mean)).sum()
    share = (np.where(out, true, 0) * weight).sum() / bottom if bottom > 0 else 0.0
    return (share * mean).astype(np.float32)

"""Calibration where a cheap first pass left pairs out: what was left out is a bin of its own.

In: ratings with NaN for the pairs that were not sent. A calibrator is fitted on the sent pairs
alone; the others get their own mean on the calibrate windows, shared by all latents in units of
each latent's mean. So nothing is assumed of them, not even that they are silent.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Num

from rewrite_utils.calibrate.names import calibrator
from rewrite_utils.calibrate.protocol import (
    CalibrationError,
    Calibrator,
    Digits,
    Rated,
    Sample,
    Transform,
    check_digits,
    check_ratings,
)
from rewrite_utils.calibrate.target import Target

CENTRED, SHRINK = "centred", "global_shrink"
"""Read here by name; ``global_shrink`` alone shrinks quantile normalisation."""


@dataclass(frozen=True)
class ScreenedTransform(Transform):
    """The calibration of sent pairs, and the bin of the others."""

    inner: Transform
    """For the pairs that were sent."""
    level: float | None
    """Mean rating of the sent pairs if ratings are centred per window, else None."""
    left_out: Float[np.ndarray, " latent"]
    """E[a_j | left out]."""

    @property
    def latents(self) -> int:
        """Number of latents it was fitted on."""
        return len(self.left_out)

    def __call__(self, predicted: Rated, *, digits: Digits = None) -> Rated:
        """Estimated activations of ratings in which NaN is a pair that was not sent."""
        check_ratings(np.nan_to_num(predicted), latents=self.latents)
        return self.apply(predicted, digits)

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """The same for ratings already checked.

        Every curve works entry by entry: what stands in the place of a NaN does not matter.
        """
        sent = ~np.isnan(predicted)
        moved = predicted if self.level is None else centred(predicted, self.level)
        filled = np.where(sent, moved, 0).astype(np.float32)
        if digits is not None:
            digits = check_digits(np.where(sent[..., None], digits, 0.1), sent.shape)
        estimate = self.inner.apply(filled, digits)
        return np.where(sent, estimate, self.left_out).astype(np.float32)


@dataclass(frozen=True)
class Screened(Calibrator):
    """A calibrator by name, fitted on the sent pairs; centring is over a window's sent pairs.

    Quantile normalisation takes F_true from the sent pairs too, since F_pred is theirs.
    """

    name: str
    """As in `calibrator`."""

    @property
    def reads_digits(self) -> bool:
        """As the one of that name."""
        return calibrator(self.name).reads_digits

    def fit(
        self,
        predicted: Rated,
        true: Num[np.ndarray, "window latent"],
        *,
        digits: Digits = None,
        target: Target | None = None,
    ) -> ScreenedTransform:
        """See `Calibrator.fit`; NaN is a pair that was not sent."""
        return self.fitted(Sample(predicted, true, digits, target))

    def fitted(self, sample: Sample) -> ScreenedTransform:
        """Fitted on as many sent windows of each latent as every latent has."""
        predicted, sent = sample.predicted, ~np.isnan(sample.predicted)
        kept = int(sent.sum(0).min())
        if kept < 2:
            raise CalibrationError(
                f"a latent has {kept} windows that were sent; fitting needs 2 of each: raise "
                "simulate.screen or the site's calibrate_windows"
            )
        order = np.argsort(~sent, axis=0, kind="stable")[:kept]
        *steps, last = self.name.split("+")
        matched = last.startswith("quantile") or last == SHRINK
        inner, level = _only(sample, order, larger=not matched), None
        if CENTRED in steps:
            level = float(np.nanmean(predicted, dtype=np.float64))
            moved = np.take_along_axis(centred(predicted, level), order, axis=0)
            inner = replace(inner, predicted=moved)
        method = calibrator("+".join([*(step for step in steps if step != CENTRED), last]))
        fitted = method.prepared([inner]).fitted(inner)
        return ScreenedTransform(fitted, level, bin_mean(sample.true, ~sent, sample.target))


def _only(sample: Sample, order: np.ndarray, *, larger: bool) -> Sample:
    """Some windows of each latent, checked."""
    rated, truth = (
        np.take_along_axis(values, order, axis=0) for values in (sample.predicted, sample.true)
    )
    digits = sample.digits
    some = None if digits is None else np.take_along_axis(digits, order[..., None], axis=0)
    return Sample.checked(rated, truth, digits=some, target=sample.larger if larger else None)


def centred(predicted: Rated, level: float) -> Rated:
    """E minus the mean of its window's sent pairs plus ``level``; NaN stays."""
    sent = ~np.isnan(predicted)
    total = np.where(sent, predicted, 0).sum(1, dtype=np.float64, keepdims=True)
    mean = total / np.maximum(sent.sum(1, keepdims=True), 1)
    return (predicted - mean + level).astype(np.float32)


def bin_mean(
    true: Num[np.ndarray, "window latent"], out: np.ndarray, scale: Target
) -> Float[np.ndarray, " latent"]:
    """E[a_j | left out] = g · E[a_j]: one g for all latents, each activation counting alike."""
    mean, square = scale.mean.astype(np.float64), scale.mean_square
    weight = np.divide(mean, square, where=square > 0, out=np.zeros_like(square))
    bottom = (out * (weight * mean)).sum()
    share = (np.where(out, true, 0) * weight).sum() / bottom if bottom > 0 else 0.0
    return (share * mean).astype(np.float32)

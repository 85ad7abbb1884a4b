"""Fitted curves in E: of each latent, of all together, and the mixture of two transforms.

In: ratings. Out: activations. Here are the two curves with nothing to estimate: raw, the paper's
simulation without normalisation, and the mean; isotonic.py and steps.py make the others. Ratings
are float16 with few distinct values: counted, not sorted.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rewrite_utils.calibrate.protocol import TOP, Calibrator, Digits, Rated, Sample, Transform

SIGN = np.uint16(0x8000)


class Distinct(NamedTuple):
    """The different ratings among many."""

    values: Float[np.ndarray, " value"]
    """Ascending, float32; −0 counts as +0."""
    place: Int[np.ndarray, "*any"]
    """Where each rating is among them."""
    counts: Int[np.ndarray, " value"]
    """How often each occurs."""


def distinct(ratings: Float[np.ndarray, "*any"]) -> Distinct:
    """The distinct ratings; float16 are counted by their bits, ten times as fast as by sorting.

    A float16's bits, with the negatives mirrored, order like the numbers: they index a table.
    """
    if ratings.dtype != np.float16:
        values, place, counts = np.unique(ratings, return_inverse=True, return_counts=True)
        return Distinct(values.astype(np.float32), place.reshape(ratings.shape), counts)
    bits = (ratings + np.float16(0)).view(np.uint16)
    ranks = np.where(bits & SIGN, ~bits, bits | SIGN)
    counts = np.bincount(ranks.ravel())
    present = np.flatnonzero(counts)
    place = np.zeros(len(counts), np.int64)
    place[present] = np.arange(len(present))
    bits = present.astype(np.uint16)
    values = np.where(bits & SIGN, bits ^ SIGN, ~bits).view(np.float16).astype(np.float32)
    return Distinct(values, place[ranks], counts[present])


@dataclass(frozen=True)
class Curves(Transform):
    """Scale × a piecewise linear curve of each latent, or one of all; constant beyond its knots."""

    x: Float[np.ndarray, " knot"]
    """Ratings at the knots, curve after curve, ascending within each."""
    y: Float[np.ndarray, " knot"]
    """Activation there, in units of the scale."""
    offsets: Int[np.ndarray, " curve_and_one"]
    """Where each curve's knots begin; two numbers: one curve for all latents."""
    scale: Float[np.ndarray, " latent"]
    """What one unit is for each latent: 1, its mean, its mean when active, its maximum."""

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """Each column through its curve."""
        if len(self.offsets) == 2:
            return np.interp(predicted, self.x, self.y).astype(np.float32) * self.scale
        out = np.empty(predicted.shape, np.float32)
        for latent, (start, stop) in enumerate(zip(self.offsets, self.offsets[1:], strict=False)):
            out[:, latent] = np.interp(predicted[:, latent], self.x[start:stop], self.y[start:stop])
        return out * self.scale


def one_curve(x: np.ndarray, y: np.ndarray, scale: Float[np.ndarray, " latent"]) -> Curves:
    """The same curve for all latents, in units of each one's scale."""
    knots = np.asarray(x, np.float32), np.asarray(y, np.float32)
    return Curves(*knots, np.array([0, len(x)]), scale)


@dataclass(frozen=True)
class Raw(Calibrator):
    """E / 9 × the latent's maximum: no calibration (method.md §5)."""

    def fitted(self, sample: Sample) -> Curves:
        """With the maximum of the target sample."""
        return one_curve(np.array([0, TOP]), np.array([0, 1]), sample.target.maximum)


@dataclass(frozen=True)
class Mean(Calibrator):
    """The latent's mean, whatever the rating: mean ablation as a calibrator."""

    def fitted(self, sample: Sample) -> Curves:
        """With the mean of the target sample."""
        return one_curve(np.array([0]), np.array([1]), sample.target.mean)


@dataclass(frozen=True)
class Mix(Transform):
    """other + share × (inner − other), for each latent, never below 0."""

    inner: Transform
    """Counts ``share``."""
    other: Transform
    """Counts the rest."""
    share: Float[np.ndarray, " latent"]
    """Weight of the inner one; above 1 it exaggerates."""

    @property
    def latents(self) -> int:
        """Number of latents it was fitted on."""
        return len(self.share)

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """The mixture."""
        inner, other = (part.apply(predicted, digits) for part in (self.inner, self.other))
        return np.maximum(other + self.share * (inner - other), 0, dtype=np.float32)

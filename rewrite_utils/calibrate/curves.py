"""Fitted transforms that are a curve in E: one a latent, one shared by all, and mixtures.

In: ratings. Out: activations. Every class holds arrays only; the calibrators that make them are in
isotonic.py and parametric.py.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit

from rewrite_utils.calibrate.protocol import TOP, Digits, Rated, Transform
from rewrite_utils.calibrate.ties import evaluate


@dataclass(frozen=True)
class Curves(Transform):
    """A piecewise linear curve for each latent, constant beyond its first and last knot."""

    x: Float[np.ndarray, " knot"]
    """Ratings at the knots, latent after latent, ascending within each."""
    y: Float[np.ndarray, " knot"]
    """Activations at the knots."""
    offsets: Int[np.ndarray, " latent_and_one"]
    """Where each latent's knots begin."""

    @property
    def latents(self) -> int:
        """Number of latents it was fitted on."""
        return len(self.offsets) - 1

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """Each column through its own curve."""
        columns = np.ascontiguousarray(predicted.T)
        out = np.empty(columns.shape, np.float32)
        for latent in range(self.latents):
            mine = slice(self.offsets[latent], self.offsets[latent + 1])
            x, y = self.x[mine], self.y[mine]
            out[latent] = evaluate(columns[latent], lambda e, x=x, y=y: np.interp(e, x, y))
        return out.T


@dataclass(frozen=True)
class SharedCurve(Transform):
    """One curve for all latents, in units of each latent's own scale."""

    x: Float[np.ndarray, " knot"]
    """Ratings at the knots, ascending."""
    y: Float[np.ndarray, " knot"]
    """Activation in units of the scale."""
    scale: Float[np.ndarray, " latent"]
    """What one unit is for each latent (its mean or its maximum activation)."""

    @property
    def latents(self) -> int:
        """Number of latents it was fitted on."""
        return len(self.scale)

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """Curve times scale."""
        units = evaluate(predicted, lambda e: np.interp(e, self.x, self.y).astype(np.float32))
        return units * self.scale


@dataclass(frozen=True)
class Proportional(Transform):
    """E / 9 × scale."""

    scale: Float[np.ndarray, " latent"]
    """Activation at E = 9."""

    @property
    def latents(self) -> int:
        """Number of latents it was fitted on."""
        return len(self.scale)

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """E / 9 × scale."""
        return predicted.astype(np.float32) / np.float32(TOP) * self.scale


@dataclass(frozen=True)
class Constant(Transform):
    """The same activation whatever the rating: mean ablation, when it is the mean."""

    level: Float[np.ndarray, " latent"]
    """That activation."""

    @property
    def latents(self) -> int:
        """Number of latents it was fitted on."""
        return len(self.level)

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """The level in every window."""
        return np.repeat(self.level.astype(np.float32)[None], len(predicted), axis=0)


@dataclass(frozen=True)
class Mix(Transform):
    """share × first + (1 − share) × second, for each latent."""

    first: Transform
    """Counts ``share``."""
    second: Transform
    """Counts the rest."""
    share: Float[np.ndarray, " latent"]
    """Weight of the first; above 1 it exaggerates."""

    @property
    def latents(self) -> int:
        """Number of latents it was fitted on."""
        return len(self.share)

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """The mixture, never below 0."""
        second = self.second.apply(predicted, digits)
        first = self.first.apply(predicted, digits)
        return np.maximum(second + self.share * (first - second), 0, dtype=np.float32)


@dataclass(frozen=True)
class Logistic(Transform):
    """P(active | E) × mean when active, with P = σ(offset_j + slope × E)."""

    offset: Float[np.ndarray, " latent"]
    """Log-odds at E = 0."""
    slope: Float[np.ndarray, ""]
    """Log-odds a digit, shared by all latents."""
    size: Float[np.ndarray, " latent"]
    """Mean activation when active."""

    @property
    def latents(self) -> int:
        """Number of latents it was fitted on."""
        return len(self.size)

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """Probability times size."""
        odds = self.offset + self.slope * predicted.astype(np.float32)
        return (self.size * expit(odds)).astype(np.float32)

"""The last step of a reader: what a score means for one latent, from calibrate rows.

In: scores and true activations in blocks of places. Out: one rising curve a latent, pulled towards
the curve of all latents where it has seen little. Every token of the rows counts, so the sums are
kept by bins of the score and memory does not grow with the rows.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import isotonic_regression
from scipy.sparse import csr_array

from rewrite_utils.simulate.readers.text import Block

EDGES = np.concatenate([[0.003], np.geomspace(0.01, 40, 30)]).astype(np.float32)
"""Bounds of the bins, in units of a latent's root mean square."""
SHRINK = 8.0
"""The shared curve counts like so many tokens in every bin."""


class Curves(NamedTuple):
    """Piecewise linear curves, one a latent."""

    x: Float[ndarray, " bin"]
    """Mean score of each bin, ascending."""
    y: Float[ndarray, "latent bin"]
    """The activation that it means, in the latent's own unit."""

    @classmethod
    def fit(
        cls,
        blocks: Iterable[tuple[Block, csr_array, Float[ndarray, " place"]]],
        *,
        shrink: float = SHRINK,
    ) -> "Curves":
        """From (scores, true activations of the same places, tokens that each place stands for).

        A latent without a true activation has a curve of zeros: it was not seen to fire.
        """
        sums = None
        for block, true, weight in blocks:
            sums = _Sums.empty(block.values.shape[1]) if sums is None else sums
            sums.add(block.values, true, weight)
        if sums is None:
            raise ValueError("no places to calibrate on: give the reader calibrate rows")
        return cls(*sums.curves(shrink))

    def __call__(self, scores: Float[ndarray, "place latent"]) -> Float[ndarray, "place latent"]:
        """Activations, ≥ 0, float32; constant beyond the outermost bins."""
        # One table look-up and one line for all latents at once: np.interp knows one curve only.
        right = np.searchsorted(self.x, scores).clip(1, len(self.x) - 1)
        latent = np.arange(scores.shape[1])
        low, high = self.x[right - 1], self.x[right]
        part = ((scores - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
        y = self.y.astype(np.float32)
        return y[latent, right - 1] * (1 - part) + y[latent, right] * part


class _Sums:
    """Sums over tokens by latent and bin."""

    def __init__(self, weight: ndarray, score: ndarray, true: ndarray, square: ndarray) -> None:
        self.weight, self.score, self.true, self.square = weight, score, true, square

    @classmethod
    def empty(cls, latents: int) -> "_Sums":
        return cls(*(np.zeros((latents, len(EDGES) + 1)) for _ in range(3)), np.zeros(latents))

    def add(self, scores: ndarray, true: csr_array, weight: ndarray) -> None:
        bins = np.searchsorted(EDGES, scores)
        flat = (np.arange(scores.shape[1]) * (len(EDGES) + 1) + bins).ravel()
        dense = true.toarray() * weight[:, None]
        for sums, values in (
            (self.weight, np.broadcast_to(weight[:, None], scores.shape)),
            (self.score, scores * weight[:, None]),
            (self.true, dense),
        ):
            sums += np.bincount(flat, values.ravel(), sums.size).reshape(sums.shape)
        self.square += (true.toarray() * dense).sum(0)

    def curves(self, shrink: float) -> tuple[ndarray, ndarray]:
        rms = np.sqrt(self.square / np.maximum(self.weight.sum(1), 1))
        unit = np.where(rms > 0, rms, 1)[:, None]
        used = self.weight.sum(0) > 0
        weight, true = self.weight[:, used], self.true[:, used] / unit
        shared = _rising(true.sum(0) / weight.sum(0), weight.sum(0))
        own = (true + shrink * shared) / (weight + shrink)
        y = np.stack([_rising(*row) for row in zip(own, weight + shrink, strict=True)])
        x = self.score[:, used].sum(0) / weight.sum(0)
        if len(x) == 1:  # one score for all: a constant
            x, y = np.append(x, x + 1), np.repeat(y, 2, axis=1)
        return x.astype(np.float32), (y * np.where(rms > 0, rms, 0)[:, None]).astype(np.float32)


def _rising(values: ndarray, weights: ndarray) -> ndarray:
    return isotonic_regression(values, weights=weights).x

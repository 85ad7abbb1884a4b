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
    def fit(cls, blocks: Iterable[tuple[Block, csr_array, Float[ndarray, " place"]]]) -> "Curves":
        """From (scores, true activations of the same places, tokens that each place stands for).

        A latent without a true activation has a curve of zeros: it was not seen to fire.
        """
        sums, square = None, 0.0
        for block, true, tokens in blocks:
            more, squares = _sums(block.values, true.toarray(), tokens)
            sums, square = more if sums is None else sums + more, square + squares
        if sums is None:
            raise ValueError("no places to calibrate on: give the reader calibrate rows")
        weight, score, true = sums
        rms = np.sqrt(square / np.maximum(weight.sum(1), 1))
        unit = np.where(rms > 0, rms, 1)[:, None]
        used = weight.sum(0) > 0
        weight, true, score = weight[:, used], true[:, used] / unit, score[:, used]
        shared = _rising(true.sum(0) / weight.sum(0), weight.sum(0))
        own = (true + SHRINK * shared) / (weight + SHRINK)
        y = np.stack([_rising(*row) for row in zip(own, weight + SHRINK, strict=True)])
        x = score.sum(0) / weight.sum(0)
        if len(x) == 1:  # one score for all: a constant
            x, y = np.append(x, x + 1), np.repeat(y, 2, axis=1)
        y = y * np.where(rms > 0, rms, 0)[:, None]
        return cls(x.astype(np.float32), y.astype(np.float32))

    def __call__(self, scores: Float[ndarray, "place latent"]) -> Float[ndarray, "place latent"]:
        """Activations, ≥ 0, float32; constant beyond the outermost bins."""
        # One table look-up and one line for all latents at once: np.interp knows one curve only.
        right = np.searchsorted(self.x, scores).clip(1, len(self.x) - 1)
        latent = np.arange(scores.shape[1])
        low, high = self.x[right - 1], self.x[right]
        part = ((scores - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
        y = self.y.astype(np.float32)
        return y[latent, right - 1] * (1 - part) + y[latent, right] * part


def _sums(
    scores: Float[ndarray, "place latent"],
    true: Float[ndarray, "place latent"],
    tokens: Float[ndarray, " place"],
) -> tuple[Float[ndarray, "3 latent bin"], Float[ndarray, " latent"]]:
    """By latent and bin: tokens, scores and truth summed over them; by latent, truth squared."""
    weight, shape = tokens[:, None], (scores.shape[1], len(EDGES) + 1)
    flat = (np.arange(shape[0]) * shape[1] + np.searchsorted(EDGES, scores)).ravel()
    summed = [
        np.bincount(flat, np.broadcast_to(one, scores.shape).ravel(), shape[0] * shape[1])
        for one in (weight, scores * weight, true * weight)
    ]
    return np.reshape(summed, (3, *shape)), (true * (true * weight)).sum(0)


def _rising(values: ndarray, weights: ndarray) -> ndarray:
    return isotonic_regression(values, weights=weights).x

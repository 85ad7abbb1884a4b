"""Latents compete: a coder lets exactly k fire, so a score means less where others score higher.

In: a reader's scores of all latents at a place. Out: the same, seen beside one another. One small
regression for all latents, fitted on calibrate rows with the truth of them all, before the curves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.sparse import csr_array
from sklearn.ensemble import HistGradientBoostingRegressor

from rewrite_utils.simulate.readers.reader import Readable, with_truth
from rewrite_utils.simulate.readers.text import Block, Text

RANKS = 40
"""Ranks from here on are alike."""
NINTH = 8
"""The ninth largest score stands for the level of the crowd."""


@dataclass(frozen=True)
class Competing:
    """A reader whose scores at a place are read together."""

    reader: Readable
    """Gives each latent's score alone."""
    trees: HistGradientBoostingRegressor
    """What the scores mean beside one another, in units of a latent's root mean square."""

    @classmethod
    def fit(
        cls,
        reader: Readable,
        descriptions: Sequence[str],
        text: Text,
        true: csr_array,
        *,
        share: float = 0.15,
        seed: int = 0,
    ) -> "Competing":
        """From calibrate rows: all (place, latent) pairs that fire, and ``share`` of the others."""
        unit = np.sqrt(true.power(2).sum(0) / len(text.places.at))
        generator = np.random.default_rng(seed)
        drawn = []
        for block, here, tokens in with_truth(reader.read(descriptions, text), text, true):
            target = here.toarray() / np.where(unit > 0, unit, 1)
            kept = (target > 0) | (generator.random(target.shape) < share)
            kept &= tokens[:, None] > 0
            weight = np.where(target > 0, 1, 1 / share) * tokens[:, None]
            drawn.append((_together(block.values)[kept], target[kept], weight[kept]))
        trees = HistGradientBoostingRegressor(
            max_iter=60, max_leaf_nodes=15, min_samples_leaf=50, early_stopping=False
        ).fit(*(np.concatenate(parts) for parts in zip(*drawn, strict=True)))
        return cls(reader, trees)

    def read(self, descriptions: Sequence[str], text: Text) -> Iterator[Block]:
        """As `Readable` says."""
        for block in self.reader.read(descriptions, text):
            x = _together(block.values)
            values = self.trees.predict(x.reshape(-1, x.shape[-1]))
            yield block._replace(values=values.reshape(x.shape[:2]).astype(np.float32))

    def alone(
        self,
        own: Float[ndarray, "place variant"],
        scores: Float[ndarray, "place latent"],
        latent: int,
    ) -> Float[ndarray, "place variant"]:
        """What other scores of one latent mean beside the scores of all others."""
        others, own = np.maximum(np.delete(scores, latent, axis=1), 0), np.maximum(own, 0)
        before = np.arange(others.shape[1]) < latent  # of equals the lower index comes first
        rank = [((others > one) | before & (others == one)).sum(1) for one in own.T[..., None]]
        rank = np.stack(rank, axis=1).clip(max=RANKS)
        total = others.sum(1, keepdims=True) + own
        last = min(NINTH, others.shape[1])
        if last < others.shape[1]:  # the first of the order are enough, of thousands
            ranked = -np.sort(np.partition(-others, last, axis=1)[:, : last + 1], axis=1)
        else:
            ranked = -np.sort(-others, axis=1)
        below, over = (ranked[:, [at]] if 0 <= at < ranked.shape[1] else end
                        for at, end in ((last, -np.inf), (last - 1, np.inf)))  # fmt: skip
        ninth = np.maximum(below, np.minimum(own, over))
        largest = np.maximum(own, ranked[:, :1]) if ranked.size else own
        share = own / np.maximum(total, 1e-6)
        x = np.stack([own, rank, share, total, largest, ninth], axis=-1)
        values = self.trees.predict(x.reshape(-1, 6).astype(np.float32))
        return values.reshape(own.shape).astype(np.float32)


def _together(scores: Float[ndarray, "place latent"]) -> Float[ndarray, "place latent column"]:
    """Score, rank, share of the sum; the sum, the largest and the ninth, alike for all latents."""
    scores = np.maximum(scores, 0)
    order = np.argsort(-scores, axis=1, kind="stable")
    rank = np.empty(scores.shape, np.float32)
    np.put_along_axis(rank, order, np.arange(scores.shape[1], dtype=np.float32)[None], axis=1)
    total = scores.sum(1, keepdims=True)
    largest, ninth = (
        np.take_along_axis(scores, order[:, [at]], axis=1)
        for at in (0, min(NINTH, scores.shape[1] - 1))
    )
    share = scores / np.maximum(total, 1e-6)
    columns = np.broadcast_arrays(scores, rank.clip(max=RANKS), share, total, largest, ninth)
    return np.stack(columns, axis=-1).astype(np.float32)

"""Hard negatives: windows that look like a latent's own but leave it silent.

In: a LatentCache and a way to say what looks alike: sentence embeddings of windows, or the latents
with the nearest decoder rows, or those that fire on the same tokens. Out: silent Windows, for every
decile of the latent's firing. The paper leaves contrastive explanations open; beyond it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from rewrite_utils.latents import neighbours
from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.windows import (
    by_deciles,
    firing_windows,
    grid_windows,
    silent_in,
    window_tokens,
)
from rewrite_utils.llm.embedding import Embed


class Counterexamples(NamedTuple):
    """Windows in which a latent is silent although it might have been expected to fire."""

    windows: Windows
    """The windows."""
    rivals: ndarray
    """The similar latent that fires there, int64 [window]; -1: found by embedding."""


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Finds the hard negatives of any latent of one split."""

    cache: LatentCache
    """The split."""
    by: str
    """"embedding": nearest in meaning; "decoder", "cofiring": windows of the most similar latents,
    by decoder cosine or by the share of tokens on which both fire."""
    window_tokens: int
    """Tokens in a window."""
    rivals: int
    """How many similar latents give windows."""
    texts: Callable[[ndarray], list[str]]
    """Token ids to their texts."""
    decoder: Float[ndarray, "latent d_out"]
    """The coder's decoder rows."""
    embed: Embed | None = None
    """Needed for "embedding" alone."""

    def of(
        self, latent: int, firing: Windows, *, count: int, generator: np.random.Generator
    ) -> Counterexamples:
        """Up to ``count`` silent windows; ``firing`` (strongest first) is what they should be like.

        By embedding, windows of ``firing`` spread over all its ranks get their nearest neighbour
        each; by latents, each similar one gives windows of all its deciles in turn.
        """
        if self.by == "embedding":
            chosen = self._nearest(latent, firing, count)
            return Counterexamples(chosen, np.full(len(chosen.rows), -1))
        return self._rivals(latent, count, generator)

    @functools.cached_property
    def grid(self) -> Windows:
        """Every row cut into windows: where silent ones are looked for."""
        return grid_windows(self.cache, self.window_tokens)

    @functools.cached_property
    def _vectors(self) -> Float[ndarray, "window d"]:
        return self._embedded(self.grid)

    def _embedded(self, windows: Windows) -> Float[ndarray, "window d"]:
        if self.embed is None:
            raise ValueError("hard negatives by embedding need an embedder: give embed=Embedder()")
        ids = window_tokens(self.cache, windows, self.window_tokens)
        return self.embed(["".join(self.texts(row)) for row in ids])

    def _nearest(self, latent: int, firing: Windows, count: int) -> Windows:
        silent = np.flatnonzero(silent_in(self.cache, latent, self.grid, self.window_tokens))
        n = len(firing.rows)
        if not n or not len(silent):
            return Windows(self.grid.rows[:0], self.grid.ends[:0])
        asked = np.linspace(0, n - 1, min(count, n)).round().astype(int)
        like = self._embedded(Windows(firing.rows[asked], firing.ends[asked]))
        cosine = like @ self._vectors[silent].T
        chosen: list[int] = []
        while len(chosen) < min(count, len(silent)):
            best = int(cosine[len(chosen) % len(asked)].argmax())
            cosine[:, best] = -np.inf
            chosen.append(int(silent[best]))
        return Windows(self.grid.rows[chosen], self.grid.ends[chosen])

    def similar(self, latent: int) -> list[int]:
        """The most similar latents, nearest first; none that has nothing in common with it."""
        if self.by == "decoder":
            values = neighbours.direction_cosines(self.decoder, latent)
        else:
            values = neighbours.cofiring(self.cache, latent)
        near = neighbours.nearest(values, latent, count=self.rivals)
        return [one for one, value in near if value > 0]

    def _rivals(self, latent: int, count: int, generator: np.random.Generator) -> Counterexamples:
        near = self.similar(latent)
        each = -(-count // max(len(near), 1))
        parts = [self._of_rival(latent, rival, each, generator) for rival in near]
        rows = np.concatenate([part.rows for part in parts] or [self.grid.rows[:0]])
        ends = np.concatenate([part.ends for part in parts] or [self.grid.ends[:0]])
        whose = np.repeat(
            np.array(near, np.int64), np.array([len(p.rows) for p in parts], np.int64)
        )
        turn = np.concatenate([np.arange(len(part.rows)) for part in parts] or [rows])
        order = np.argsort(turn, kind="stable")
        order = order[_apart(rows[order], ends[order], self.window_tokens)][:count]
        return Counterexamples(Windows(rows[order], ends[order]), whose[order])

    def _of_rival(
        self, latent: int, rival: int, count: int, generator: np.random.Generator
    ) -> Windows:
        """Windows of all deciles of ``rival`` in which ``latent`` is silent."""
        windows, peaks = firing_windows(self.cache, rival, window_tokens=self.window_tokens)
        silent = silent_in(self.cache, latent, windows, self.window_tokens)
        windows = Windows(windows.rows[silent], windows.ends[silent])
        chosen = by_deciles(peaks[silent], count, generator, spread=True)
        return Windows(windows.rows[chosen], windows.ends[chosen])


def _apart(rows: ndarray, ends: ndarray, length: int) -> Bool[ndarray, " window"]:
    """Which windows share no token with an earlier one."""
    near = (rows[:, None] == rows) & (abs(ends[:, None] - ends) < length)
    return ~np.tril(near, -1).any(1)

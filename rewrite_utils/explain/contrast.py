"""Hard negatives: windows that look like a latent's own but leave it silent, and silent tokens.

In: a LatentCache and a way to say what looks alike: sentence embeddings of windows, or the latents
with the nearest decoder rows, or those that fire on the same tokens. Out: silent Windows, for every
decile of the latent's firing; silent tokens beside its firings. The paper leaves contrastive
explanations open; beyond it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from rewrite_utils.latents import neighbours
from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.windows import (
    by_deciles,
    firing_windows,
    grid_windows,
    one_after_another,
    silent_in,
    some,
    window_tokens,
)
from rewrite_utils.llm.embedding import Embed

BESIDE = 3
"""Tokens on either side of a firing that count as beside it."""


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
        if self.by != "embedding":
            return self._rivals(latent, count, generator)
        chosen = self._nearest(latent, firing, count)
        return Counterexamples(chosen, np.full(len(chosen.rows), -1))

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
            return some(self.grid, silent[:0])
        asked = np.linspace(0, n - 1, min(count, n)).round().astype(int)
        cosine = self._embedded(some(firing, asked)) @ self._vectors[silent].T
        chosen: list[int] = []
        while len(chosen) < min(count, len(silent)):
            best = int(cosine[len(chosen) % len(asked)].argmax())
            cosine[:, best] = -np.inf
            chosen.append(int(silent[best]))
        return some(self.grid, np.array(chosen))

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
        sizes = [len(part.rows) for part in parts]
        windows = one_after_another(some(self.grid, np.array([], int)), *parts)
        whose = np.repeat(near, sizes).astype(int)
        turn = np.concatenate([[], *map(np.arange, sizes)])
        order = np.argsort(turn, kind="stable")
        order = order[_apart(some(windows, order), self.window_tokens)][:count]
        return Counterexamples(some(windows, order), whose[order])

    def _of_rival(
        self, latent: int, rival: int, count: int, generator: np.random.Generator
    ) -> Windows:
        """Windows of all deciles of ``rival`` in which ``latent`` is silent."""
        windows, peaks = firing_windows(self.cache, rival, window_tokens=self.window_tokens)
        silent = silent_in(self.cache, latent, windows, self.window_tokens)
        chosen = by_deciles(peaks[silent], count, generator, spread=True)
        return some(some(windows, silent), chosen)


def contrast_tokens(cache: LatentCache, latent: int, *, count: int) -> Int[ndarray, " token"]:
    """The commonest tokens beside the latent's firings at which it never fires in these rows: what
    tells a simulator that rates the text instead of the token what the difference is."""
    fires = cache.grid(latent) > 0
    beside = np.zeros_like(fires)
    for shift in range(1, BESIDE + 1):
        beside[:, shift:] |= fires[:, :-shift]
        beside[:, :-shift] |= fires[:, shift:]
    beside &= cache.counted
    found, times = np.unique(cache.tokens[beside & ~fires], return_counts=True)
    silent = ~np.isin(found, np.unique(cache.tokens[fires]))
    order = np.argsort(-times[silent], kind="stable")
    return found[silent][order][:count]


def contrast_texts(
    cache: LatentCache,
    latent: int,
    *,
    count: int,
    token_texts: Callable[[ndarray], Sequence[str]],
) -> list[str]:
    """Their texts, blanks and repetitions left out."""
    if not count:
        return []
    texts = (text.strip() for text in token_texts(contrast_tokens(cache, latent, count=2 * count)))
    return list(dict.fromkeys(text for text in texts if text))[:count]


def _apart(windows: Windows, length: int) -> Bool[ndarray, " window"]:
    """Which windows share no token with an earlier one."""
    rows, ends = windows
    near = (rows[:, None] == rows) & (abs(ends[:, None] - ends) < length)
    return ~np.tril(near, -1).any(1)

"""Find a latent: by what is said of it, what that means, a word it fires on, a text of yours.

In: the table of all latents and a query. Out: the same rows, the best match first; and the
descriptions as points of a plane, alike ones near one another. Nothing is asked of a network.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from scipy.sparse import csr_array

from rewrite_utils.explorer import table
from rewrite_utils.latents.cache import LatentCache
from rewrite_utils.llm.embedding import Embed
from rewrite_utils.simulate.readers.features import normal
from rewrite_utils.simulate.readers.text import Text, by_kind, truth

Mode = Literal["words, bounds", "meaning", "fires on a word", "your text"]
MODES: tuple[Mode, ...] = get_args(Mode)
WORDS, MEANING, FIRES, TEXT = MODES
LEADS = 120
"""Characters of a description that say what it means: its English part, its strongest words."""


class Finder:
    """Searches the latents of one site."""

    def __init__(
        self,
        cache: LatentCache,
        descriptions: Mapping[int, str],
        *,
        embed: Callable[[], Embed],
        spell: Callable[[list[int]], list[str]],
    ) -> None:
        """``cache``: explain rows, whose words are searched; ``embed`` opens a sentence encoder."""
        self._cache, self._said, self._embed, self._spell = cache, descriptions, embed, spell

    def find(
        self, rows: pd.DataFrame, mode: Mode, query: str, *, sort: str, peaks: ndarray | None = None
    ) -> pd.DataFrame:
        """The rows that match, the best match first, by ``sort`` where nothing is searched for.

        ``peaks``: each latent's largest activation in a text of one's own.
        """
        if mode == WORDS or (mode != TEXT and not query.strip()):
            return table.chosen(rows, sort=sort, text=query if mode == WORDS else "")
        match = self._match(mode, query, peaks)
        kept = rows.assign(match=match[rows["latent"].to_numpy()])
        kept = kept[kept["match"] > 0].sort_values(["match", "latent"], ascending=[False, True])
        return kept.drop(columns="match")

    def _match(self, mode: Mode, query: str, peaks: ndarray | None) -> Float[ndarray, " latent"]:
        """How well each latent matches; 0 for one that does not."""
        maximum = np.maximum(self._cache.maximum, 1e-9)
        if mode == TEXT:
            return np.zeros(self._cache.n_latents) if peaks is None else peaks / maximum
        if mode == FIRES:
            kinds, mean = self._words
            which = [place for place, kind in enumerate(kinds) if normal(kind) == normal(query)]
            found = mean[which].toarray().max(0) if which else np.zeros(len(maximum))
            return found / maximum
        found = np.zeros(self._cache.n_latents)
        said = self._embed()([query])[0]
        found[list(self._said)] = np.maximum(self.vectors @ said, 1e-6)
        return found

    @functools.cached_property
    def _words(self) -> tuple[tuple[str, ...], csr_array]:
        """Mean activation by kind of token of the explain rows [kind latent]."""
        text = Text.of(self._cache.tokens, lambda ids: self._spell(ids.tolist()))
        return text.kinds, by_kind(truth(self._cache), text)

    @functools.cached_property
    def vectors(self) -> Float[ndarray, "described d"]:
        """What each description means, as a unit vector."""
        if not self._said:
            return np.zeros((0, 384), np.float32)
        return self._embed()([text[:LEADS] for text in self._said.values()])

    @property
    def drawn_already(self) -> bool:
        """Whether the map is there: the first time takes seconds."""
        return "plane" in vars(self)

    @functools.cached_property
    def plane(self) -> pd.DataFrame:
        """The two principal directions of the descriptions' vectors, by latent: x, y."""
        centred = self.vectors - self.vectors.mean(0) if len(self.vectors) else self.vectors
        _, directions = np.linalg.eigh(centred.T @ centred)
        turned = directions[:, :-3:-1]
        sign = np.sign(turned[np.abs(turned).argmax(0), [0, 1]])  # the same picture everywhere
        return pd.DataFrame(centred @ (turned * sign), columns=["x", "y"], index=list(self._said))

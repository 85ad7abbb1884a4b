"""What a reader sees of a text: the exact texts of its tokens, each kind once. And the truth.

In: token ids and a way to spell them. Out: a `Text`; true activations as a sparse table over its
places. A place is one token of one row; the BOS is none.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.sparse import csr_array

from rewrite_utils.latents.cache import LatentCache


class Text(NamedTuple):
    """Rows of text, token by token."""

    kinds: tuple[str, ...]
    """The distinct token texts."""
    rows: Int[ndarray, "row pos"]
    """Which of them stands where; position 0 is the BOS and is not read."""

    @classmethod
    def of(
        cls, tokens: Int[ndarray, "row pos"], texts: Callable[[ndarray], Sequence[str]]
    ) -> "Text":
        """From token ids; ``texts`` spells distinct ids, each alone."""
        ids, rows = np.unique(tokens, return_inverse=True)
        return cls(tuple(texts(ids)), rows.reshape(tokens.shape).astype(np.int32))

    @property
    def places(self) -> "Places":
        """Every token but the BOS, row by row."""
        at = np.arange(self.rows.size).reshape(self.rows.shape)[:, 1:].ravel()
        return Places(self.rows.ravel()[at], at)

    @property
    def counts(self) -> Int[ndarray, " kind"]:
        """How often each kind stands in the rows."""
        return np.bincount(self.rows[:, 1:].ravel(), minlength=len(self.kinds))

    def pieces(self, row: int) -> list[str]:
        """The token texts of one row, without the BOS."""
        return [self.kinds[kind] for kind in self.rows[row, 1:]]


class Places(NamedTuple):
    """Tokens to read."""

    kinds: Int[ndarray, " place"]
    """The kind of each."""
    at: Int[ndarray, " place"]
    """Where it stands: row · length + position; -1 for a kind wherever it stands."""

    @property
    def contextual(self) -> bool:
        """Whether they are tokens where they stand; else kinds of token."""
        return not (self.at < 0).any()

    @property
    def index(self) -> Int[ndarray, " place"]:
        """Their rows in a table of all places, or in one of all kinds."""
        return self.at if self.contextual else self.kinds

    def parts(self, size: int) -> Iterator["Places"]:
        """So many at a time."""
        for start in range(0, len(self.kinds), size):
            yield Places(*(side[start : start + size] for side in self))


class Block(NamedTuple):
    """What a reader says of some places."""

    places: Places
    """Which places."""
    values: Float[ndarray, "place latent"]
    """Activation of every latent there, float32."""


def every_kind(text: Text) -> Places:
    """Each kind of the text once: enough for a reader that sees single tokens."""
    kinds = np.arange(len(text.kinds))
    return Places(kinds, np.full(len(kinds), -1))


def truth(cache: LatentCache) -> csr_array:
    """True activations [row · length + position, latent] of a cached split."""
    shape = cache.tokens.size, cache.n_latents
    return csr_array((cache.value, (cache.at, cache.latent)), shape=shape)


def answers(
    true: csr_array, text: Text, *, contextual: bool
) -> tuple[csr_array, Float[ndarray, " index"]]:
    """What is true at each of `Places.index`, and how many tokens that stands for."""
    if contextual:
        return true, np.ones(text.rows.size)
    return by_kind(true, text), text.counts.astype(float)


def by_kind(true: csr_array, text: Text) -> csr_array:
    """Mean true activation of every latent on every kind [kind latent]; 0 for a kind never met."""
    kinds, at = text.places
    shape = len(text.kinds), true.shape[0]
    sums = csr_array((np.ones(len(at), np.float32), (kinds, at)), shape=shape) @ true
    weights = 1 / np.maximum(text.counts, 1)
    return csr_array(sums.multiply(weights[:, None].astype(np.float32)))

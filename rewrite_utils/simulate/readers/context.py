"""What a reader compares with the text before the token: one pass of an LLM a text, none a pair.

In: a `Text`, the LLM's states and next-token distributions at its places (`passes`), descriptions.
Out: features as in `features`, but of places instead of kinds. Also the paper's rating, where a
(sentence, place) pair has one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.sparse import csr_array

from rewrite_utils.explain.described import Description
from rewrite_utils.simulate.readers.features import Compare, Unfitted
from rewrite_utils.simulate.readers.spaces import Space
from rewrite_utils.simulate.readers.text import Places, Text

States = Callable[[Text], Float[ndarray, "at d"]]
"""The LLM's state at every row · length + position of a text; computed once, then remembered."""
Chances = Callable[[Text, Sequence[str]], Float[ndarray, "at word"]]
"""Its probability of each word as the next one, at every row · length + position."""


@dataclass(frozen=True)
class Context:
    """Does the text up to the token look like what the description says? A map from the
    description's vector to a direction among the LLM's states, fitted on other latents."""

    states: States
    space: Space
    """Places descriptions: their whole text is one vector."""
    ridge: float = 0.1
    """Pull towards nothing, as a share of the mean variance, on both sides of the map."""
    directions: int = 128
    """Principal directions of the states that are looked at."""
    basis: tuple[ndarray, ndarray] | None = None
    """Mean of the states and their scaled principal directions [d direction]; None: not fitted."""
    weights: ndarray | None = None
    """Map [description direction], the constant last."""
    name: str = "context"
    contextual: bool = True
    rising: int = 0

    def fitted(self, descriptions: Sequence[Description], text: Text, true: csr_array) -> "Context":
        """Ridge regression twice: states → each latent, then descriptions → those directions."""
        at = text.places.at
        states = _finite(self.states(text)[at])
        basis = _principal(states, self.directions)
        x = (states - basis[0]) @ basis[1]
        strength = self.ridge * len(x)
        own = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ true[at].toarray())
        told = _with_constant(self.space([one.text() for one in descriptions]))
        strength = self.ridge * len(told) / told.shape[1]
        gram = told.T @ told + strength * np.eye(told.shape[1])
        return replace(self, basis=basis, weights=np.linalg.solve(gram, told.T @ own.T))

    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """One column: what the map expects, in units of the latent's rms."""
        if self.basis is None or self.weights is None:
            states = self.states(text)
            return lambda places, latents: np.zeros(
                (len(places.at), len(descriptions[latents]), 1), states.dtype
            )
        states, (mean, directions) = _finite(self.states(text)), self.basis
        told = _with_constant(self.space([one.text() for one in descriptions])) @ self.weights

        def compare(places: Places, latents: slice) -> ndarray:
            x = (states[places.at] - mean) @ directions
            return (x @ told[latents].T)[..., None].astype(np.float32)

        return compare


@dataclass(frozen=True)
class Output(Unfitted):
    """How likely are, next, the words that the latent is said to raise or lower?"""

    chances: Chances
    firsts: tuple[int, ...] = (3, 10, 40)
    """How many of the raised words each column adds up."""
    name: str = "output"
    contextual: bool = True
    rising: int = 1

    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """Columns: log Σ p of the first raised words, then of all lowered ones; NaN without any."""
        words = sorted({w for one in descriptions for w in (*one.raises, *one.lowers)})
        index = {word: place for place, word in enumerate(words)}
        lists = [[one.raises[:n] for one in descriptions] for n in self.firsts]
        lists.append([one.lowers for one in descriptions])
        sums = [_indicator(chosen, index) for chosen in lists]
        chances = self.chances(text, words)

        def compare(places: Places, latents: slice) -> ndarray:
            found = np.stack([(chances[places.at] @ one[:, latents]) for one in sums], axis=-1)
            empty = np.stack([one[:, latents].sum(0) == 0 for one in sums], axis=-1)
            return np.where(empty, np.nan, np.log(np.maximum(found, 1e-9))).astype(np.float32)

        return compare


@dataclass(frozen=True)
class Rating(Unfitted):
    """The paper's digits, for the (sentence, place) pairs that were rated."""

    expected: Mapping[Description, Float[ndarray, " at"]]
    """By description: the rating at every row · length + position of the text, NaN where none."""
    name: str = "rating"
    contextual: bool = True
    rising: int = 1

    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """One column. ValueError where the ratings are of another text."""
        nothing = np.full(text.rows.size, np.nan, np.float32)
        columns = np.stack([self.expected.get(one, nothing) for one in descriptions], axis=1)
        if len(columns) != text.rows.size:
            raise ValueError(
                f"ratings of {len(columns)} tokens, but the text has {text.rows.size}: rate it anew"
            )
        return lambda places, latents: columns[places.at][:, latents, None]


def _indicator(lists: Sequence[Sequence[str]], index: Mapping[str, int]) -> csr_array:
    """1 where a latent's list has the word [word latent]."""
    pairs = [(index[word], latent) for latent, words in enumerate(lists) for word in words]
    where = np.array(pairs, np.int64).reshape(-1, 2).T
    shape = max(len(index), 1), len(lists)
    return csr_array((np.ones(len(pairs), np.float32), tuple(where)), shape=shape)


def _principal(states: Float[ndarray, "place d"], count: int) -> tuple[ndarray, ndarray]:
    """The states' mean, and their first principal directions scaled to variance one."""
    mean = states.mean(0)
    values, vectors = np.linalg.eigh(np.cov(states - mean, rowvar=False))
    kept = slice(max(len(values) - count, 0), None)
    return mean, vectors[:, kept] / np.sqrt(np.maximum(values[kept], 1e-6 * values[-1]))


def _with_constant(vectors: Float[ndarray, "text d"]) -> Float[ndarray, "text d_and_one"]:
    return np.concatenate([vectors, np.ones((len(vectors), 1), vectors.dtype)], axis=1)


def _finite(states: Float[ndarray, "at d"]) -> Float[ndarray, "at d"]:
    """The same; ValueError where a state is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(states).all(1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of the LLM's {len(states)} states are NaN or infinite (first: {bad[0]}): "
            "load it in float32 or bfloat16, or fetch its weights again"
        )
    return states

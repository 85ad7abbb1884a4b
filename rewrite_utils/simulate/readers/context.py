"""What a reader compares with the text before the token: one pass of an LLM a text, none a pair.

In: a `Text`, the LLM's states and next-token distributions at its places (`passes`), descriptions.
Out: features as in `features`, but of places instead of kinds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.sparse import csr_array

from rewrite_utils.explain.described import Description
from rewrite_utils.simulate.readers.features import Compare, Feature
from rewrite_utils.simulate.readers.spaces import Space
from rewrite_utils.simulate.readers.text import Places, Text

States = Callable[[Text], Float[ndarray, "at d"]]
"""The LLM's state at every row · length + position of a text; computed once, then remembered."""
Chances = Callable[[Text, Sequence[str]], Float[ndarray, "at word"]]
"""Its probability of each word as the next one, at every row · length + position."""
RIDGE = 0.1
"""Pull towards nothing, as a share of the mean variance, on both sides of `Context`'s map."""
DIRECTIONS = 128
"""Principal directions of the states that it looks at."""
RAISED = (3, 10, 40)
"""How many of the raised words each column of `Output` adds up."""


@dataclass(frozen=True)
class Context(Feature):
    """Does the text up to the token look like what the description says? A map from the
    description's vector to a direction among the LLM's states, fitted on other latents."""

    states: States
    space: Space
    """Places descriptions: their whole text is one vector."""
    basis: tuple[ndarray, ndarray] | None = None
    """Mean of the states and their scaled principal directions [d direction]; None: not fitted."""
    weights: ndarray | None = None
    """Map [description direction], the constant last."""
    contextual = True
    rising = 0

    def fitted(self, descriptions: Sequence[Description], text: Text, true: csr_array) -> "Context":
        """Ridge regression twice: states → each latent, then descriptions → those directions."""
        at = text.places.at
        states = _finite(self.states(text)[at])
        mean, directions = _principal(states)
        x = (states - mean) @ directions
        own = _ridge(x, x.T @ true[at].toarray(), RIDGE * len(x))
        told = self._told(descriptions)
        weights = _ridge(told, told.T @ own.T, RIDGE * len(told) / told.shape[1])
        return replace(self, basis=(mean, directions), weights=weights)

    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """One column: what the map expects, in units of the latent's rms."""
        states = self.states(text)
        if self.basis is None or self.weights is None:
            return lambda places, latents: np.zeros(
                (len(places.at), len(descriptions[latents]), 1), states.dtype
            )
        states, (mean, directions) = _finite(states), self.basis
        told = self._told(descriptions) @ self.weights

        def compare(places: Places, latents: slice) -> ndarray:
            x = (states[places.at] - mean) @ directions
            return (x @ told[latents].T)[..., None].astype(np.float32)

        return compare

    def _told(self, descriptions: Sequence[Description]) -> Float[ndarray, "text d_and_one"]:
        vectors = self.space([one.text() for one in descriptions])
        return np.concatenate([vectors, np.ones((len(vectors), 1), vectors.dtype)], axis=1)


@dataclass(frozen=True)
class Output(Feature):
    """How likely are, next, the words that the latent is said to raise or lower?"""

    chances: Chances
    contextual = True

    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """Columns: log Σ p of the first raised words, then of all lowered ones; NaN without any."""
        words = sorted({w for one in descriptions for w in (*one.raises, *one.lowers)})
        index = {word: place for place, word in enumerate(words)}
        lists = [[one.raises[:n] for one in descriptions] for n in RAISED]
        lists.append([one.lowers for one in descriptions])
        sums = [_indicator(chosen, index) for chosen in lists]
        chances = self.chances(text, words)

        def compare(places: Places, latents: slice) -> ndarray:
            found = np.stack([(chances[places.at] @ one[:, latents]) for one in sums], axis=-1)
            empty = np.stack([one[:, latents].sum(0) == 0 for one in sums], axis=-1)
            return np.where(empty, np.nan, np.log(np.maximum(found, 1e-9))).astype(np.float32)

        return compare


def _indicator(lists: Sequence[Sequence[str]], index: Mapping[str, int]) -> csr_array:
    """1 where a latent's list has the word [word latent]."""
    pairs = [(index[word], latent) for latent, words in enumerate(lists) for word in words]
    where = np.array(pairs, np.int64).reshape(-1, 2).T
    shape = max(len(index), 1), len(lists)
    return csr_array((np.ones(len(pairs), np.float32), tuple(where)), shape=shape)


def _ridge(x: Float[ndarray, "n d"], target: Float[ndarray, "d out"], strength: float) -> ndarray:
    return np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), target)


def _principal(states: Float[ndarray, "place d"]) -> tuple[ndarray, ndarray]:
    """The states' mean, and their first principal directions scaled to variance one."""
    mean = states.mean(0)
    values, vectors = np.linalg.eigh(np.cov(states - mean, rowvar=False))
    kept = slice(max(len(values) - DIRECTIONS, 0), None)
    return mean, vectors[:, kept] / np.sqrt(np.maximum(values[kept], 1e-6 * values[-1]))


def _finite(states: Float[ndarray, "at d"]) -> Float[ndarray, "at d"]:
    """The same; ValueError where a state is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(states).all(1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of the LLM's {len(states)} states are NaN or infinite (first: {bad[0]}): "
            "load it in float32 or bfloat16, or fetch its weights again"
        )
    return states

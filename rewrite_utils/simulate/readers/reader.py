"""The reader itself: features of (description, token), and one small regression for all latents.

In: descriptions, rows of text, and for fitting true activations of *other* latents. Out: scores of
every latent at every token in blocks, in units of a latent's root mean square; `curves` makes
activations of them. `cross_fit` reads each latent by a regression that saw nothing like it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.sparse import csr_array
from sklearn.ensemble import HistGradientBoostingRegressor

from rewrite_utils.explain.described import Description, parse
from rewrite_utils.simulate.prompt import ExplanationError
from rewrite_utils.simulate.readers.curves import Curves
from rewrite_utils.simulate.readers.features import Compare, Feature
from rewrite_utils.simulate.readers.text import Block, Places, Text, answers, every_kind

PLACES, LATENTS = 256, 1024
"""Places and latents compared at once: some 30 MB of features."""
Score = Callable[[Places], Float[ndarray, "place latent"]]


@runtime_checkable
class Readable(Protocol):
    """Anything that reads descriptions: a fitted reader, a cross-fitted one, a calibrated one."""

    def read(self, descriptions: Sequence[str], text: Text) -> Iterator[Block]:
        """Every latent at every place; each kind of token once where nothing else is looked at."""
        ...


@dataclass(frozen=True)
class Reader:
    """What is looked at, and how large the regression is."""

    features: tuple[Feature, ...]
    """Compared together; one alone is an arm of its own."""
    trees: int = 120
    """Trees of the boosted regression."""
    leaves: int = 31
    """Leaves of each."""
    pairs: int = 400_000
    """(place, latent) pairs that it is fitted on, those that say something first."""
    seed: int = 0
    """Which of the others are drawn."""

    def fit(
        self,
        descriptions: Sequence[str],
        text: Text,
        true: csr_array,
        groups: Int[ndarray, " latent"],
    ) -> "Fitted":
        """From the true activations [row · length + position, latent] of these latents.

        ``groups``: latents that are alike share a number. With one group there is nothing to fit
        on: the reader then adds up the columns that rise with firing. Raises ExplanationError for
        a description that says nothing.
        """
        told = read_descriptions(descriptions)
        rms = np.sqrt(true.power(2).sum(0) / len(text.places.at))
        alive = np.flatnonzero(rms > 0)
        if len(np.unique(groups[alive])) < 2:
            return Fitted(self.features, None)
        told, true = [told[one] for one in alive], true[:, alive].multiply(1 / rms[alive]).tocsr()
        half = np.unique(groups[alive], return_inverse=True)[1] % 2
        sample = []
        for held in (0, 1):  # a feature's own parameters come from the other half of the groups
            others, mine = np.flatnonzero(half != held), np.flatnonzero(half == held)
            other = [told[i] for i in others]
            features = [f.fitted(other, text, true[:, others]) for f in self.features]
            sample.append(self._sample(features, [told[i] for i in mine], text, true[:, mine]))
        x, y, weight = (np.concatenate(parts) for parts in zip(*sample, strict=True))
        trees = HistGradientBoostingRegressor(
            max_iter=self.trees,
            max_leaf_nodes=self.leaves,
            learning_rate=0.1,
            min_samples_leaf=10,
            early_stopping=False,
            random_state=self.seed,
        ).fit(x, y, weight)
        return Fitted(tuple(f.fitted(told, text, true) for f in features), trees)

    def cross_fit(
        self,
        descriptions: Sequence[str],
        text: Text,
        true: csr_array,
        groups: Int[ndarray, " latent"],
        *,
        folds: int = 4,
    ) -> "CrossFitted":
        """For each fold of ``groups`` a reader that was fitted on the other folds."""
        numbers, place = np.unique(groups, return_inverse=True)
        order = np.random.default_rng(self.seed).permutation(len(numbers))
        fold = order[place] % min(folds, len(numbers))
        readers = []
        for held in range(fold.max() + 1):
            others = np.flatnonzero(fold != held) if fold.max() else np.arange(len(fold))
            chosen = [descriptions[i] for i in others]
            readers.append(self.fit(chosen, text, true[:, others], groups[others]))
        return CrossFitted(tuple(readers), fold)

    def _sample(
        self, features: Sequence[Feature], told: list[Description], text: Text, true: csr_array
    ) -> list[ndarray]:
        """Features, target and weight of drawn pairs: all that fire, and others at random."""
        places = _places(features, text)
        table, count = answers(true, text, contextual=places.contextual)
        met = count[places.index] > 0
        places = Places(*(side[met] for side in places))
        compares = [feature.bind(told, text) for feature in features]
        chance = self.pairs / 4 / max(len(places.kinds) * len(told), 1)
        generator = np.random.default_rng(self.seed)
        found = []
        for part in places.parts(PLACES):
            x, target = _columns(compares, part, slice(0, len(told))), table[part.index].toarray()
            kept = (generator.random(target.shape) < chance) | (target > 0)
            share = np.where(target > 0, 1, 1 / min(chance, 1))
            weight = share * count[part.index][:, None]
            found.append((x[kept], target[kept], weight[kept]))
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]


@dataclass(frozen=True)
class Fitted:
    """A reader whose regression is fitted; it reads descriptions of latents it never saw."""

    features: tuple[Feature, ...]
    """With their own parameters."""
    trees: HistGradientBoostingRegressor | None
    """The regression; None: nothing to fit on, the rising columns are added up."""

    def read(self, descriptions: Sequence[str], text: Text) -> Iterator[Block]:
        """As `Readable` says."""
        score = self.bind(read_descriptions(descriptions), text)
        for part in _places(self.features, text).parts(PLACES):
            yield Block(part, score(part))

    def bind(self, told: Sequence[Description], text: Text) -> Score:
        """Descriptions and text encoded once; a function of places."""
        compares = [feature.bind(told, text) for feature in self.features]
        rising = [(c, f.rising) for c, f in zip(compares, self.features, strict=True)]

        def score(places: Places) -> ndarray:
            out = np.empty((len(places.kinds), len(told)), np.float32)
            for start in range(0, len(told), LATENTS):
                latents = slice(start, min(start + LATENTS, len(told)))
                if self.trees is None:
                    out[:, latents] = sum(c(places, latents)[..., :n].sum(-1) for c, n in rising)
                else:
                    x = _columns(compares, places, latents)
                    y = self.trees.predict(x.reshape(-1, x.shape[-1]))
                    out[:, latents] = y.reshape(x.shape[:2])
            return out

        return score


@dataclass(frozen=True)
class CrossFitted:
    """Several fitted readers, each for the latents that it was fitted without."""

    readers: tuple[Fitted, ...]
    """One a fold."""
    fold: Int[ndarray, " latent"]
    """Which of them reads each latent."""

    def read(self, descriptions: Sequence[str], text: Text) -> Iterator[Block]:
        """As `Readable` says; the descriptions are those of the latents it was fitted for, edited
        or not. ValueError for another number of them."""
        if len(descriptions) != len(self.fold):
            raise ValueError(
                f"{len(descriptions)} descriptions for a reader of {len(self.fold)} latents"
            )
        told = read_descriptions(descriptions)
        own = [np.flatnonzero(self.fold == number) for number in range(len(self.readers))]
        scores = [
            reader.bind([told[i] for i in mine], text)
            for reader, mine in zip(self.readers, own, strict=True)
        ]
        for part in _places(self.readers[0].features, text).parts(PLACES):
            out = np.empty((len(part.kinds), len(told)), np.float32)
            for mine, score in zip(own, scores, strict=True):
                out[:, mine] = score(part)
            yield Block(part, out)


class Calibrated(NamedTuple):
    """A reader and what its scores mean: activations in the latents' own units."""

    reader: Readable
    """Gives scores."""
    curves: Curves
    """One a latent, fitted on calibrate rows."""

    @classmethod
    def fit(
        cls, reader: Readable, descriptions: Sequence[str], text: Text, true: csr_array
    ) -> "Calibrated":
        """From every token of calibrate rows and these latents' true activations there."""
        blocks = with_truth(reader.read(descriptions, text), text, true)
        return cls(reader, Curves.fit(blocks))

    def read(self, descriptions: Sequence[str], text: Text) -> Iterator[Block]:
        """As `Readable` says."""
        for block in self.reader.read(descriptions, text):
            yield block._replace(values=self.curves(block.values))


def read_descriptions(texts: Sequence[str]) -> list[Description]:
    """The records of the texts; ExplanationError for one that says nothing."""
    told = [parse(text) for text in texts]
    for latent, (text, one) in enumerate(zip(texts, told, strict=True)):
        if not (one.words or one.raises or one.lowers or any(map(str.isalnum, one.english))):
            raise ExplanationError(
                f"description {latent} says nothing ({text!r}): describe the latent or leave it out"
            )
    return told


def with_truth(
    blocks: Iterator[Block], text: Text, true: csr_array
) -> Iterator[tuple[Block, csr_array, ndarray]]:
    """Each block with the true activations of its places, and how many tokens each stands for."""
    table = count = None
    for block in blocks:
        if table is None or count is None:
            table, count = answers(true, text, contextual=block.places.contextual)
        yield block, table[block.places.index], count[block.places.index]


def dense(blocks: Iterator[Block], text: Text) -> Float[ndarray, "row pos latent"]:
    """All blocks as one array, 0 at the BOS: for the few latents of a splice."""
    out, contextual = None, False
    for places, values in blocks:
        if out is None:
            contextual = places.contextual
            size = text.rows.size if contextual else len(text.kinds)
            out = np.zeros((size, values.shape[1]), np.float32)
        out[places.index] = values
    if out is None:
        raise ValueError("a text without tokens was read")
    out = out.reshape(*text.rows.shape, -1) if contextual else out[text.rows]
    out[:, 0] = 0
    return out


def _places(features: Sequence[Feature], text: Text) -> Places:
    """What is read: every place, or each kind of token once where nothing else is looked at."""
    contextual = any(feature.contextual for feature in features)
    return text.places if contextual else every_kind(text)


def _columns(
    compares: Sequence[Compare], places: Places, latents: slice
) -> Float[ndarray, "place latent column"]:
    return np.concatenate([compare(places, latents) for compare in compares], axis=-1)

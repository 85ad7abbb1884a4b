"""What a reader compares: a description with a token. Each feature is an arm of its own.

In: descriptions and a text, encoded once by `bind`. Out: numbers for any block of places × latents.
These see the token alone; `context` has those that see the text before it.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.sparse import csr_array

from rewrite_utils.explain.described import Description
from rewrite_utils.latents.words import STRENGTHS, Word
from rewrite_utils.simulate.readers.spaces import Space
from rewrite_utils.simulate.readers.text import Places, Text

GRADES = ("", *reversed(STRENGTHS))
"""A word's grade is its place here: 0 named, 1 faintly, 2 clearly, 3 strongly."""

Compare = Callable[[Places, slice], Float[ndarray, "place latent column"]]
"""The feature's numbers at these places, for the latents in this slice."""


class Feature(ABC):
    """One way to compare descriptions with tokens."""

    contextual = False
    """Whether it sees more than the token."""
    rising = 1
    """Its first so many columns rise with firing: they serve where nothing can be fitted."""

    def fitted(self, descriptions: Sequence[Description], text: Text, true: csr_array) -> "Feature":
        """With its own parameters, if it has any, fitted on these latents (in units of their
        rms)."""
        return self

    @abstractmethod
    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """Both encoded once."""


class Lexical(Feature):
    """Is the token one of the words? As it stands; without case and blank; of a like shape."""

    rising = 2

    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """Columns: grade of the word that it is, the same without case and blank, share of the
        words of its shape (blank, case, kind of character)."""
        tables = [
            _listed(descriptions, text, key, share=key is shape) for key in (str, normal, shape)
        ]

        def compare(places: Places, latents: slice) -> ndarray:
            found = [table[key[places.kinds]][:, latents].toarray() for key, table in tables]
            return np.stack(found, axis=-1)

        return compare


@dataclass(frozen=True)
class Likeness(Feature):
    """How alike is the token to the words? Cosines in one space."""

    space: Space

    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """Columns: the largest cosine, the mean of the two largest, the mean of all, the largest
        of each grade. 0 where there is no such word."""
        words = sorted({word.text for one in descriptions for word in one.words})
        if not words:
            width = 3 + len(GRADES)
            return lambda places, latents: np.zeros((*_shape(places, latents), width), np.float32)
        vectors = torch.from_numpy(self.space(words))
        kinds = torch.from_numpy(self.space(text.kinds))
        index, grade = _slots(descriptions, words)
        held: list = [None, None]  # cosines of the last places, while the latents of a block pass

        def compare(places: Places, latents: slice) -> ndarray:
            if places is not held[0]:
                held[:] = places, vectors @ kinds[torch.from_numpy(places.kinds).long()].T
            return _likest(held[1], index[latents], grade[latents])

        return compare


@dataclass(frozen=True)
class English(Feature):
    """How alike is the token to the English part? One cosine in a sentence space."""

    space: Space

    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """One column; 0 without an English part."""
        said = self.space([one.english for one in descriptions])
        said[[not one.english for one in descriptions]] = 0
        kinds = self.space(text.kinds)
        return lambda places, latents: (kinds[places.kinds] @ said[latents].T)[..., None]


@dataclass(frozen=True)
class OwnWords(Feature):
    """A feature of words, given the words of the English part in place of a list."""

    feature: Feature
    """Compares the token with them."""

    @property
    def rising(self) -> int:  # type: ignore[override]
        """As the feature's."""
        return self.feature.rising

    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """The feature's columns; each word once, quotation marks and stops left out."""
        found = (re.findall(r"\w+(?:['’-]\w+)*", one.english) for one in descriptions)
        own = [Description(words=tuple(map(Word, dict.fromkeys(words)))) for words in found]
        return self.feature.bind(own, text)


@dataclass(frozen=True)
class Plain(Feature):
    """What is known without comparing: how common the token is, and how much is listed."""

    common: Mapping[str, int]
    """How often each kind of token occurs in some text of the sort that is read."""
    rising = 0

    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """Columns: log of 1 + the kind's count in a million tokens, per cent covered, number of
        words."""
        million = 1e6 / max(sum(self.common.values()), 1)
        common = np.log10([1 + million * self.common.get(kind, 0) for kind in text.kinds])
        told = np.array([(d.covered, len(d.words)) for d in descriptions], np.float32)

        def compare(places: Places, latents: slice) -> ndarray:
            found = np.empty((*_shape(places, latents), 3), np.float32)
            found[..., 0] = common[places.kinds, None]
            found[..., 1:] = told[latents]
            return found

        return compare


def normal(word: str) -> str:
    """Without case and blank; a word of blanks stays as it is."""
    return word.strip().casefold() or word


def shape(word: str) -> str:
    """Blank before it or not, kind and case of its characters, short or long."""
    bare = word.strip()
    kind = "1" if bare.isdigit() else "." if not any(map(str.isalnum, bare)) else "a"
    case = "A" if bare.isupper() else "Aa" if bare[:1].isupper() else "a"
    length = min(len(bare), 3) if kind == "a" else 0
    return f"{word[:1].isspace()}{kind}{case}{length}"


def _listed(
    descriptions: Sequence[Description], text: Text, key: Callable[[str], str], *, share: bool
) -> tuple[Int[ndarray, " kind"], csr_array]:
    """Each kind's row in a sparse table [key latent] of what the words say, and that table: best
    grade + 1, or share of words."""
    keys = {name: place for place, name in enumerate(dict.fromkeys(map(key, text.kinds)))}
    found: dict[tuple[int, int], float] = {}
    for latent, one in enumerate(descriptions):
        for word in one.words:
            at = keys.get(key(word.text), -1), latent
            grade, before = 1.0 + GRADES.index(word.strength), found.get(at, 0.0)
            found[at] = before + 1 / len(one.words) if share else max(before, grade)
    found = {at: value for at, value in found.items() if at[0] >= 0}
    where = np.array(list(found), np.int64).reshape(-1, 2).T
    values = np.array(list(found.values()), np.float32)
    table = csr_array((values, tuple(where)), shape=(len(keys), len(descriptions)))
    return np.array([keys[key(kind)] for kind in text.kinds]), table


def _slots(
    descriptions: Sequence[Description], words: Sequence[str]
) -> tuple[Int[torch.Tensor, "latent slot"], Int[torch.Tensor, "latent slot"]]:
    """The words of every description as places in ``words``, and their grades, -1 where there is
    none."""
    row = {word: place for place, word in enumerate(words)}
    size = len(descriptions), max(len(one.words) for one in descriptions)
    index, grade = torch.zeros(size, dtype=torch.long), torch.full(size, -1)
    for latent, one in enumerate(descriptions):
        for slot, word in enumerate(one.words):
            index[latent, slot] = row[word.text]
            grade[latent, slot] = GRADES.index(word.strength)
    return index, grade


def _likest(
    cosine: Float[torch.Tensor, "word place"],
    index: Int[torch.Tensor, "latent slot"],
    grade: Int[torch.Tensor, "latent slot"],
) -> Float[ndarray, "place latent column"]:
    """The columns of `Likeness`, by one pass over the slots."""
    size = len(index), cosine.shape[1]
    first, second, total = torch.full(size, -1.0), torch.full(size, -1.0), torch.zeros(size)
    best = torch.full((len(GRADES), *size), -1.0)
    for slot, number in np.ndindex(index.shape[1], len(GRADES)):
        mine = (grade[:, slot] == number).nonzero()[:, 0]
        if len(mine):
            found, top = cosine[index[mine, slot]], first[mine]
            total[mine] += found
            best[number, mine] = torch.maximum(best[number, mine], found)
            second[mine] = torch.maximum(second[mine], torch.minimum(top, found))
            first[mine] = torch.maximum(top, found)
    count = (grade >= 0).sum(1).clamp_min(1)[:, None]
    second = torch.where(count > 1, second, first)
    columns = torch.stack([first, (first + second) / 2, total / count, *best])
    columns[columns == -1] = 0
    return columns.permute(2, 1, 0).numpy()


def _shape(places: Places, latents: slice) -> tuple[int, int]:
    return len(places.kinds), len(range(*latents.indices(latents.stop)))

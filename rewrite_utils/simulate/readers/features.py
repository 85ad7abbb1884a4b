"""What a reader compares: a description with a token. Each feature is an arm of its own.

In: descriptions and a text, encoded once by `bind`. Out: numbers for any block of places × latents.
These see the token alone; `context` has those that see the text before it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
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


@runtime_checkable
class Feature(Protocol):
    """One way to compare descriptions with tokens."""

    name: str
    """As figures and parameters call it."""
    contextual: bool
    """Whether it sees more than the token."""
    rising: int
    """Its first so many columns rise with firing: they serve where nothing can be fitted."""

    def fitted(self, descriptions: Sequence[Description], text: Text, true: csr_array) -> "Feature":
        """With its own parameters, if it has any, fitted on these latents (in units of their
        rms)."""
        ...

    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """Both encoded once."""
        ...


class Unfitted:
    """A feature without parameters."""

    contextual = False

    def fitted(
        self, descriptions: Sequence[Description], text: Text, true: csr_array
    ) -> "Unfitted":
        """Itself."""
        return self


@dataclass(frozen=True)
class Lexical(Unfitted):
    """Is the token one of the words? As it stands; without case and blank; of a like shape."""

    name: str = "lexical"
    rising: int = 2

    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """Columns: grade of the word that it is, the same without case and blank, share of the
        words of its shape (blank, case, kind of character)."""
        tables = [
            _Listed(descriptions, text, lambda word: word),
            _Listed(descriptions, text, normal),
            _Listed(descriptions, text, shape, share=True),
        ]

        def compare(places: Places, latents: slice) -> ndarray:
            return np.stack([table(places, latents) for table in tables], axis=-1)

        return compare


@dataclass(frozen=True)
class Likeness(Unfitted):
    """How alike is the token to the words? Cosines in one space."""

    space: Space
    rising: int = 1

    @property
    def name(self) -> str:
        """That of its space."""
        return self.space.name

    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """Columns: the largest cosine, the mean of the two largest, the mean of all, the largest
        of each grade. 0 where there is no such word."""
        words = sorted({word.text for one in descriptions for word in one.words})
        if not words:
            width = 3 + len(GRADES)
            return lambda places, latents: np.zeros((*_shape(places, latents), width), np.float32)
        vectors = torch.from_numpy(self.space(words))
        kinds = torch.from_numpy(self.space(text.kinds))
        slots = _Slots.of(descriptions, words)
        held = _Held(lambda places: vectors @ kinds[torch.from_numpy(places.kinds).long()].T)
        return lambda places, latents: slots.largest(held(places), latents)


@dataclass(frozen=True)
class English(Unfitted):
    """How alike is the token to the English part? One cosine in a sentence space."""

    space: Space
    name: str = "english"
    rising: int = 1

    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """One column; 0 without an English part."""
        said = self.space([one.english for one in descriptions])
        said[[not one.english for one in descriptions]] = 0
        kinds = self.space(text.kinds)
        return lambda places, latents: (kinds[places.kinds] @ said[latents].T)[..., None]


@dataclass(frozen=True)
class OwnWords(Unfitted):
    """A feature of words, given the words of the English part in place of a list."""

    feature: Feature
    """Compares the token with them."""

    @property
    def name(self) -> str:
        """That of the feature, as its own."""
        return f"own {self.feature.name}"

    @property
    def rising(self) -> int:
        """As the feature's."""
        return self.feature.rising

    def bind(self, descriptions: Sequence[Description], text: Text) -> Compare:
        """The feature's columns."""
        own = [Description(words=said_words(one.english)) for one in descriptions]
        return self.feature.bind(own, text)


@dataclass(frozen=True)
class Plain(Unfitted):
    """What is known without comparing: how common the token is, and how much is listed."""

    common: Mapping[str, int]
    """How often each kind of token occurs in some text of the sort that is read."""
    name: str = "plain"
    rising: int = 0

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


def said_words(english: str) -> tuple[Word, ...]:
    """The words of a sentence, each once, quotation marks and stops left out."""
    return tuple(Word(word) for word in dict.fromkeys(re.findall(r"\w+(?:['’-]\w+)*", english)))


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


class _Listed:
    """A sparse table [key latent] of what the words say: best grade + 1, or share of words."""

    def __init__(
        self,
        descriptions: Sequence[Description],
        text: Text,
        key: Callable[[str], str],
        *,
        share: bool = False,
    ) -> None:
        keys = {name: place for place, name in enumerate(dict.fromkeys(map(key, text.kinds)))}
        self._key = np.array([keys[key(kind)] for kind in text.kinds])
        found: dict[tuple[int, int], float] = {}
        for latent, one in enumerate(descriptions):
            for word in one.words:
                at = keys.get(key(word.text), -1), latent
                grade = 1.0 + GRADES.index(word.strength)
                before = found.get(at, 0.0)
                found[at] = before + 1 / len(one.words) if share else max(before, grade)
        found = {at: value for at, value in found.items() if at[0] >= 0}
        where = np.array(list(found), np.int64).reshape(-1, 2).T
        values = np.array(list(found.values()), np.float32)
        self._table = csr_array((values, tuple(where)), shape=(len(keys), len(descriptions)))

    def __call__(self, places: Places, latents: slice) -> Float[ndarray, "place latent"]:
        return self._table[self._key[places.kinds]][:, latents].toarray()


@dataclass(frozen=True)
class _Slots:
    """The words of every description as rows of a table of words."""

    index: torch.Tensor
    """Row of each word [latent slot]; where there is none, the last row, which is left out."""
    grade: torch.Tensor
    """Its grade [latent slot]; -1 where there is none."""

    @classmethod
    def of(cls, descriptions: Sequence[Description], words: Sequence[str]) -> "_Slots":
        row = {word: place for place, word in enumerate(words)}
        most = max(len(one.words) for one in descriptions)
        index = torch.zeros(len(descriptions), most, dtype=torch.long)
        grade = torch.full((len(descriptions), most), -1)
        for latent, one in enumerate(descriptions):
            for slot, word in enumerate(one.words):
                index[latent, slot] = row[word.text]
                grade[latent, slot] = GRADES.index(word.strength)
        return cls(index, grade)

    def largest(
        self, cosine: Float[torch.Tensor, "word place"], latents: slice
    ) -> Float[ndarray, "place latent column"]:
        """The columns of `Likeness`, by one pass over the slots."""
        index, grade = self.index[latents], self.grade[latents]
        size = len(index), cosine.shape[1]
        first, second, total = torch.full(size, -1.0), torch.full(size, -1.0), torch.zeros(size)
        best = torch.full((len(GRADES), *size), -1.0)
        for slot in range(index.shape[1]):
            for number in range(len(GRADES)):
                mine = (grade[:, slot] == number).nonzero()[:, 0]
                if not len(mine):
                    continue
                found = cosine[index[mine, slot]]
                total[mine] += found
                best[number, mine] = torch.maximum(best[number, mine], found)
                top = first[mine]
                second[mine] = torch.maximum(second[mine], torch.minimum(top, found))
                first[mine] = torch.maximum(top, found)
        count = (grade >= 0).sum(1).clamp_min(1)[:, None]
        second = torch.where(count > 1, second, first)
        columns = torch.stack([first, (first + second) / 2, total / count, *best])
        columns[columns == -1] = 0
        return columns.permute(2, 1, 0).numpy()


class _Held:
    """The last answer of a costly function of places, kept while the latents of a block pass."""

    def __init__(self, compute: Callable[[Places], torch.Tensor]) -> None:
        self._compute, self._of, self._found = compute, None, torch.empty(0)

    def __call__(self, places: Places) -> torch.Tensor:
        if places is not self._of:
            self._of, self._found = places, self._compute(places)
        return self._found


def _shape(places: Places, latents: slice) -> tuple[int, int]:
    return len(places.kinds), len(range(*latents.indices(latents.stop)))

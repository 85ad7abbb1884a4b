"""What should I change? Words that a description misses, and words of it that do not fire.

In: a description, and by kind of token what the latent does and what the description says it does.
Out: changes of the description, most useful first, each one click; the text with a change made.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils.explain.described import Description, parse
from rewrite_utils.explorer import marks
from rewrite_utils.latents.words import LEAST, STRENGTHS, Strength, Word
from rewrite_utils.subject.pieces import PART

WORD = 24
"""Characters of a word on a button."""
SHOWN = 8
"""Changes of each kind that are offered."""
COVERED = 0.5
"""A word is missed where less than this share of its mean activation is said."""
SILENT = 0.1
"""A word is false where less than this share of what is said of it is true."""
SEEN = 3
"""Occurrences below which a word that does not fire is not called false."""


class Change(NamedTuple):
    """One word to add or to remove."""

    word: str
    """The token's exact text."""
    strength: Strength | None
    """How strongly the latent fires on it; None: it is to be removed."""
    share: float
    """Share of the latent's firing that lies on it."""
    seen: int
    """Occurrences in the explain rows that were looked at."""

    @property
    def offer(self) -> str:
        """What a button that makes it says."""
        word = f"“{marks.plain(self.word, WORD)}”"
        if self.strength is None:
            return f"− {word}: it does not fire"
        return f"+ {word}, {self.strength}, {self.share:.0%}"

    def made(self, description: str) -> str:
        """The description with the change made."""
        if self.strength is None:
            return without(description, self.word)
        told = parse(description)
        return _rebuilt(told, (*told.words, Word(self.word, self.strength)))


def without(description: str, word: str) -> str:
    """The description without one of its words."""
    told = parse(description)
    return _rebuilt(told, tuple(one for one in told.words if one.text != word))


def suggested(
    description: str,
    kinds: Sequence[str],
    sums: Float[ndarray, " kind"],
    counts: Int[ndarray, " kind"],
    said: Float[ndarray, " kind"],
) -> list[Change]:
    """Missed words by mass Σ a · E[a | word], then false ones by what is said of them.

    ``sums``: the latent's summed activation on each kind of token, ``counts``: its occurrences.
    """
    named = {word.text for word in parse(description).words}
    mean = sums / (counts + 1)  # as count_words: a word seen once counts for less
    sayable = np.array([bool(kind) and not PART.search(kind) for kind in kinds], bool)
    listed = np.array([kind in named for kind in kinds], bool)
    missed = (sums > 0) & sayable & ~listed & ~(said >= COVERED * mean)
    false = listed & (counts >= SEEN) & (said > 0) & (mean < SILENT * said)
    offered = [(missed, sums * mean, True), (false, said * counts, False)]
    whole, most = max(float(sums.sum()), 1e-12), max(float((mean * sayable).max()), 1e-12)
    found = []
    for which, by, adds in offered:
        order = np.argsort(-np.where(which, by, -np.inf), kind="stable")[: int(which.sum())]
        for kind in order[:SHOWN].tolist():
            grade = _strength(float(mean[kind]) / most) if adds else None
            share = float(sums[kind]) / whole
            found.append(Change(kinds[kind], grade, share, int(counts[kind])))
    return found


def _strength(share: float) -> Strength:
    return next(g for g, least in zip(STRENGTHS, LEAST, strict=True) if share >= least)


def _rebuilt(told: Description, words: tuple[Word, ...]) -> str:
    return dataclasses.replace(told, words=words).text()

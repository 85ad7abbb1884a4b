"""The words that a latent fires on, counted: what a description can say without an LLM.

In: the totals of a LatentCache and the texts of its tokens. Out: a latent's words, those that carry
most of its firing first, each with its strength in words, and the share of the firing that they
cover. A word is the exact text of a token, its blank and its case with it. Beyond the paper.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils.latents.totals import TokenTotals
from rewrite_utils.subject.pieces import PART

Strength = Literal["strongly", "clearly", "faintly"]
STRENGTHS: tuple[Strength, ...] = get_args(Strength)
LEAST = (0.6, 0.3, 0.0)
"""From which share of the latent's strongest listed word on each of ``STRENGTHS`` is said."""


class Word(NamedTuple):
    """One word of a description."""

    text: str
    """The token's exact text, or what an explainer wrote."""
    strength: Strength | Literal[""] = ""
    """How strongly the latent fires on it; empty: not said."""


class Counted(NamedTuple):
    """What counting says about one latent."""

    words: tuple[Word, ...]
    """Those with most of its firing first; none for a latent that never fires."""
    covered: int
    """Per cent of its summed activation that lies on these words."""


def count_words(
    totals: TokenTotals,
    texts: Callable[[Int[ndarray, " kind"]], Sequence[str]],
    *,
    words: int = 16,
    prior: float = 1.0,
) -> list[Counted]:
    """The words of every latent, ranked by mass Σ a · E[a | token].

    ``texts`` spells ids, each alone. E[a | token] = Σ a / (occurrences + ``prior``), so that a
    token seen once counts for less. ValueError for less than one word.
    """
    if words < 1:
        raise ValueError(f"a list of {words} words says nothing: count 1 or more")
    names = np.array(list(texts(totals.kinds)), object)
    sayable = np.array([name != "" and not PART.search(name) for name in names])
    found = []
    for latent in range(totals.sums.shape[1]):
        column = slice(*totals.sums.indptr[latent : latent + 2])
        kinds, sums = totals.sums.indices[column], totals.sums.data[column].astype(float)
        expected = sums / (totals.seen[kinds] + prior)
        mass = np.where(sayable[kinds], sums * expected, 0)
        order = np.argsort(-mass, kind="stable")[:words]
        order = order[mass[order] > 0]
        share = float(sums[order].sum() / max(sums.sum(), 1e-12))
        found.append(_graded(names[kinds[order]], expected[order], share))
    return found


def _graded(names: ndarray, expected: Float[ndarray, " word"], share: float) -> Counted:
    """The words with their strengths, each text once."""
    words: dict[str, Word] = {}
    for name, part in zip(names, expected / max(expected, default=1.0), strict=True):
        grade = next(g for g, least in enumerate(LEAST) if part >= least)
        words.setdefault(name, Word(name, STRENGTHS[grade]))
    return Counted(tuple(words.values()), round(100 * share))

"""The words that a latent fires on, counted: what a description can say without an LLM.

In: a LatentCache and the texts of its tokens. Out: a latent's words, those that carry most of its
firing first, each with its strength in words, and the share of the firing that they cover. A word
is the exact text of a token, its blank and its case with it. Beyond the paper.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils.latents.cache import LatentCache
from rewrite_utils.latents.controls import token_totals
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
    cache: LatentCache,
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
    kinds = np.unique(cache.tokens[:, 1:])
    totals, seen = token_totals(cache, kinds)
    names = np.array(list(texts(kinds)), object)
    sayable = np.array([name != "" and not PART.search(name) for name in names])
    expected = totals / (seen + prior)[:, None]
    mass = np.where(sayable[:, None], totals * expected, 0)
    found = []
    for latent in range(cache.n_latents):
        order = np.argsort(-mass[:, latent], kind="stable")[:words]
        order = order[mass[order, latent] > 0]
        found.append(_of_latent(names[order], expected[order, latent], totals[:, latent], order))
    return found


def _of_latent(
    names: ndarray,
    expected: Float[ndarray, " word"],
    totals: Float[ndarray, " kind"],
    order: Int[ndarray, " word"],
) -> Counted:
    """The words at ``order``, each text once."""
    if not len(order):
        return Counted((), 0)
    words: dict[str, Word] = {}
    for name, share in zip(names, expected / expected.max(), strict=True):
        grade = next(g for g, least in enumerate(LEAST) if share >= least)
        words.setdefault(name, Word(name, STRENGTHS[grade]))
    return Counted(tuple(words.values()), round(100 * float(totals[order].sum() / totals.sum())))

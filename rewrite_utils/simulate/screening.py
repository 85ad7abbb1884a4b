"""The cheap first pass: which (sentence, window) pairs are worth asking the simulator about.

In: sentences and windows, nothing else. Out: a plausibility for every pair, and the most plausible
share of each latent's windows. True firing is about 1 in 1,000, so most pairs are hopeless. Beyond
the paper.
"""

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.stats import rankdata

from rewrite_utils.llm.embedding import embedder
from rewrite_utils.simulate.prompt import Window

By = Literal["lexical", "embedding", "both"]
BEFORE = 7
"""Tokens before the rated one that the screen reads with it."""


def plausibility(
    windows: Sequence[Window], sentences: Sequence[str], *, by: By
) -> Float[ndarray, "window latent"]:
    """How plausible it is that each sentence speaks of each window's last token; no unit."""
    if by == "lexical":
        return lexical(windows, sentences)
    if by == "embedding":
        return embedded(windows, sentences)
    both = lexical(windows, sentences), embedded(windows, sentences)
    return sum(rankdata(one, axis=0) for one in both) / (2 * len(windows))


def most_plausible(
    scores: Float[ndarray, "window latent"], *, share: float
) -> Bool[ndarray, "window latent"]:
    """The best ``share`` of each latent's windows, at least one; of equal ones the first."""
    kept = max(1, round(share * len(scores)))
    order = np.argsort(-scores, axis=0, kind="stable")[:kept]
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, order, True, axis=0)
    return chosen


def lexical(windows: Sequence[Window], sentences: Sequence[str]) -> Float[ndarray, "window latent"]:
    """How far the last token, as it stands, is a word of the sentence.

    1 if it is one of its words; else the common beginning, from two letters on, as a share of the
    longer of the two words.
    """
    words = [set(_words(sentence)) for sentence in sentences]
    tokens = [window.token.casefold() for window in windows]
    found = {token: [_closeness(token, known) for known in words] for token in set(tokens)}
    return np.array([found[token] for token in tokens], np.float64)


def embedded(
    windows: Sequence[Window], sentences: Sequence[str]
) -> Float[ndarray, "window latent"]:
    """Cosine of the sentence's embedding with the last token's and with the window's end's, the
    larger of both."""
    embed = embedder()
    said = embed(sentences)
    tokens = embed([window.token for window in windows])
    ends = embed(["".join(window.pieces[-1 - BEFORE :]).strip() for window in windows])
    return np.maximum(tokens @ said.T, ends @ said.T).astype(np.float64)


def _words(text: str) -> list[str]:
    """Words, numbers and single signs, lower case."""
    return re.findall(r"\w+|[^\w\s]", text.casefold())


def _closeness(token: str, words: set[str]) -> float:
    if token in words:
        return 1.0
    return max((_alike(token, word) for word in words), default=0.0)


def _alike(one: str, other: str) -> float:
    """The common beginning's share of the longer word; 0 below two letters."""
    pairs = zip(one, other, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    return same / max(len(one), len(other), 1) if same >= 2 else 0.0

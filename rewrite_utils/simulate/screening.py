"""The cheap first pass: which (sentence, window) pairs are worth asking the simulator about.

In: sentences and windows, nothing else. Out: a plausibility for every pair, and the most plausible
share of each latent's windows. True firing is about 1 in 1,000, so most pairs are hopeless. Beyond
the paper.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from rewrite_utils.llm.embedding import embedder
from rewrite_utils.simulate.prompt import Window

By = Literal["lexical", "embedding", "both"]
Cut = Literal["calibrate", "each"]
Scores = Float[ndarray, "_ latent"]
"""How plausible each pair is [window latent]; no unit."""
Sent = Bool[ndarray, "_ latent"]
"""Which pairs go to the simulator [window latent]."""
BEFORE = 7
"""Tokens before the rated one that the screen reads with it."""


def plausibility(
    windows: Sequence[Window],
    sentences: Sequence[str],
    *,
    by: By,
    among: Sequence[Window] | None = None,
) -> Scores:
    """How plausible it is that each sentence speaks of each window's last token.

    "both" is the mean of two ranks: ``among`` the windows of another split, or among these.
    """
    kinds = {"lexical": [lexical], "embedding": [embedded]}.get(by, [lexical, embedded])
    found = [kind(windows, sentences) for kind in kinds]
    if len(found) == 1:
        return found[0]
    others = found if among is None else [kind(among, sentences) for kind in kinds]
    return sum(map(_ranks, found, others)) / (2 * len(others[0]))


def _ranks(scores: Scores, among: Scores) -> Scores:
    """The mean rank of each score in its column of ``among``."""
    columns = zip(scores.T, np.sort(among, axis=0).T, strict=True)
    places = [
        [np.searchsorted(other, own, side) for side in ("left", "right")] for own, other in columns
    ]
    return (np.array(places).sum(1).T + 1) / 2


def plausible(
    windows: Mapping[str, Sequence[Window]], sentences: Sequence[str], *, by: By, cut: Cut
) -> dict[str, Scores]:
    """The plausibility of every pair of every split; ranks among the calibrate windows where the
    cut is fixed on those."""
    fixed = windows["calibrate"] if cut == "calibrate" else None
    return {
        split: plausibility(drawn, sentences, by=by, among=None if drawn is fixed else fixed)
        for split, drawn in windows.items()
    }


def sent(plausible: Mapping[str, Scores], *, share: float, cut: Cut) -> dict[str, Sent]:
    """Which pairs of each split go to the simulator. The calibrate windows always send just this
    share of each latent's windows, so that there are some to be fitted on."""
    found = {split: most_plausible(scores, share=share) for split, scores in plausible.items()}
    if cut == "calibrate":
        level = cuts(plausible["calibrate"], share=share)
        rest = {split: s >= level for split, s in plausible.items() if split != "calibrate"}
        found |= rest
    return found


def cuts(scores: Scores, *, share: float) -> Float[ndarray, " latent"]:
    """Each latent's least plausibility that is sent: what lets through as near to this share of
    these windows as ties allow. Fixed on calibrate windows, it holds at all others."""
    kept = max(1, round(share * len(scores)))
    level = -np.sort(-scores, axis=0)[kept - 1]
    least, above = (scores >= level).sum(0), (scores > level).sum(0)
    return np.where(least - kept <= kept - above, level, np.nextafter(level, np.inf))


def most_plausible(scores: Scores, *, share: float) -> Sent:
    """The best ``share`` of each latent's windows, at least one; of equal ones the first."""
    kept = max(1, round(share * len(scores)))
    order = np.argsort(-scores, axis=0, kind="stable")[:kept]
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, order, True, axis=0)
    return chosen


def sent_at(
    windows: Mapping[str, Sequence[Window]],
    sentences: Sequence[str],
    *,
    shares: Sequence[float],
    by: By,
    cut: Cut,
) -> dict[float, Sent]:
    """Which pairs of all splits together, one after the other, each share would send."""
    if cut == "each":  # as the runs before it: one quota over all of them
        together = [one for drawn in windows.values() for one in drawn]
        scores = plausibility(together, sentences, by=by)
        return {share: most_plausible(scores, share=share) for share in shares}
    told = plausible(windows, sentences, by=by, cut=cut)
    parts = {share: sent(told, share=share, cut=cut) for share in shares}
    return {share: np.concatenate(list(found.values())) for share, found in parts.items()}


def lexical(windows: Sequence[Window], sentences: Sequence[str]) -> Scores:
    """How far the last token, as it stands, is a word of the sentence.

    1 if it is one of its words (words, numbers and single signs); else the common beginning, from
    two letters on, as a share of the longer of the two words.
    """
    words = [set(re.findall(r"\w+|[^\w\s]", sentence.casefold())) for sentence in sentences]
    tokens = [window.token.casefold() for window in windows]
    found = {
        token: [max((_alike(token, word) for word in known), default=0.0) for known in words]
        for token in set(tokens)
    }
    return np.array([found[token] for token in tokens], np.float64)


def embedded(windows: Sequence[Window], sentences: Sequence[str]) -> Scores:
    """Cosine of the sentence's embedding with the last token's and with the window's end's, the
    larger of both."""
    embed = embedder()
    said = embed(sentences)
    tokens = embed([window.token for window in windows])
    ends = embed(["".join(window.pieces[-1 - BEFORE :]).strip() for window in windows])
    return np.maximum(tokens @ said.T, ends @ said.T).astype(np.float64)


def _alike(one: str, other: str) -> float:
    if one == other:
        return 1.0
    pairs = enumerate(zip(one, other, strict=False))
    same = next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
    return same / max(len(one), len(other)) if same >= 2 else 0.0

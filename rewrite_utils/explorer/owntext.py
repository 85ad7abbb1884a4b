"""Your own text: which latents fire where, and what their sentences would have predicted.

In: every latent's activation at every token of a text, sentences, and predictions where they were
asked for. Out: which latents are worth showing, and the text once for each of them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.explorer import marks
from rewrite_utils.report.display import NO_TEXT, Html, tokens

LONGEST = 200
"""Tokens of one's own text that are read; the rest is left out, and said so."""
SHOWN = 4
"""Latents that a text is drawn for, at most."""
LEAD = 160
"""Characters of a description above its text."""
LISTED = 20
"""Firing latents that are named, at most."""


class OwnText(NamedTuple):
    """A text as the coder sees it."""

    texts: list[str]
    """Exact text of each token, BOS left out."""
    true: Float[ndarray, "pos latent"]
    """Activation of every latent of the coder."""
    left_out: int
    """Tokens beyond ``LONGEST``."""
    ids: tuple[int, ...] = ()
    """Token ids."""


def strongest(
    own: OwnText, latents: Sequence[int], maximum: Float[ndarray, " latent"], *, first: int
) -> list[int]:
    """``first``, then those of ``latents`` that fire strongest, each by its own maximum."""
    peaks = own.true.max(0)
    share = {one: peaks[one] / max(maximum[one], 1e-9) for one in latents if one != first}
    ranked = sorted((one for one in share if peaks[one] > 0), key=lambda one: -share[one])
    return [first, *ranked[: SHOWN - 1]]


def drawn(
    own: OwnText,
    sentences: Mapping[int, str],
    maximum: Float[ndarray, " latent"],
    predicted: Float[ndarray, "pos sentence"] | None = None,
) -> Html:
    """The text once a latent, each on its own latent's scale, below its sentence."""
    parts = []
    for place, (latent, sentence) in enumerate(sentences.items()):
        scale = float(maximum[latent])
        guess = None if predicted is None else predicted[:, place]
        note = f"scale 0 … {scale:.2f}"
        body = tokens(own.texts, own.true[:, latent], guess, maximum=scale, note=note).markup
        parts.append(marks.section(f"latent {latent}", body, remark=marks.plain(sentence, LEAD)))
    firing = np.flatnonzero(own.true.any(0))
    said = f"{len(firing)} of {own.true.shape[1]} latents fire on {len(own.texts)} tokens"
    if own.left_out:
        said += f"; the last {own.left_out} tokens were left out"
    return Html(marks.whole([marks.note(f"{said}: {_listed(own, firing)}"), *parts]), said)


def _listed(own: OwnText, firing: ndarray) -> str:
    """The firing latents with their strongest token, strongest first."""
    order = firing[np.argsort(-own.true[:, firing].max(0), kind="stable")][:LISTED]
    words = [own.texts[int(own.true[:, latent].argmax())] for latent in order]
    said = [f"{latent} (“{_word(word)}”)" for latent, word in zip(order, words, strict=True)]
    return ", ".join(said) + " …" * (len(firing) > LISTED)


def _word(token: str) -> str:
    """A token without the space before it, unless it is nothing else."""
    return token.strip(" ") or "·" * len(token) or NO_TEXT

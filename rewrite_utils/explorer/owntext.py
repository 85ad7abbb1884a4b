"""Your own text: which latents fire where, and what their sentences would have predicted.

In: a text. Out: every latent's true activation at every token; on demand the simulator's rating of
chosen sentences at every token, calibrated without centring (few sentences cannot be centred).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils.explorer import marks
from rewrite_utils.explorer.asking import Simulator, Step, calibrated_alone, silent
from rewrite_utils.explorer.shelf import Shelf
from rewrite_utils.explorer.windows import Shown
from rewrite_utils.report.display import NO_TEXT, Html
from rewrite_utils.simulate import Window
from rewrite_utils.stages import SiteStages, builders
from rewrite_utils.subject.splice import hooked

LONGEST = 200
"""Tokens that are read; the rest is left out, and said so."""


class OwnText(NamedTuple):
    """A text as the coder sees it."""

    texts: list[str]
    """Exact text of each token, BOS left out."""
    true: Float[ndarray, "pos latent"]
    """Activation of every latent of the coder."""
    left_out: int
    """Tokens beyond ``LONGEST``."""


@torch.no_grad()
def read(site: SiteStages, text: str) -> OwnText:
    """Run subject and coder over the text; ValueError when there is none."""
    ids = site.subject.tokenizer.encode(text, add_special_tokens=False)
    if not ids:
        raise ValueError("the text is empty: paste some words")
    kept = ids[:LONGEST]
    rows = torch.tensor([[site.subject.bos, *kept]])
    inputs = hooked(site.collector, rows, site.hookpoint).inputs[0, 1:]
    true = site.coder.dense(site.coder.encode(inputs.float())).cpu().numpy()
    return OwnText(site.texts(np.array(kept)), true, len(ids) - len(kept))


def strongest(shelf: Shelf, own: OwnText, *, first: int, count: int = 4) -> list[int]:
    """``first``, then the latents with sentences that fire strongest, each by its own maximum."""
    latents = np.array(shelf.latents)
    share = own.true[:, latents].max(0) / np.maximum(shelf.cache.maximum[latents], 1e-9)
    ranked = latents[np.argsort(-share, kind="stable")]
    fires = [int(latent) for latent in ranked if own.true[:, latent].any() and latent != first]
    return [first, *fires[: count - 1]]


def predict(
    shelf: Shelf,
    own: OwnText,
    sentences: Mapping[int, str],
    simulator: Simulator,
    *,
    step: Step = silent,
) -> Float[ndarray, "pos sentence"]:
    """What each latent's sentence predicts at every token."""
    length = shelf.site.params.simulate.window_tokens
    read_as = [
        Window.of(own.texts[max(0, end - length) : end]) for end in range(1, len(own.texts) + 1)
    ]
    told = [builders.description(shelf.site, latent, text) for latent, text in sentences.items()]
    ratings = simulator.rate(read_as, told, step=step)
    return calibrated_alone(shelf.site, list(sentences), ratings)


def drawn(
    shelf: Shelf,
    own: OwnText,
    sentences: Mapping[int, str],
    predicted: Float[ndarray, "pos sentence"] | None = None,
) -> Html:
    """The text once a latent, each on its own latent's scale, below its sentence."""
    parts = []
    for column, (latent, sentence) in enumerate(sentences.items()):
        scale = float(shelf.cache.maximum[latent])
        guess = np.full(len(own.texts), np.nan) if predicted is None else predicted[:, column]
        shown = Shown(own.texts, own.true[:, latent], guess, f"scale 0 … {scale:.2f}")
        body = marks.strip(shown, maximum=scale)
        parts.append(marks.section(f"latent {latent}", body, remark=sentence))
    firing = np.flatnonzero(own.true.any(0))
    said = f"{len(firing)} of {own.true.shape[1]} latents fire on {len(own.texts)} tokens"
    if own.left_out:
        said += f"; the last {own.left_out} tokens were left out"
    body = marks.note(f"{said}: {_listed(own, firing)}") + "".join(parts)
    return Html(f"<div>{body}</div>", said)


def _listed(own: OwnText, firing: Int[ndarray, " firing"], *, most: int = 20) -> str:
    """The firing latents with their strongest token, strongest first."""
    peaks = own.true[:, firing].max(0)
    order = firing[np.argsort(-peaks, kind="stable")][:most]
    said = [
        f"{latent} (“{_word(own.texts[int(own.true[:, latent].argmax())])}”)" for latent in order
    ]
    return ", ".join(said) + (" …" if len(firing) > most else "")


def _word(token: str) -> str:
    """A token without the space before it, unless it is nothing else."""
    return token.strip(" ") or "·" * len(token) or NO_TEXT

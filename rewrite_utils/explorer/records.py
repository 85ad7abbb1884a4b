"""What is known of one latent, as records: what it does, what came of a sentence about it, and what
it does on another text."""

from typing import NamedTuple

import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.explain.logits import Promoted
from rewrite_utils.explorer.scores import Scored
from rewrite_utils.explorer.windows import Kind

LONGEST = 200
"""Tokens of one's own text that are read; the rest is left out, and said so."""


class Reading(NamedTuple):
    """One sentence of one latent, and what came of it."""

    latent: int
    """Index in the coder."""
    sentence: str
    """What the simulator read."""
    origin: str
    """Who wrote it: explainer or curated."""
    rated: pd.DataFrame
    """One row a rated window: split (the calibrator was fitted on "calibrate"), row and end there,
    true activation, the simulator's E (expected, 0 … 9), and predicted in the unit of the truth."""
    scores: list[Scored]
    """How good that is."""
    errors: dict[str, Kind]
    """The worst windows of each kind of error (``windows.errors``)."""
    alone: pd.DataFrame
    """What each arm costs the model (``alone.verdict``)."""


class Known(NamedTuple):
    """What a latent does, whatever is said of it; all on the explain rows."""

    title: str
    """Site, hookpoint, latent, and of how many."""
    tokens: int
    """Tokens of the explain rows."""
    firings: Float[ndarray, " firing"]
    """Activation at each token where it fires."""
    maximum: float
    """The largest of them, the scale of everything that is drawn; 0 if there is none."""
    share: float
    """Of the variance that all latents write, each counted alone."""
    windows: dict[str, Kind]
    """Top, quantile and random windows (``windows.of_text``)."""
    promoted: Promoted
    """What its direction does to the logits."""
    above: int
    """Layers above the hookpoint, which the logits leave out."""
    near: dict[str, list[tuple[int, float, str]]]
    """Nearest latents by two measures: index, value, sentence."""


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

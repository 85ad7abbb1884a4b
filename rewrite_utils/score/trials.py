"""The windows a sentence is tried on: random ones, hard ones, and ones with wrong marks.

In: a LatentCache of the *score* rows. Out: one Trial a latent, as the judge is shown it. Paper §4:
activating windows of all deciles, random windows from rows where the latent is silent; v2's figure
A1: fuzzing, in which the marks may be on other tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from rewrite_utils.explain.contrast import Contrast
from rewrite_utils.explain.evidence import marked
from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.windows import (
    by_deciles,
    firing_windows,
    one_after_another,
    silent_windows,
    some,
    window_tokens,
    window_values,
)
from rewrite_utils.params import Score

Texts = Callable[[ndarray], list[str]]
"""Token ids to their texts."""


class Trial(NamedTuple):
    """The windows one sentence is tried on."""

    windows: Windows
    """Right ones first, then wrong ones, before shuffling."""
    active: Bool[ndarray, " window"]
    """Whether "yes" is right: the latent fires in it; for fuzzing, the marks are its own."""
    texts: list[str]
    """The windows as they are shown."""

    def shuffled(self, order: ndarray) -> "Trial":
        """The same windows in another order."""
        texts = [self.texts[place] for place in order]
        return Trial(some(self.windows, order), self.active[order], texts)


Draw = Callable[[int, np.random.Generator], Trial]
"""Draws the trial of one latent."""


def detection(
    cache: LatentCache, latent: int, settings: Score, generator: np.random.Generator, texts: Texts
) -> Trial:
    """Activating windows from all deciles of the latent, random ones from rows where it is
    silent."""
    firing = _firing(cache, latent, settings, settings.activating, generator)
    how = {"window_tokens": settings.window_tokens, "count": settings.random}
    silent = silent_windows(cache, latent, generator=generator, **how)
    return _trial(cache, firing, silent, settings, texts)


def hard(
    contrast: Contrast, latent: int, settings: Score, generator: np.random.Generator, texts: Texts
) -> Trial:
    """The same with silent windows that look like the latent's own."""
    cache = contrast.cache
    firing = _firing(cache, latent, settings, settings.activating, generator)
    found = contrast.of(latent, firing, count=settings.hard, generator=generator)
    return _trial(cache, firing, found.windows, settings, texts)


def fuzzing(
    cache: LatentCache,
    latent: int,
    settings: Score,
    generator: np.random.Generator,
    texts: Texts,
    *,
    threshold: float,
) -> Trial:
    """Activating windows of all deciles; in every other one the marks are moved to silent tokens.

    A window without a silent token keeps its marks and counts as rightly marked.
    """
    length = settings.window_tokens
    windows = _firing(cache, latent, settings, 2 * settings.fuzzing, generator)
    values = window_values(cache, latent, windows, length)
    wrong = np.zeros(len(values), bool)
    wrong[generator.permutation(len(values))[: len(values) // 2]] = True
    wrong &= (values == 0).any(1)
    shown = []
    for ids, strength, moved in zip(
        window_tokens(cache, windows, length), values, wrong, strict=True
    ):
        marks = moved_marks(strength, generator, threshold=threshold) if moved else strength
        shown.append(marked(texts(ids), marks, threshold=threshold))
    return Trial(windows, ~wrong, shown).shuffled(np.argsort(wrong, kind="stable"))


def moved_marks(
    strength: Float[ndarray, " pos"], generator: np.random.Generator, *, threshold: float
) -> Float[ndarray, " pos"]:
    """1 at as many silent tokens as were marked (or all of them), 0 elsewhere."""
    silent = np.flatnonzero(strength == 0)
    count = int((strength > threshold * strength.max()).sum())
    marks = np.zeros(len(strength), np.float32)
    marks[generator.permutation(silent)[:count]] = 1
    return marks


def _firing(
    cache: LatentCache, latent: int, settings: Score, count: int, generator: np.random.Generator
) -> Windows:
    windows, peaks = firing_windows(cache, latent, window_tokens=settings.window_tokens)
    spread = settings.deciles == "spread"
    return some(windows, by_deciles(peaks, count, generator, spread=spread))


def _trial(
    cache: LatentCache, firing: Windows, silent: Windows, settings: Score, texts: Texts
) -> Trial:
    both = one_after_another(firing, silent)
    shown = ["".join(texts(row)) for row in window_tokens(cache, both, settings.window_tokens)]
    return Trial(both, np.arange(len(shown)) < len(firing.rows), shown)

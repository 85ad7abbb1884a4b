"""Which windows of a latent are worth looking at: strongest, typical, any; and the worst errors.

In: a Shelf. Out: Windows of the explain rows with the truth at every token, or of the rated windows
with the truth at every token and the prediction at the last one.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.explorer.shelf import Rated, Shelf
from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.windows import firing_windows, window_tokens

LENGTH = 24
"""Tokens shown."""
EACH = 3
"""Windows of a kind."""


class Shown(NamedTuple):
    """One window as it is drawn."""

    texts: list[str]
    """Its tokens' exact text."""
    true: Float[ndarray, " pos"]
    """True activation at each token."""
    predicted: Float[ndarray, " pos"]
    """Predicted activation at each token; NaN where nothing was predicted."""
    note: str
    """Where it comes from."""
    row: int = -1
    """Its row in the split it was cut from."""
    end: int = -1
    """Position of its last token there."""


def values_at(
    cache: LatentCache, latent: int, windows: Windows, length: int
) -> Float[ndarray, "window pos"]:
    """The latent's activation at every token of each window, from its own slice of the cache."""
    firings, width = cache.of(latent), cache.tokens.shape[1]
    keys = firings.rows.astype(np.int64) * width + firings.positions
    asked = windows.rows[:, None] * width + windows.ends[:, None] + np.arange(1 - length, 1)
    if not len(keys):
        return np.zeros(asked.shape, np.float32)
    found = np.searchsorted(keys, asked).clip(max=len(keys) - 1)
    return np.where(keys[found] == asked, firings.values[found], 0).astype(np.float32)


def of_text(shelf: Shelf, latent: int, *, each: int) -> dict[str, list[Shown]]:
    """Top, quantile and random windows of the explain rows, ``each`` of a kind."""
    cache, length = shelf.cache, min(LENGTH, shelf.cache.tokens.shape[1] - 1)
    windows, peaks = firing_windows(cache, latent, window_tokens=length)
    ranked = np.argsort(-peaks, kind="stable")
    spread = np.linspace(0, len(ranked), each + 2)[1:-1].astype(int)
    chosen = {
        "top": ranked[:each],
        "quantiles": ranked[np.unique(spread)] if len(ranked) else ranked,
    }
    found = {
        name: _drawn(shelf, cache, latent, Windows(windows.rows[these], windows.ends[these]))
        for name, these in chosen.items()
    }
    return found | {"random": _drawn(shelf, cache, latent, _random(shelf, latent, each, length))}


def firing(shelf: Shelf, latent: int) -> int:
    """Windows of the explain rows in which the latent fires, of which ``of_text`` takes a few."""
    length = min(LENGTH, shelf.cache.tokens.shape[1] - 1)
    return len(firing_windows(shelf.cache, latent, window_tokens=length)[1])


def errors(rated: Rated) -> dict[str, ndarray]:
    """Rated windows by kind, each in order of |prediction − truth|, worst first.

    A false positive is predicted above a silent truth, a miss below a firing one, a hit fires and
    is predicted at least as high.
    """
    gap = rated.predicted - rated.true
    kinds = {
        "worst false positives": (rated.true == 0) & (gap > 0),
        "worst misses": (rated.true > 0) & (gap < 0),
        "met or exceeded": (rated.true > 0) & (gap >= 0),
    }
    order = np.argsort(-np.abs(gap), kind="stable")
    return {name: order[which[order]] for name, which in kinds.items()}


def of_ratings(shelf: Shelf, latent: int, rated: Rated, chosen: ndarray) -> list[Shown]:
    """Some rated windows, the prediction at their last token."""
    shown = []
    for window in chosen.tolist():
        split = str(rated.split[window])
        one = Windows(rated.windows.rows[[window]], rated.windows.ends[[window]])
        [strip] = _drawn(shelf, shelf.site.cache(split), latent, one)
        strip.predicted[-1] = rated.predicted[window]
        numbers = f"true {rated.true[window]:.2f}, predicted {rated.predicted[window]:.2f}"
        note = f"{numbers}, E {rated.expected[window]:.1f}, {split}"
        shown.append(strip._replace(note=note))
    return shown


def _random(shelf: Shelf, latent: int, count: int, length: int) -> Windows:
    generator = np.random.default_rng([shelf.site.params.seed, latent])
    n_rows, width = shelf.cache.tokens.shape
    return Windows(generator.integers(0, n_rows, count), generator.integers(length, width, count))


def _drawn(shelf: Shelf, cache: LatentCache, latent: int, windows: Windows) -> list[Shown]:
    length = int(min(LENGTH, *(windows.ends.tolist() or [LENGTH])))
    ids = window_tokens(cache, windows, length)
    values = values_at(cache, latent, windows, length)
    return [
        Shown(shelf.site.texts(part), true, np.full(length, np.nan), f"peak {true.max():.2f}", *at)
        for part, true, *at in zip(ids, values, *(w.tolist() for w in windows), strict=True)
    ]

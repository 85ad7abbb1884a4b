"""Which windows of a latent are worth looking at: strongest, typical, any; and the worst errors.

In: a LatentCache, or one latent's predictions beside the truth. Out: windows as they are drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.windows import firing_windows, window_tokens, window_values

LENGTH = 24
"""Tokens shown."""
EACH = 3
"""Windows of a kind."""

Texts = Callable[[ndarray], list[str]]
"""The exact text of each token id."""


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
    ids: tuple[int, ...] = ()
    """Its token ids."""

    def read(
        self, said: Mapping[str, float], spell: Callable[[Sequence[int]], list[str]]
    ) -> "Shown":
        """The same window, with what a description says of each token."""
        kinds = spell(self.ids)
        return self._replace(predicted=np.array([said.get(kind, np.nan) for kind in kinds]))

    def told(self, value: float, at: int, note: str) -> "Shown":
        """The same window, with one prediction."""
        predicted = np.full(len(self.texts), np.nan)
        predicted[at] = value
        return self._replace(predicted=predicted, note=note)


class Kind(NamedTuple):
    """The windows shown of one kind."""

    shown: list[Shown]
    """At most ``EACH``."""
    remark: str
    """How many of how many they are."""


def of_text(cache: LatentCache, latent: int, *, texts: Texts, seed: int) -> dict[str, Kind]:
    """Top and quantile windows of all in which the latent fires, and random ones of any text."""
    n_rows, width = cache.tokens.shape
    length = min(LENGTH, width - 1)
    firing, peaks = firing_windows(cache, latent, window_tokens=length)
    ranked = np.argsort(-peaks, kind="stable")
    spread = np.unique(np.linspace(0, len(ranked), EACH + 2)[1:-1].astype(int))[: len(ranked)]
    chosen = {
        kind: Windows(*(part[these] for part in firing))
        for kind, these in (("top", ranked[:EACH]), ("quantiles", ranked[spread]))
    }
    draw = np.random.default_rng([seed, latent]).integers
    chosen["random"] = Windows(draw(0, n_rows, EACH), draw(length, width, EACH))
    of = dict.fromkeys(chosen, f"of {len(peaks):,} windows in which it fires")
    of["random"] = "anywhere"
    strips = {kind: cut(cache, latent, some, texts) for kind, some in chosen.items()}
    return {kind: Kind(shown, f"explain rows, {len(shown)} {of[kind]}")
            for kind, shown in strips.items()}  # fmt: skip


def errors(rated: pd.DataFrame) -> dict[str, ndarray]:
    """Rated windows by kind, each in order of |prediction − truth|, worst first.

    A false positive is predicted above a silent truth, a miss below a firing one, a hit fires and
    is predicted at least as high.
    """
    true, gap = rated["true"].to_numpy(), (rated["predicted"] - rated["true"]).to_numpy()
    kinds = {
        "worst false positives": (true == 0) & (gap > 0),
        "worst misses": (true > 0) & (gap < 0),
        "met or exceeded": (true > 0) & (gap >= 0),
    }
    order = np.argsort(-np.abs(gap), kind="stable")
    return {name: order[which[order]] for name, which in kinds.items()}


def cut(cache: LatentCache, latent: int, windows: Windows, texts: Texts) -> list[Shown]:
    """Windows of a split as they are drawn, nothing predicted yet."""
    length = int(min(LENGTH, *(windows.ends.tolist() or [LENGTH])))
    ids = window_tokens(cache, windows, length)
    values = window_values(cache, latent, windows, length)
    nothing = np.full(length, np.nan)
    return [
        Shown(texts(part), true, nothing, f"peak {true.max():.2f}", tuple(part.tolist()))
        for part, true in zip(ids, values, strict=True)
    ]

"""Tokens that a latent keeps silent at although they stand beside its firings.

In: a latent cache. Out: token texts for the simulator's prompt ("not the, of"). A simulator that
rates the text instead of the token is told what the difference is. Beyond the paper.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from rewrite_utils.latents.cache import LatentCache

BESIDE = 3
"""Tokens on either side of a firing that count as beside it."""


def contrast_tokens(cache: LatentCache, latent: int, *, count: int) -> Int[ndarray, " token"]:
    """The commonest tokens beside the latent's firings at which it never fires in these rows."""
    firings = cache.of(latent)
    fires = np.zeros(cache.tokens.shape, bool)
    fires[firings.rows, firings.positions] = True
    ever = np.unique(cache.tokens[fires])
    beside = np.zeros_like(fires)
    for shift in range(1, BESIDE + 1):
        beside[:, shift:] |= fires[:, :-shift]
        beside[:, :-shift] |= fires[:, shift:]
    beside[:, 0] = False  # the BOS is no text
    found, times = np.unique(cache.tokens[beside & ~fires], return_counts=True)
    silent = ~np.isin(found, ever)
    order = np.argsort(-times[silent], kind="stable")
    return found[silent][order][:count]


def contrast_texts(
    cache: LatentCache,
    latent: int,
    *,
    count: int,
    token_texts: Callable[[ndarray], Sequence[str]],
) -> list[str]:
    """Their texts, blanks and repetitions left out."""
    if not count:
        return []
    texts = (text.strip() for text in token_texts(contrast_tokens(cache, latent, count=2 * count)))
    return list(dict.fromkeys(text for text in texts if text))[:count]

"""Latents that are near another one: by decoder direction, and by firing on the same tokens.

In: a coder, a LatentCache. Out: a few (latent, value) pairs, nearest first.
"""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.latents.cache import LatentCache


def cosines(coder: SparseCoder, latent: int) -> Float[ndarray, " latent"]:
    """``direction_cosines`` of a coder's decoder."""
    return direction_cosines(coder.W_dec.detach().float().cpu().numpy(), latent)


def direction_cosines(
    decoder: Float[ndarray, "latent d_out"], latent: int
) -> Float[ndarray, " latent"]:
    """Cosine of every latent's decoder direction with this one's; 0 for a direction of length 0."""
    lengths = np.linalg.norm(decoder, axis=1)
    return decoder @ decoder[latent] / np.maximum(lengths * lengths[latent], 1e-12)


def clusters(
    decoder: Float[ndarray, "latent d_out"], *, cosine: float = 0.5, block: int = 1024
) -> Int[ndarray, " latent"]:
    """Numbers of groups of latents: two whose directions have at least this cosine share one, and
    so do all that are linked by such pairs."""
    unit = decoder / np.maximum(np.linalg.norm(decoder, axis=1, keepdims=True), 1e-12)
    pairs = []
    for start in range(0, len(unit), block):
        row, other = np.nonzero(unit[start : start + block] @ unit.T >= cosine)
        pairs.append(np.stack([row + start, other]))
    row, other = np.concatenate(pairs, axis=1)
    shape = len(unit), len(unit)
    return connected_components(coo_array((np.ones(len(row)), (row, other)), shape=shape))[1]


def cofiring(cache: LatentCache, latent: int) -> Float[ndarray, " latent"]:
    """Jaccard overlap: tokens on which both fire, of those on which either does."""
    hits = cache.grid(latent)[cache.row, cache.position] > 0
    running = np.concatenate([[0], np.cumsum(hits)])
    both = running[cache.start[1:]] - running[cache.start[:-1]]
    either = cache.counts + cache.counts[latent] - both
    return both / np.maximum(either, 1)


def nearest(
    values: Float[ndarray, " latent"], latent: int, *, count: int
) -> list[tuple[int, float]]:
    """The ``count`` other latents with the largest values, the lower index of equals first."""
    order = [one for one in np.argsort(-values, kind="stable").tolist() if one != latent]
    return [(one, float(values[one])) for one in order[:count]]

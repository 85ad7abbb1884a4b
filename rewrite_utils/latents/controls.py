"""The two rewrites that need no LLM, and that every sentence has to beat.

Token table: the mean activation given the last token. Word list: 1 if the last token is among the
latent's strongest eight, else 0. Both see only the last token, and both are fitted on the explain
rows.
"""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.totals import TokenTotals


def token_table(
    cache: LatentCache, windows: Windows, on: LatentCache, *, prior: float = 1.0
) -> Float[ndarray, "window latent"]:
    """E[a_j | last token], from ``cache``, looked up for the windows of ``on``.

    ``prior`` imaginary tokens at the latent's mean pull rare tokens towards it; an unseen token
    gets the mean.
    """
    kinds, where = np.unique(on.tokens[windows.rows, windows.ends], return_inverse=True)
    totals, seen = token_totals(cache, kinds)
    return ((totals + prior * cache.mean) / (seen[:, None] + prior))[where].astype(np.float32)


def vocabulary_table(
    counted: TokenTotals,
    kinds: Int[ndarray, " kind"],
    vectors: Float[ndarray, "kind d"] | None = None,
    *,
    prior: float = 1.0,
    sharpness: float = 12.0,
) -> Float[ndarray, "kind latent"]:
    """E[a_j | token] for every one of ``kinds`` (ascending token ids), which makes a whole layer.

    Rare and unseen tokens lean on ``prior`` tokens at the latent's mean; with ``vectors`` (unit
    length), at the mean of similar tokens instead, weighted by occurrences · exp(sharpness ·
    cosine).
    """
    totals, seen = counted.at(kinds)
    behind = np.broadcast_to(counted.mean, totals.shape)
    if vectors is not None:
        behind = np.empty(totals.shape)
        for start in range(0, len(kinds), 512):
            part = slice(start, start + 512)
            weight = np.exp(sharpness * (vectors[part] @ vectors.T))
            rows = np.arange(len(weight))
            weight[rows, start + rows] = 0  # what it says itself comes on top
            behind[part] = (weight @ totals) / np.maximum(weight @ seen, 1e-12)[:, None]
    return ((totals + prior * behind) / (seen[:, None] + prior)).astype(np.float32)


def word_list(
    cache: LatentCache, windows: Windows, on: LatentCache, *, words: int = 8
) -> Float[ndarray, "window latent"]:
    """1 where the last token is one of the latent's ``words`` strongest tokens, else 0."""
    listed = strongest_tokens(cache, words=words)
    asked = on.tokens[windows.rows, windows.ends]
    return (asked[:, None, None] == listed[None]).any(1).astype(np.float32)


def strongest_tokens(
    cache: LatentCache, *, words: int = 8, least: int = 3
) -> Int[ndarray, "word latent"]:
    """The token ids with the highest mean activation a latent, among those seen ``least`` times.

    A latent with fewer such tokens above zero has -1 in the places left over.
    """
    kinds = np.unique(cache.tokens[:, 1:])
    totals, seen = token_totals(cache, kinds)
    means = np.where((seen >= least)[:, None], totals / np.maximum(seen[:, None], 1), 0)
    order = np.argsort(-means, axis=0, kind="stable")[:words]
    return np.where(np.take_along_axis(means, order, axis=0) > 0, kinds[order], -1)


def token_totals(
    cache: LatentCache, kinds: Int[ndarray, " kind"]
) -> tuple[Float[ndarray, "kind latent"], Int[ndarray, " kind"]]:
    """Summed activation of every latent on every kind of token, and how often that token occurs."""
    everywhere = cache.tokens[:, 1:].ravel()
    index = np.searchsorted(kinds, everywhere).clip(max=len(kinds) - 1)
    seen = np.bincount(index[kinds[index] == everywhere], minlength=len(kinds))
    fired = cache.tokens[cache.row, cache.position]
    kind = np.searchsorted(kinds, fired).clip(max=len(kinds) - 1)
    known = kinds[kind] == fired
    flat = kind[known] * cache.n_latents + cache.latent[known]
    size = len(kinds) * cache.n_latents
    totals = np.bincount(flat, weights=cache.value[known], minlength=size)
    # Without a single firing bincount gives integers, weights or not.
    return totals.astype(float).reshape(len(kinds), cache.n_latents), seen

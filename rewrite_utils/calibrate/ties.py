"""Ratings are float16 with few distinct values: count instead of sorting, evaluate each once.

In: one latent's ratings. Out: its distinct values with their counts, or a curve applied to all of
them. A float16's bits, with the negatives mirrored, order like the numbers: they index a table.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, Integer, UInt16

SIGN = np.uint16(0x8000)


def keys(values: Float[np.ndarray, "*any"]) -> UInt16[np.ndarray, "*any"]:
    """The rank of float16 numbers among all of them, as uint16; −0 counts as +0."""
    bits = values.view(np.uint16)
    if not (bits >= SIGN).any():
        return bits | SIGN
    ranks = np.where(bits & SIGN, ~bits, bits | SIGN)
    return ranks + (ranks == SIGN - 1)


def values_of(ranks: Integer[np.ndarray, " key"]) -> Float[np.ndarray, " key"]:
    """The float16 numbers with these ``keys``, as float32."""
    bits = ranks.astype(np.uint16)
    return np.where(bits & SIGN, bits ^ SIGN, ~bits).view(np.float16).astype(np.float32)


def distinct(
    column: Float[np.ndarray, " window"],
) -> tuple[Float[np.ndarray, " value"], Int[np.ndarray, " value"]]:
    """The distinct values, ascending (float32), and how often each occurs."""
    if column.dtype != np.float16:
        values, counts = np.unique(column, return_counts=True)
        return values.astype(np.float32), counts
    ranks = keys(column)
    low = int(ranks.min())
    counts = np.bincount(ranks - np.uint16(low))
    present = np.flatnonzero(counts)
    return values_of(present + low), counts[present]


def evaluate(
    column: Float[np.ndarray, "*any"], curve: Callable[[np.ndarray], np.ndarray]
) -> Float[np.ndarray, "*any"]:
    """``curve`` at every entry; float16 entries through a table when that has fewer entries."""
    if column.dtype != np.float16 or column.size == 0:
        return curve(column)
    ranks = keys(column)
    low, high = int(ranks.min()), int(ranks.max())
    if high - low > 4 * column.size:
        return curve(column.astype(np.float32))
    return curve(values_of(np.arange(low, high + 1)))[ranks - np.uint16(low)]

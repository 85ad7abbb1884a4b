"""Which stretches of text stand for a latent: where it fires, where it is silent, or any at all.

In: a LatentCache. Out: Windows, each a row and the position of its last token; the BOS is in none
of them. Paper §3 (rank deciles of the windows' maxima), §4 (random windows), §5 (drawn ends).
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from rewrite_utils.latents.cache import LatentCache, Windows


def firing_windows(
    cache: LatentCache, latent: int, *, window_tokens: int
) -> tuple[Windows, Float[ndarray, " window"]]:
    """Non-overlapping windows in which ``latent`` fires, placed around their peaks, and the peaks.

    Each row is cut into segments of ``window_tokens``; a segment's strongest token sits two thirds
    into its window, so that the reader sees what comes before it.
    """
    firings = cache.of(latent)
    segment = (
        firings.rows.astype(np.int64) * cache.tokens.shape[1] + firings.positions // window_tokens
    )
    order = np.lexsort((-firings.values, segment))
    peaks = order[np.unique(segment[order], return_index=True)[1]]
    rows, values = firings.rows[peaks].astype(np.int64), firings.values[peaks]
    ends = firings.positions[peaks].astype(np.int64) + window_tokens // 3
    ends = np.clip(ends, window_tokens, cache.tokens.shape[1] - 1)
    while (weaker := _overlapped(rows, ends, values, window_tokens)).any():
        rows, ends, values = rows[~weaker], ends[~weaker], values[~weaker]
    return Windows(rows, ends), values


def _overlapped(
    rows: Int[ndarray, " window"],
    ends: Int[ndarray, " window"],
    values: Float[ndarray, " window"],
    length: int,
) -> Bool[ndarray, " window"]:
    """Which windows, in order of row and end, share tokens with a stronger neighbour (the first
    of two equal ones is the stronger)."""
    overlap = (np.diff(rows) == 0) & (np.diff(ends) < length)
    later_wins = values[1:] > values[:-1]
    weaker = np.zeros(len(rows), bool)
    weaker[:-1] |= overlap & later_wins
    weaker[1:] |= overlap & ~later_wins
    return weaker


def by_deciles(
    peaks: Float[ndarray, " window"],
    count: int,
    generator: np.random.Generator,
    *,
    spread: bool = False,
) -> Int[ndarray, " chosen"]:
    """``count`` windows, as evenly as possible from the ten rank deciles of their peaks, strongest
    first.

    What is left after whole rounds of ten is one each of the strongest deciles, or with ``spread``
    of deciles at equal steps from strongest to weakest.
    """
    ranked = np.argsort(-peaks, kind="stable")
    deciles = [generator.permutation(part) for part in np.array_split(ranked, 10)]
    rounds = [
        [part[turn] for part in deciles if turn < len(part)] for turn in range(len(deciles[0]))
    ]
    chosen: list[int] = []
    for turn in rounds:
        left, n = count - len(chosen), len(turn)
        if spread and left < n:  # the middles of as many equal stretches
            chosen += [turn[int((place + 0.5) * n / left)] for place in range(left)]
        else:
            chosen += turn[:left]
    return np.array(sorted(chosen, key=lambda window: -peaks[window]), dtype=np.int64)


def silent_windows(
    cache: LatentCache,
    latent: int,
    *,
    window_tokens: int,
    count: int,
    generator: np.random.Generator,
) -> Windows:
    """Up to ``count`` windows in which the latent is silent, one a row.

    Rows in which it fires nowhere come first (the paper takes only those); a latent of a narrow
    coder fires in every row, and then windows of other rows in which it is silent follow.
    """
    n_rows, length = cache.tokens.shape
    fires = cache.grid(latent) > 0
    before = np.pad(fires.cumsum(1), ((0, 0), (1, 0)))
    ends = np.stack(
        [generator.permutation(np.arange(window_tokens, length)) for _ in range(n_rows)]
    )
    until, since = (np.take_along_axis(before, ends + 1 - n, 1) for n in (0, window_tokens))
    inside = until - since
    silent = np.flatnonzero((inside == 0).any(1))
    order = generator.permutation(silent)
    order = order[np.argsort(fires[order].any(1), kind="stable")][:count]
    return Windows(order, ends[order, (inside[order] == 0).argmax(1)])


def draw_windows(
    where: Bool[ndarray, "row pos"],
    count: int,
    *,
    first: int,
    last: int,
    generator: np.random.Generator,
) -> Windows:
    """``count`` different windows, ends uniform in first … last, of those ``where`` one may end; a
    row is used twice only after all once. A larger ``count`` begins with the same windows.

    Raises ValueError when there are fewer (row, position) pairs than windows.
    """
    n_rows, places = len(where), int(where[:, first : last + 1].sum())
    if count > places:
        raise ValueError(
            f"{count} windows asked for, but {n_rows} rows have only {places} positions "
            f"{first} … {last}: lower the number of windows or give the split a larger share"
        )
    # Each row's ends before the rows' order: then more windows begin with the same windows.
    ends = generator.permuted(np.tile(np.arange(first, last + 1), (n_rows, 1)), axis=1)
    usable = np.take_along_axis(where, ends, 1)
    ends = np.take_along_axis(ends, np.argsort(~usable, axis=1, kind="stable"), 1)
    rows, turns = np.zeros((2, 0), np.int64)
    while len(rows) < count:
        turn = turns[-1] + 1 if len(turns) else 0
        order = generator.permutation(n_rows)
        order = order[usable.sum(1)[order] > turn]
        rows, turns = np.append(rows, order), np.append(turns, np.full(len(order), turn))
    return Windows(rows[:count], ends[rows, turns][:count])


def shared_rows(rows: Int[ndarray, " window"]) -> Int[ndarray, " window"] | None:
    """The row of each window where some rows have several, to be resampled instead of windows; None
    where every window has a row of its own."""
    return rows if len(np.unique(rows)) < len(rows) else None


def window_tokens(cache: LatentCache, windows: Windows, length: int) -> Int[ndarray, "window pos"]:
    """Token ids of each window, ``length`` of them, the rated one last."""
    return cache.tokens[_inside(windows, length)]


def _inside(windows: Windows, length: int) -> tuple[ndarray, ndarray]:
    return windows.rows[:, None], windows.ends[:, None] + np.arange(1 - length, 1)


def window_values(
    cache: LatentCache, latent: int, windows: Windows, length: int
) -> Float[ndarray, "window pos"]:
    """The latent's activation at every token of each window."""
    return cache.grid(latent)[_inside(windows, length)]


def grid_windows(cache: LatentCache, length: int) -> Windows:
    """Every row cut into windows of ``length`` tokens, the BOS and a shorter rest left out."""
    n_rows, width = cache.tokens.shape
    ends = np.arange(length, width, length)
    return Windows(np.repeat(np.arange(n_rows), len(ends)), np.tile(ends, n_rows))


def silent_in(
    cache: LatentCache, latent: int, windows: Windows, length: int
) -> Bool[ndarray, " window"]:
    """Whether the latent fires nowhere in each window."""
    return ~(window_values(cache, latent, windows, length) > 0).any(1)


def apart_from(windows: Windows, others: Windows, length: int) -> Bool[ndarray, " window"]:
    """Which windows share no token with any of ``others``; both have ``length`` tokens."""
    same = windows.rows[:, None] == others.rows[None]
    return ~(same & (abs(windows.ends[:, None] - others.ends[None]) < length)).any(1)


def some(windows: Windows, which: Int[ndarray, " chosen"] | Bool[ndarray, " window"]) -> Windows:
    """Those of the windows at these places, in their order."""
    return Windows(windows.rows[which], windows.ends[which])


def one_after_another(*parts: Windows) -> Windows:
    """All windows of the parts."""
    return Windows(*(np.concatenate(both) for both in zip(*parts, strict=True)))

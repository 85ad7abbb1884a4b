"""A whole simulation: every (window, latent) pair in blocks, kept as they finish.

In: windows, descriptions, a simulator. Out: ``predictions.zarr`` in a folder; until then, blocks,
so that a run killed at any moment goes on where it stopped and ends with the same bytes.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from tqdm.auto import tqdm

from rewrite_utils.llm.protocol import Usage
from rewrite_utils.simulate.prompt import Window
from rewrite_utils.simulate.ratings import RESULT, Block, unfinished, write_group
from rewrite_utils.simulate.simulators import Simulator

A_BLOCK = 4
"""Windows in a block; latents, where the prompts of one sentence come together."""


class Part(NamedTuple):
    """How much of a simulation is wanted now; the rest can follow."""

    limit: int | None = None
    """Stop after so many blocks of the whole; None: all of them."""
    latents: tuple[int, ...] = ()
    """Rate these latents only; empty: all of them."""


class Unfinished(RuntimeError):
    """Part of a simulation was asked for and is done; its blocks are kept."""


class _Place(NamedTuple):
    """One block of the whole."""

    file: Path
    """Where it waits."""
    windows: slice
    """Its windows."""
    latents: slice
    """Its latents."""


def simulate(
    windows: Sequence[Window],
    descriptions: Mapping[int, str],
    simulator: Simulator,
    *,
    folder: Path,
    name: str,
    sent: Bool[ndarray, "window latent"] | None = None,
    part: Part | None = None,
) -> None:
    """Rate every (window, latent) pair and write ``folder``/predictions.zarr, if it is not there.

    ``descriptions``: by latent. ``sent``: the pairs that screening lets through (None: all).
    ``part``: only some of it; the result is written once every pair is there. Raises
    ExplanationError before anything is asked, ValueError on a latent that is not described.
    """
    latents = list(descriptions)
    places = list(_places(len(windows), len(latents), folder, simulator.latents_outside))
    if (folder / RESULT).exists():
        _remove(places)
        return
    simulator.check(windows, descriptions)
    asked = _asked(latents, len(windows), sent, part or Part())
    texts = list(descriptions.values())

    def rate(place: _Place) -> int:
        parts = windows[place.windows], texts[place.latents]
        return _rate_block(_block(place), parts, asked[place.windows, place.latents], simulator)

    chosen = places[: part.limit if part else None]
    missing = [_missing(place, asked) for place in chosen]
    left = [place for place, count in zip(chosen, missing, strict=True) if count]
    total = sum(int(asked[place.windows, place.latents].sum()) for place in chosen)
    _work(rate, left, simulator, name=name, total=total, there=total - sum(missing))
    _gather(places, folder, sent, axis=int(simulator.latents_outside))


def _work(
    rate: Callable[[_Place], int],
    places: Sequence[_Place],
    simulator: Simulator,
    *,
    name: str,
    total: int,
    there: int,
) -> None:
    """Rate the blocks, as many at a time as the simulator has workers.

    ``there``: pairs of the ``total`` that were rated before; they say nothing about the speed.
    """
    before, what = simulator.usage, f"simulation of {name}"
    bar = tqdm(total=total, initial=there, desc=what, unit="prediction", smoothing=0.05)
    with bar as progress, _spread(simulator.workers) as over:
        for rated in over(rate, places):
            progress.set_postfix(_speed(simulator, before))
            progress.update(rated)


@contextlib.contextmanager
def _spread(workers: int) -> Iterator[Callable[..., Iterator[int]]]:
    """``map``, over so many threads; what has not begun when one fails is left."""
    if workers == 1:
        yield map
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _speed(simulator: Simulator, before: Usage) -> dict[str, str]:
    """What it has done since, all of its workers together."""
    spent = simulator.usage.since(before)
    return spent._replace(seconds=spent.seconds / simulator.workers).summary()


def finished(folder: Path) -> bool:
    """Whether the simulation in this folder is whole."""
    return (folder / RESULT).exists()


def require_known(part: Part, latents: Sequence[int]) -> None:
    """Raise ValueError at a latent of the part that has no sentence."""
    unknown = sorted(set(part.latents) - set(latents))
    if unknown:
        known = ", ".join(map(str, latents[:20])) + (" …" if len(latents) > 20 else "")
        raise ValueError(f"latent {unknown[0]} has no sentence here; use some of {known}")


def _asked(
    latents: Sequence[int], windows: int, sent: Bool[ndarray, "window latent"] | None, part: Part
) -> Bool[ndarray, "window latent"]:
    """Which pairs are wanted now."""
    require_known(part, latents)
    asked = np.ones((windows, len(latents)), bool) if sent is None else sent.copy()
    if part.latents:
        asked &= np.isin(latents, part.latents)
    return asked


def _rate_block(
    block: Block,
    parts: tuple[Sequence[Window], Sequence[str]],
    wanted: Bool[ndarray, "window latent"],
    simulator: Simulator,
) -> int:
    """Ask for what is wanted and not there yet, and keep it; how many pairs that was."""
    missing = wanted & ~block.asked
    windows, texts = parts
    if simulator.latents_outside:
        column, row = np.nonzero(missing.T)
    else:
        row, column = np.nonzero(missing)
    found = simulator.rate([(windows[w], texts[j]) for w, j in zip(row, column, strict=True)])
    block.fill(row, column, found)
    return len(row)


def _missing(place: _Place, asked: Bool[ndarray, "window latent"]) -> int:
    """Pairs of a block that are wanted and not there yet."""
    return int((asked[place.windows, place.latents] & ~_block(place).asked).sum())


def _places(windows: int, latents: int, folder: Path, latents_outside: bool) -> Iterator[_Place]:
    """The blocks of the whole: some windows with all latents, or some latents with all windows."""
    for start in range(0, latents if latents_outside else windows, A_BLOCK):
        file, some = folder / f"block-{start:06d}.npz", slice(start, start + A_BLOCK)
        if latents_outside:
            yield _Place(file, slice(0, windows), slice(start, min(start + A_BLOCK, latents)))
        else:
            yield _Place(file, slice(start, min(some.stop, windows)), slice(0, latents))


def _block(place: _Place) -> Block:
    return Block(place.file, tuple(part.stop - part.start for part in place[1:]))


def _gather(places: list[_Place], folder: Path, sent: ndarray | None, *, axis: int) -> None:
    """Once every block has all it should, one zarr group takes their place."""
    blocks = [_block(place) for place in places]
    for place, block in zip(places, blocks, strict=True):
        wanted = True if sent is None else sent[place.windows, place.latents]
        if (wanted & ~block.asked).any():
            return
    arrays = next((block.arrays for block in blocks if block.arrays), {})
    whole = [block.arrays or _empty(block, arrays) for block in blocks]
    write_group(folder, whole, axis=axis, sent=sent)
    _remove(places)


def _empty(block: Block, like: Mapping[str, ndarray]) -> dict[str, ndarray]:
    """A block of which screening let nothing through."""
    return {
        name: np.full((*block.shape, *array.shape[2:]), np.nan, np.float16)
        for name, array in like.items()
    }


def _remove(places: list[_Place]) -> None:
    for place in places:
        place.file.unlink(missing_ok=True)
        unfinished(place.file).unlink(missing_ok=True)

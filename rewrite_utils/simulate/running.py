"""A whole simulation: every (window, latent) pair in blocks, kept as they finish.

In: windows, descriptions, a simulator. Out: ``predictions.zarr`` in a folder; until then, blocks,
so that a run killed at any moment goes on where it stopped and ends with the same bytes.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from tqdm.auto import tqdm

from rewrite_utils.llm.protocol import EngineError, Usage
from rewrite_utils.simulate.prompt import Window
from rewrite_utils.simulate.ratings import RESULT, Block, write_group
from rewrite_utils.simulate.simulators import Simulator

A_BLOCK = 4
"""Windows in a block; latents, where the prompts of one sentence come together."""
LEAST_MASS = 0.5
"""Median probability of the ten digits below which a model does not answer with a digit."""


class Part(NamedTuple):
    """How much of a simulation is wanted now; the rest can follow."""

    limit: int | None = None
    """Stop after so many blocks of the whole; None: all of them."""
    latents: tuple[int, ...] = ()
    """Rate these latents only; empty: all of them."""


class Unfinished(RuntimeError):
    """Part of a simulation was asked for and is done; its blocks are kept."""


def simulate(
    windows: Sequence[Window],
    descriptions: Mapping[int, str],
    simulator: Simulator,
    *,
    folder: Path,
    name: str,
    sent: Bool[ndarray, "window latent"] | None = None,
    part: Part | None = None,
    least_mass: float = LEAST_MASS,
) -> None:
    """Rate every (window, latent) pair and write ``folder``/predictions.zarr, if it is not there.

    ``descriptions``: by latent. ``sent``: the pairs that screening lets through (None: all).
    ``part``: only some of it; the result is written once every pair is there. Raises
    ExplanationError before anything is asked, ValueError on a latent that is not described,
    EngineError where the digits have less than ``least_mass``.
    """
    latents, part = list(descriptions), part or Part()
    blocks = _blocks(len(windows), len(latents), folder, simulator.latents_outside)
    if not finished(folder):
        simulator.check(windows, descriptions)
        require_known(part, latents)
        whole = np.ones((len(windows), len(latents)), bool) if sent is None else sent
        asked = whole & np.isin(latents, part.latents or latents)
        texts = list(descriptions.values())

        def rate(block: Block) -> int:
            parts = windows[block.windows], texts[block.latents]
            return _rate_block(block, parts, block.missing(asked), simulator, least_mass)

        _work(rate, blocks, blocks[: part.limit], asked, simulator, name)
        if any(block.missing(whole).any() for block in blocks):
            return
        write_group(folder, blocks, axis=int(simulator.latents_outside), sent=sent)
    for block in blocks:
        block.file.unlink(missing_ok=True)


def finished(folder: Path) -> bool:
    """Whether the simulation in this folder is whole."""
    return (folder / RESULT).exists()


def require_known(part: Part, latents: Sequence[int]) -> None:
    """Raise ValueError at a latent of the part that has no sentence."""
    unknown = sorted(set(part.latents) - set(latents))
    if unknown:
        known = ", ".join(map(str, latents[:20])) + (" …" if len(latents) > 20 else "")
        raise ValueError(f"latent {unknown[0]} has no sentence here; use some of {known}")


def _blocks(windows: int, latents: int, folder: Path, latents_outside: bool) -> list[Block]:
    """The blocks of the whole: some windows with all latents, or some latents with all windows."""
    count, blocks = latents if latents_outside else windows, []
    for start in range(0, count, A_BLOCK):
        file, some = folder / f"block-{start:06d}.npz", slice(start, min(start + A_BLOCK, count))
        both = (slice(0, windows), some) if latents_outside else (some, slice(0, latents))
        blocks.append(Block(file, *both))
    return blocks


def _work(
    rate: Callable[[Block], int],
    blocks: Sequence[Block],
    chosen: Sequence[Block],
    asked: Bool[ndarray, "window latent"],
    simulator: Simulator,
    name: str,
) -> None:
    """Rate what the chosen blocks miss, as many at a time as the simulator has workers."""
    left = [block for block in chosen if block.missing(asked).any()]
    others = {engine for block in blocks for engine in block.engines} - {_label(simulator)}
    if left and others:
        warnings.warn(
            f"{left[0].file.parent} was begun with {', '.join(sorted(others))} and goes on with "
            f"{_label(simulator)}: their ratings differ in the last bits, and the manifest will "
            "name both; remove the folder to have all of them from one",
            stacklevel=3,
        )
    total = sum(int(block.of(asked).sum()) for block in chosen)
    there = total - sum(int(block.missing(asked).sum()) for block in left)  # no part of the speed
    before, what = simulator.usage, f"simulation of {name}"
    bar = tqdm(total=total, initial=there, desc=what, unit="prediction", smoothing=0.05)
    with bar as progress, _spread(simulator.workers) as over:
        for rated in over(rate, left):
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


def _rate_block(
    block: Block,
    parts: tuple[Sequence[Window], Sequence[str]],
    missing: Bool[ndarray, "window latent"],
    simulator: Simulator,
    least_mass: float,
) -> int:
    """Ask for what is missing, and keep it; how many pairs that was."""
    windows, texts = parts
    row, column = np.nonzero(missing)
    if simulator.latents_outside:
        column, row = np.nonzero(missing.T)
    found = simulator.rate([(windows[w], texts[j]) for w, j in zip(row, column, strict=True)])
    mass = float(np.median(found.get("mass", 1.0)))
    if mass < least_mass:
        model = getattr(simulator, "model", "") or _label(simulator)
        raise EngineError(
            f"{model} gives the ten digits together a "
            f"median probability of {mass:.2f} where a rating belongs: it would write something "
            "else there, and E would be of what it hardly considers. Choose a simulator.model that "
            "follows instructions and does not think first, or set simulate.digits: strings"
        )
    block.fill(row, column, found, engine=_label(simulator))
    return len(row)


def _label(simulator: Simulator) -> str:
    """What rates: the engine's label, or the name of a simulator that asks no LLM."""
    return getattr(simulator, "label", type(simulator).__name__)

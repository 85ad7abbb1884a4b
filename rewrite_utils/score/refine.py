"""One round of refinement: a sentence is tried on held-out windows and written anew from its
mistakes.

In: explanations, the Source they came from, an engine. Out: the same table with the better
sentences in it. The windows are explain rows, none of them shown before; the score rows are not
touched. Beyond the paper.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray

from rewrite_utils.explain.asking import Explanation, ask, in_batches, prompt, sentence
from rewrite_utils.explain.evidence import Question, Source
from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.windows import (
    apart_from,
    by_deciles,
    firing_windows,
    grid_windows,
    silent_in,
    window_tokens,
)
from rewrite_utils.llm.engine import Engine
from rewrite_utils.score.detection import Asked, judged

MOST = 4
"""Mistakes of a kind that are shown, the gravest first."""


class Refined(NamedTuple):
    """An explanation after the round, and what it went through."""

    latent: int
    """Index in the coder."""
    explanation: str | None
    """The new sentence; the old one where there was no mistake or no new sentence came."""
    pieces: str
    """The tokens named before the sentence."""
    tokens: str
    """The latent's strongest tokens."""
    reply: str
    """The whole last reply."""
    attempts: int
    """Replies asked for in this round; 0: none was needed."""
    prompt_tokens: int
    """Length of this round's prompt; 0: none."""
    before: str | None
    """The sentence before the round."""
    misses: int
    """Held-out firing windows that the old sentence missed."""
    alarms: int
    """Held-out silent windows that it took for firing ones."""


class Tried(NamedTuple):
    """Held-out windows and what a judge made of them."""

    windows: Windows
    """Firing ones first."""
    active: Bool[ndarray, " window"]
    """Whether the latent fires in it."""


class Mistakes(NamedTuple):
    """Places among the tried windows, the gravest mistakes first."""

    misses: Sequence[int]
    """Firing windows judged silent."""
    alarms: Sequence[int]
    """Silent windows judged firing."""


def refine(
    source: Source,
    explanations: pd.DataFrame,
    engine: Engine,
    *,
    folder: Path,
    batch: int = 16,
) -> pd.DataFrame:
    """Every explanation after one round; a latent without one stays without one."""
    old = {record.latent: record for record in _records(explanations)}

    def again(part: Sequence[int]) -> Iterable[Refined]:
        return refined(source, {latent: old[latent] for latent in part}, engine)

    records = in_batches(list(old), again, folder=folder, batch=batch, name="refinement")
    table = pd.DataFrame(records, columns=list(Refined._fields))
    kind = source.settings.evidence
    return table.assign(sentence=[sentence(record, kind) for record in _records(table)])


def refined(source: Source, old: Mapping[int, Explanation], engine: Engine) -> list[Refined]:
    """Try, collect the mistakes, ask once more where there are any."""
    tried = {latent: held_out(source, latent) for latent, one in old.items() if one.explanation}
    asked = [
        Asked(sentence(old[latent], source.settings.evidence) or "", _texts(source, one.windows))
        for latent, one in tried.items()
    ]
    said = judged(engine, asked, per_prompt=1)
    wrong = {
        latent: mistakes(one.active, probability)
        for (latent, one), probability in zip(tried.items(), said, strict=True)
    }
    questions = {
        latent: Question(old[latent].tokens, text(source, old[latent], tried[latent], found))
        for latent, found in wrong.items()
        if found.misses or found.alarms
    }
    new = {
        record.latent: record
        for record in ask(
            engine,
            questions,
            source.settings,
            lambda evidence: prompt(engine.tokenizer, evidence, name="refine"),
            source.seed + 1,
        )
    }
    return [_after(one, new.get(latent), wrong.get(latent)) for latent, one in old.items()]


def held_out(source: Source, latent: int) -> Tried:
    """Firing and silent windows of the explain rows that share no token with those shown."""
    cache, settings = source.cache, source.settings
    length, shown = settings.window_tokens, source.chosen(latent)
    generator = np.random.default_rng([source.seed, latent, 1])
    firing, peaks = firing_windows(cache, latent, window_tokens=length)
    new = apart_from(firing, shown.firing, length) & apart_from(
        firing, shown.counter.windows, length
    )
    ranked = by_deciles(peaks[new], settings.refine, generator, spread=True)
    chosen = np.flatnonzero(new)[ranked]
    grid = grid_windows(cache, length)
    free = silent_in(cache, latent, grid, length)
    free &= apart_from(grid, shown.firing, length) & apart_from(grid, shown.counter.windows, length)
    silent = generator.permutation(np.flatnonzero(free))[: settings.refine]
    windows = Windows(
        np.concatenate([firing.rows[chosen], grid.rows[silent]]),
        np.concatenate([firing.ends[chosen], grid.ends[silent]]),
    )
    return Tried(windows, np.arange(len(windows.rows)) < len(chosen))


def mistakes(active: Bool[ndarray, " window"], probability: Float[ndarray, " window"]) -> Mistakes:
    """What a judge gets wrong who says yes as often as windows are active.

    Not "above one half": a small judge says no to nearly everything, and its order still counts.
    Ties go to the silent window, so that a judge who cannot tell is wrong.
    """
    order = np.lexsort((active, -probability))
    said = np.zeros(len(active), bool)
    said[order[: int(active.sum())]] = True
    alarms = [int(i) for i in order if said[i] and not active[i]]
    misses = [int(i) for i in order[::-1] if active[i] and not said[i]]
    return Mistakes(misses, alarms)


def text(source: Source, old: Explanation, tried: Tried, found: Mistakes) -> str:
    """The evidence of the round as it stands in the prompt."""
    lines = [f"Most on average: {old.tokens}", f"Old explanation: {old.explanation}"]
    for heading, places in (("Missed:", found.misses), ("False alarms:", found.alarms)):
        some = list(places[:MOST])
        windows = Windows(tried.windows.rows[some], tried.windows.ends[some])
        shown = (
            source.window_lines(old.latent, windows, strengths_too=False)
            if heading == "Missed:"
            else source.plain_lines(windows)
        )
        lines += [heading, *shown] if some else []
    return "\n".join(lines)


def _records(table: pd.DataFrame) -> list[Explanation]:
    """The rows as records; a missing sentence is None, not NaN."""
    rows = table[list(Explanation._fields)].itertuples(index=False)
    found = [Explanation(*row) for row in rows]
    return [
        one if isinstance(one.explanation, str) else one._replace(explanation=None) for one in found
    ]


def _texts(source: Source, windows: Windows) -> list[str]:
    ids = window_tokens(source.cache, windows, source.settings.window_tokens)
    return ["".join(source.texts(row)) for row in ids]


def _after(old: Explanation, new: Explanation | None, found: Mistakes | None) -> Refined:
    """The new sentence if there is one, beside the old one."""
    counts = (len(found.misses), len(found.alarms)) if found else (0, 0)
    if new is None:
        kept = old._replace(attempts=0, prompt_tokens=0)
    elif new.explanation is None:
        kept = new._replace(explanation=old.explanation, pieces=old.pieces)
    else:
        kept = new
    return Refined(*kept, old.explanation, *counts)

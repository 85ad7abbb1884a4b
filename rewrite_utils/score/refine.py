"""One round of refinement: a sentence is tried on held-out windows and written anew from its
mistakes.

In: explanations, the Source they came from, an engine. Out: the same table with the better
sentences in it. The windows are explain rows, none of them shown before; the score rows are not
touched. Beyond the paper.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray

from rewrite_utils.explain.asking import EXPLANATIONS, Explanation, ask, prompt, sentence
from rewrite_utils.explain.evidence import Question, Source
from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.windows import (
    apart_from,
    by_deciles,
    firing_windows,
    grid_windows,
    one_after_another,
    silent_in,
    some,
    window_tokens,
)
from rewrite_utils.llm.batches import in_batches
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import Prompt
from rewrite_utils.score.detection import Asked, judged

MOST = 4
"""Mistakes of a kind that are shown, the gravest first."""


class Refined(NamedTuple):
    """An explanation after the round, and what it went through."""

    now: Explanation
    """With the new sentence, or the old one where there was no mistake or no new sentence came;
    reply, attempts and prompt_tokens are this round's, 0 attempts where none was needed."""
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
    """Every explanation after one round, beside what it was; a latent without one stays without."""
    old, kind = _records(explanations), source.settings.evidence

    def again(part: Sequence[int]) -> pd.DataFrame:
        found = refined(source, {latent: old[latent] for latent in part}, engine)
        rows = [
            one.now._asdict() | {f: getattr(one, f) for f in Refined._fields[1:]} for one in found
        ]
        return pd.DataFrame(rows).assign(sentence=[sentence(one.now, kind) for one in found])

    return in_batches(list(old), again, file=folder / EXPLANATIONS, name="refinement", batch=batch)


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

    def frame(evidence: str) -> Prompt:
        return prompt(engine.tokenizer, evidence, name="refine")

    answers = ask(engine, questions, source.settings, frame, source.seed + 1)
    new = {record.latent: record for record in answers}
    return [_after(one, new.get(latent), wrong.get(latent)) for latent, one in old.items()]


def held_out(source: Source, latent: int) -> Tried:
    """Firing and silent windows of the explain rows that share no token with those shown."""
    cache, settings = source.cache, source.settings
    length, shown = settings.window_tokens, source.chosen(latent)
    seen = one_after_another(shown.firing, shown.counter.windows)
    generator = np.random.default_rng([source.seed, latent, 1])
    firing, peaks = firing_windows(cache, latent, window_tokens=length)
    new = np.flatnonzero(apart_from(firing, seen, length))
    chosen = new[by_deciles(peaks[new], settings.refine, generator, spread=True)]
    grid = grid_windows(cache, length)
    free = silent_in(cache, latent, grid, length) & apart_from(grid, seen, length)
    silent = generator.permutation(np.flatnonzero(free))[: settings.refine]
    windows = one_after_another(some(firing, chosen), some(grid, silent))
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
    missed, alarms = (some(tried.windows, np.array(places[:MOST], int)) for places in found)
    if found.misses:
        lines += ["Missed:", *source.window_lines(old.latent, missed, strengths_too=False)]
    if found.alarms:
        lines += ["False alarms:", *source.plain_lines(alarms)]
    return "\n".join(lines)


def _records(table: pd.DataFrame) -> dict[int, Explanation]:
    """The rows as records by latent; a missing sentence is None, not NaN."""
    rows = table[list(Explanation._fields)].astype(object).where(table.notna(), None)
    return {row.latent: Explanation(*row) for row in rows.itertuples(index=False)}


def _texts(source: Source, windows: Windows) -> list[str]:
    ids = window_tokens(source.cache, windows, source.settings.window_tokens)
    return ["".join(source.texts(row)) for row in ids]


def _after(old: Explanation, new: Explanation | None, found: Mistakes | None) -> Refined:
    """The new sentence if there is one, beside the old one."""
    counts = (len(found.misses), len(found.alarms)) if found else (0, 0)
    if new is None:
        now = old._replace(attempts=0, prompt_tokens=0)
    elif new.explanation is None:
        now = new._replace(explanation=old.explanation, pieces=old.pieces)
    else:
        now = new
    return Refined(now, old.explanation, *counts)

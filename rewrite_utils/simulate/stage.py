"""The stage of notebook 05: the simulator's ratings of every (window, sentence)."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray

from rewrite_utils import simulate as simulating
from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.explain.contrast import contrast_texts
from rewrite_utils.explain.stage import Texts, latent_count
from rewrite_utils.latents.stage import SIMULATED, Caches, Drawn
from rewrite_utils.latents.windows import window_tokens, window_values
from rewrite_utils.llm import opening, prompts
from rewrite_utils.llm.lengths import FRAME, SENTENCE, prompt_tokens, require_fits
from rewrite_utils.llm.lengths import asked as asked_of
from rewrite_utils.params import LLM, Params, Simulate, Site
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.stage import Declared
from rewrite_utils.simulate import judging, screening

SLOTTED = 4
"""Tokens that a window's token costs in the all-positions mode: line end, token, slot, filler."""


class Rated:
    """The ratings of the simulated windows, by split; columns as in ``site.simulated``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, split: str) -> simulating.Ratings:
        """The simulator's ratings of a split's windows."""
        return simulating.read_ratings(self._folder / split)

    def sent(self, split: str) -> Bool[ndarray, "window latent"]:
        """Which pairs went to the simulator: all of them unless ``simulate.screen`` is below 1."""
        return simulating.read_sent(self._folder / split)

    def ranked(self, split: str) -> Float[ndarray, "window latent"]:
        """E as it ranks pairs: those that screening left out stand below all others, at −1."""
        return np.nan_to_num(self(split).expected.astype(np.float64), nan=-1.0)


class Telling:
    """What the simulator is told: a text about each latent, and the windows as it reads them."""

    def __init__(
        self,
        *,
        cache: Caches,
        windows: Drawn,
        quoted: Texts,
        f1_of: Callable[[int], float | None],
        params: Params,
    ) -> None:
        self._cache, self._windows, self._quoted = cache, windows, quoted
        self._f1_of, self._asked = f1_of, params.simulate

    def about(self, latent: int, sentence: str, asked: Simulate | None = None) -> str:
        """What it reads about one latent, if this were its sentence."""
        asked, explain = asked or self._asked, self._cache("explain")
        count, texts = asked.show_contrast, self._quoted
        return simulating.described(
            sentence,
            latent=latent,
            rate=float(explain.rate[latent]) if asked.show_rate else None,
            score=self._f1_of(latent) if asked.show_score else None,
            contrast=contrast_texts(explain, latent, count=count, token_texts=texts),
            ahead=asked.notes == "ahead",
        )

    def windows(self, split: str) -> list[simulating.Window]:
        """The simulated windows of a split, in order."""
        drawn, length = self._windows.simulated(split), self._asked.window_tokens
        ids = window_tokens(self._cache(split), drawn, length)
        return [simulating.Window.of(self._quoted(row)) for row in ids]


def descriptions(*, sentences: dict[int, str], telling: Telling) -> dict[int, str]:
    """What the simulator reads about each simulated latent."""
    return {latent: telling.about(latent, sentence) for latent, sentence in sentences.items()}


def asked_hashes(asked: Simulate, llm: LLM, windows: list[int], seed: int) -> dict[str, Any]:
    """How the simulator is asked, and of which windows."""
    return {
        "simulate": asked.content(),
        "windows": windows,
        "llm": llm.content(),
        "prompt": prompts.digest(simulating.wording(asked)),
        "seed": seed,
    }


def simulation_hashes(*, params: Params, settings: Site) -> dict[str, Any]:
    """How the simulator is asked, and of which windows."""
    asked, windows = params.simulate, [settings.calibrate_windows, settings.evaluate_windows]
    content = asked_hashes(asked, params.simulator, windows, params.seed)
    return content | (params.score.reading() if asked.show_score else {})


def told_on(asked: Simulate) -> tuple[str, ...]:
    """The sentences, and their scores where those are told."""
    return ("sentences_stage", *(["scores_stage"] if asked.show_score else []))


def opened(asked: Simulate, params: Params) -> simulating.Simulator:
    """The run's simulator, asked in this way."""
    engine = opening.engine(simulating.reading(asked, params.simulator))
    return simulating.open_simulator(asked, engine)


def make_simulation(
    folder: Path,
    *,
    telling: Telling,
    sentences: dict[int, str],
    descriptions: dict[int, str],
    params: Params,
    name: str,
    part: simulating.Part | None = None,
) -> dict[str, Any]:
    """The simulator's ratings of the calibrate and the evaluate windows, or part of them.

    Raises Unfinished when the part is done and the whole is not.
    """
    texts = {split: telling.windows(split) for split in SIMULATED}
    simulator = opened(params.simulate, params)
    before, sent = simulator.usage, _sent(params.simulate, texts, sentences)
    for split, windows in texts.items():
        (folder / split).mkdir(exist_ok=True)
        how = {"name": f"{name}, {split}", "sent": sent.get(split), "part": part}
        simulating.simulate(windows, descriptions, simulator, folder=folder / split, **how)
    missing = [split for split in SIMULATED if not simulating.finished(folder / split)]
    if missing:
        raise simulating.Unfinished(f"{name}: {' and '.join(missing)} windows in part")
    return {
        "latents": list(sentences),
        "units": len(descriptions) * sum(map(len, texts.values())),
        "blocks by engine": {split: simulating.read_engines(folder / split) for split in texts},
        "usage": simulator.usage.since(before)._asdict(),
    }


def _sent(
    asked: Simulate, windows: dict[str, list[simulating.Window]], sentences: dict[int, str]
) -> dict[str, Bool[ndarray, "_ latent"]]:
    """The pairs of each split that screening lets through; nothing where it is off."""
    if asked.screen == 1:
        return {}
    told, cut = list(sentences.values()), asked.screen_cut
    scores = screening.plausible(windows, told, by=asked.screen_by, cut=cut)
    return screening.sent(scores, share=asked.screen, cut=cut)


def true_everywhere(
    cache: Caches, windows: Drawn, latents: list[int], *, length: int, split: str
) -> Float[ndarray, "window latent token"]:
    """True activations at every token of the simulated windows."""
    drawn = windows.simulated(split)
    values = [window_values(cache(split), latent, drawn, length) for latent in latents]
    return np.stack(values, axis=1)


def screening_curves(
    *,
    sentences: dict[int, str],
    telling: Telling,
    ratings: Rated,
    true: Callable[[str], Float[ndarray, "window latent"]],
    params: Params,
) -> pd.DataFrame:
    """What a cheap first pass would have kept of the ratings that are there, both splits."""
    asked, told = params.studies, list(sentences.values())
    windows = {split: telling.windows(split) for split in SIMULATED}
    truth, expected = (np.concatenate(list(map(of, SIMULATED))) for of in (true, ratings.ranked))
    how = {"seed": params.seed, "resamples": min(500, params.rewrite.bootstrap)}
    tables = []
    for by in asked.screens:
        cut = params.simulate.screen_cut
        sent = screening.sent_at(windows, told, shares=asked.shares, by=by, cut=cut)
        tables.append(judging.screening_curve(truth, expected, sent, **how).assign(screen=by))
    return pd.concat(tables, ignore_index=True)


# ── cost ──────────────────────────────────────────────────────────────────────────────────────────


def rated_tokens(asked: Simulate, windows: int, latents: int) -> tuple[int, int]:
    """(pairs sent, tokens computed) for so many windows × latents."""
    pairs = max(1, round(asked.screen * windows)) * latents
    if asked.mode == "all":
        own = SLOTTED * asked.window_tokens
        return pairs, latents * (SENTENCE + asked.align) + pairs * own
    shared, own = {
        "window_first": (windows * (asked.window_tokens + asked.align), SENTENCE),
        "explanation_first": (latents * (SENTENCE + asked.align), asked.window_tokens),
        "original": (0, asked.window_tokens + SENTENCE),
    }[asked.layout]
    return pairs, shared + pairs * (FRAME + own)


def simulation_cost(*, params: Params, settings: Site, name: str, model: ModelShape) -> Cost:
    """(calibrate + evaluate windows) × described sentences; what is shared, once."""
    asked = params.simulate
    windows = settings.calibrate_windows + settings.evaluate_windows
    what = f"{windows:,} windows × {latent_count(settings):,} latents"
    if asked.screen < 1:
        what += f", {asked.screen:.0%} of them sent"
    require_fits("simulator", params.simulator, whole_prompt(asked))
    return ratings_cost("05_simulation", name, what, params, settings, {"": asked}, windows)


def whole_prompt(asked: Simulate) -> int:
    """Tokens of one prompt, wording and filling included."""
    own = asked.window_tokens * (SLOTTED if asked.mode == "all" else 1)
    return prompt_tokens(simulating.wording(asked)) + own + asked.align + FRAME + SENTENCE


def ratings_cost(
    stage: str,
    name: str,
    what: str,
    params: Params,
    settings: Site,
    ways: Mapping[str, Simulate],
    windows: int,
) -> Cost:
    """Every way of asking over so many windows × described latents, in one line."""
    latents, counts = latent_count(settings), Counter()
    for one in ways.values():
        pairs, tokens = rated_tokens(one, windows, latents)
        everywhere = one.window_tokens if one.mode == "all" else 0
        counts["answers"] += pairs * (everywhere or 1)
        counts["tokens"] += tokens
        counts["sent"] += pairs * whole_prompt(one)
        # E, ten digits and mass, in float16
        counts["storage"] += 2 * windows * latents * (24 + 2 * everywhere)
    return asked_of(params.simulator, stage, name, what, **counts)


SIMULATION = Declared(
    name="05_simulation",
    make=make_simulation,
    read=Rated,
    on=lambda *, params: told_on(params.simulate),
    hashes=simulation_hashes,
    cost=simulation_cost,
    version=3,
)

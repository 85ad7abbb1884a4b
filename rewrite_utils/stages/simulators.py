"""Stages that ask the simulator in other ways, on the same (latent, window) pairs.

In: a site's sentences and its first calibrate windows. Out: ratings of each way, and tables of how
they compare. Off unless ``studies.simulators`` names some; every way is a stage of its own, so a
later one costs only itself.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils import simulate as simulating
from rewrite_utils.latents.windows import window_values
from rewrite_utils.llm import prompts
from rewrite_utils.runs.run import Stage
from rewrite_utils.simulate import judging, screening
from rewrite_utils.simulate.ways import PLAIN, asked_as
from rewrite_utils.stages import builders
from rewrite_utils.stages.builders import SIMULATED
from rewrite_utils.stages.site import SiteStages


def way_stage(site: SiteStages, way: str) -> Stage:
    """The ratings of one way on the first calibrate windows; the run's own where it is this way."""
    asked = asked_as(site.params.simulate, way)
    if asked.content() == site.params.simulate.content():
        return site.simulation_stage
    llm = simulating.reading(asked, site.params.simulator)

    def make(folder: Path) -> Mapping[str, Any]:
        simulator = simulating.open_simulator(asked, builders.engine(llm))
        before = simulator.usage
        texts = {
            latent: builders.description(site, latent, sentence, asked)
            for latent, sentence in site.sentences.items()
        }
        windows = builders.window_texts(site, "calibrate")[: _count(site)]
        simulating.simulate(windows, texts, simulator, folder=folder, name=f"{site.name}, {way}")
        usage = simulator.usage.since(before)
        tokens = asked.window_tokens if asked.mode == "all" else 1
        return {"units": len(windows) * len(texts) * tokens, "usage": usage._asdict()}

    inputs = [site.sentences_stage] + ([site.scores_stage] if asked.show_score else [])
    content = {
        "simulate": asked.content(),
        "windows": [_count(site), site.settings.calibrate_windows],
        "llm": llm.content(),
        "prompt": prompts.digest(simulating.wording(asked)),
        "seed": site.params.seed,
    }
    return site.run.stage(f"05_way_{way}.{site.name}", make, parameters=content, inputs=inputs)


def rated(site: SiteStages, way: str) -> simulating.Ratings:
    """What one way said of the first calibrate windows."""
    stage = way_stage(site, way)
    folder = stage.folder / "calibrate" if stage == site.simulation_stage else stage.folder
    whole = simulating.read_ratings(folder)
    return simulating.Ratings(*(field[: _count(site)] for field in whole))


def ways(site: SiteStages) -> dict[str, Stage]:
    """The plain way and those that ``studies.simulators`` names; empty if it names none."""
    names = site.params.studies.simulators
    return {way: way_stage(site, way) for way in (PLAIN, *names)} if names else {}


def comparison(site: SiteStages) -> pd.DataFrame:
    """Every way against the plain one, on the same pairs; empty if there is none."""
    stages = ways(site)
    if not stages:
        return pd.DataFrame()
    found = {way: rated(site, way).expected.astype(np.float64) for way in stages}
    true = site.true("calibrate")[: _count(site)]
    resamples = _resamples(site)
    return judging.compared(true, found, base=PLAIN, seed=site.params.seed, resamples=resamples)


def everywhere(site: SiteStages) -> pd.DataFrame:
    """The all-positions mode at every token of the windows, by place; empty if it was not run."""
    if "all" not in site.params.studies.simulators:
        return pd.DataFrame()
    expected = simulating.read_everywhere(way_stage(site, "all").folder).astype(np.float64)
    true = true_everywhere(site, "calibrate")[: len(expected)]
    return judging.by_place(true, expected, seed=site.params.seed, resamples=_resamples(site))


def true_everywhere(site: SiteStages, split: str) -> Float[ndarray, "window latent token"]:
    """True activations at every token of the simulated windows."""
    cache, windows = site.cache(split), site.simulated_windows(split)
    length = site.params.simulate.window_tokens
    values = [window_values(cache, latent, windows, length) for latent in site.simulated]
    return np.stack(values, axis=1)


def screening_curves(site: SiteStages) -> pd.DataFrame:
    """What a cheap first pass would have kept of the ratings that are there, both splits."""
    asked, tables = site.params.studies, []
    sentences = list(site.sentences.values())
    windows = [window for split in SIMULATED for window in builders.window_texts(site, split)]
    true, expected = (_both(site, of) for of in (site.true, site.ranked))
    for by in asked.screens:
        scores = screening.plausibility(windows, sentences, by=by)
        curve = judging.screening_curve(
            true,
            expected,
            scores,
            shares=asked.shares,
            seed=site.params.seed,
            resamples=_resamples(site),
        )
        tables.append(curve.assign(screen=by))
    return pd.concat(tables, ignore_index=True)


def _both(site: SiteStages, of: Callable[[str], ndarray]) -> ndarray:
    return np.concatenate([of(split) for split in SIMULATED])


def _resamples(site: SiteStages) -> int:
    return min(500, site.params.rewrite.bootstrap)


def _count(site: SiteStages) -> int:
    return min(site.params.studies.simulator_windows, site.settings.calibrate_windows)

"""Stages of the studies around the rewrite (notebooks 06, 08, 11): estimators, corrupted oracle,
false alarms, fewer windows, shrinking, screening, other latents' sentences. No LLM is asked.

Out of each: one row a (window, arm), as the rewrite's own, or a mismatch table.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.latents.stage import SIMULATED, Caches, Drawn
from rewrite_utils.params import Params, Site
from rewrite_utils.rewrite import arms, studies
from rewrite_utils.rewrite.estimates import Evidence, target_of
from rewrite_utils.rewrite.splicer import Splicer, splice_cost
from rewrite_utils.rewrite.studies import Material
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.stage import Declared
from rewrite_utils.simulate import screening
from rewrite_utils.simulate.stage import Rated, Telling

TABLE = "table.parquet"
QUANTILE = "quantile:type8"
ABLATED = 3
"""Arms beside every study's own: the coder as it is, latents at zero and at their mean."""
Estimates = dict[str, Float[ndarray, "window latent"]]
Write = Callable[..., dict[str, Any]]
"""What `study` gives."""


def study(
    *, splicer: Splicer, windows: Drawn, cache: Caches, simulated: list[int], params: Params
) -> Write:
    """Writes what a study found, spliced as the rewrite's own arms are, beside both ablations."""

    def write(
        folder: Path,
        estimates: Estimates,
        what: str,
        *,
        latents: Int[ndarray, " latent"] | None = None,
        split: str = "evaluate",
    ) -> dict[str, Any]:
        """Losses with all ``latents`` replaced; the simulated ones, at their windows, if None."""
        chosen = np.array(simulated) if latents is None else latents
        drawn = windows.simulated(split) if latents is None else windows(split)
        mean = cache("calibrate").mean[chosen].astype(np.float32)
        both = studies.with_ablations(estimates, mean)
        table = splicer.losses(drawn, both, chosen, what, seed=params.seed, split=split)
        table.to_parquet(folder / TABLE)
        return {}

    return write


def make_estimators(folder: Path, *, material: Material, params: Params) -> dict[str, Any]:
    """Mismatch of the nine estimators against the number of calibration windows."""
    studies.estimator_mismatch(material, params.studies).to_parquet(folder / TABLE)
    return {}


def make_oracle(
    folder: Path, *, study: Write, material: Material, windows: Drawn, params: Params
) -> dict[str, Any]:
    """Losses with all studied latents from corrupted oracles, calibrated on few or many windows."""
    found = studies.oracle_estimates(material, windows("evaluate"), params.studies)
    return study(folder, found, "corrupted oracle", latents=material.latents)


def make_specificity(
    folder: Path,
    *,
    study: Write,
    cache: Caches,
    windows: Drawn,
    studied: Int[ndarray, " latent"],
    coder: SparseCoder,
    params: Params,
) -> dict[str, Any]:
    """Losses with the true activations of all studied latents and false alarms among them."""
    found = studies.alarm_estimates(
        cache("evaluate").dense(windows("evaluate"))[:, studied],
        target_of(cache("calibrate"), studied),
        specificities=params.studies.specificities,
        seed=params.seed,
        topk=coder.k is not None,
    )
    return study(folder, found, "specificity", latents=studied)


def few_windows(*, params: Params, settings: Site) -> int:
    """How many calibrate windows stand for "fewer": a share of the simulated ones, at least 2."""
    return max(2, round(params.studies.fewer * settings.calibrate_windows))


def make_fewer(
    folder: Path,
    *,
    study: Write,
    evidence: Evidence,
    ratings: Rated,
    few_windows: int,
    params: Params,
    settings: Site,
) -> dict[str, Any]:
    """Losses of the simulator's ratings, calibrated on few and on all simulated windows."""
    rated, counts = ratings("evaluate"), (few_windows, settings.calibrate_windows)
    found = {
        f"{count} windows: {name}": evidence.first(count).calibrated(name, rated)
        for count in counts
        for name in params.rewrite.calibrators
    }
    return study(folder, found, "fewer windows")


def held_out(
    *, evidence: Evidence, windows: Drawn, params: Params
) -> Callable[[str], Float[ndarray, "window latent"]]:
    """Estimates of every calibrate window by the calibration fitted on the other rows of text."""
    groups = windows.simulated("calibrate").rows
    return lambda name: evidence.held_out(name, groups, seed=params.seed)


def shrunk(params: Params) -> tuple[str, str]:
    """The two calibrations that are shrunk; the headline without its TopK, which would make
    something else of the means at factor 0."""
    return QUANTILE, arms.before_topk(params.rewrite.headline)


def make_shrink(
    folder: Path,
    *,
    study: Write,
    evidence: Evidence,
    held_out: Callable[[str], Float[ndarray, "window latent"]],
    params: Params,
) -> dict[str, Any]:
    """Losses on the *calibrate* windows with one global shrink factor, every row held out.

    Factor 0 is mean ablation: a best factor whose interval excludes 0 says that the sentences carry
    something, and no evaluate window was looked at to choose it.
    """
    mean, found = evidence.target.mean, {}
    for name in shrunk(params):
        held = held_out(name)
        for factor in params.studies.factors:
            found[f"{factor:g} of {name}"] = np.maximum(mean + factor * (held - mean), 0)
    return study(folder, found, "shrink", split="calibrate")


def screens(params: Params, settings: Site) -> tuple[list[float], list[str]]:
    """Shares that leave every latent two calibrate windows to be fitted on, and the screens.

    Where the run itself screened, only smaller shares by the same screen can be looked at.
    """
    asked, own, count = params.studies, params.simulate, settings.calibrate_windows
    shares = [s for s in asked.shares if s <= own.screen and round(s * count) >= 2]
    return shares, list(asked.screens) if own.screen == 1 else [own.screen_by]


def screened_estimates(
    *,
    evidence: Evidence,
    ratings: Rated,
    telling: Telling,
    sentences: dict[int, str],
    params: Params,
    settings: Site,
) -> Estimates:
    """What the headline says if the pairs that were not sent are a bin of their own, by share:
    ``"0.1 by lexical"``."""
    (shares, names), cut = screens(params, settings), params.simulate.screen_cut
    told, found = list(sentences.values()), {}
    windows = {split: telling.windows(split) for split in SIMULATED}
    for by in names:
        scores = screening.plausible(windows, told, by=by, cut=cut)
        for share in shares:
            sent = screening.sent(scores, share=share, cut=cut)
            fitted, rated = (ratings(split).only(sent[split]) for split in SIMULATED)
            part = dataclasses.replace(evidence, ratings=fitted, screened=True)
            found[f"{share:g} by {by}"] = part.calibrated(params.rewrite.headline, rated)
    return found


def _spliced_as_headline(found: Estimates, params: Params) -> Estimates:
    """The same under names that say whether the splice keeps the k largest."""
    cut = arms.TOPK * params.rewrite.headline.endswith(arms.TOPK)
    return {source + cut: values for source, values in found.items()}


def make_screened(
    folder: Path, *, study: Write, screened_estimates: Estimates, params: Params
) -> dict[str, Any]:
    """Losses of the headline, had a cheap first pass sent only a share of the pairs to the LLM."""
    return study(folder, _spliced_as_headline(screened_estimates, params), "screened")


def make_floors(
    folder: Path, *, study: Write, evidence: Evidence, ratings: Rated, params: Params
) -> dict[str, Any]:
    """Losses of the headline given other latents' sentences, over several derangements.

    By a curve refitted to them, which becomes mean ablation and cannot move, and by the curve of
    the real sentences: what sentences cost that are believed and are about something else.
    """
    headline, draws = params.rewrite.headline, params.studies.floors
    found = evidence.floors(headline, ratings("evaluate"), draws=draws, seed=params.seed)
    return study(folder, _spliced_as_headline(found, params), "floors")


# ── declarations ──────────────────────────────────────────────────────────────────────────────────


def _content(study: str, params: Params, settings: Site) -> dict[str, Any]:
    """What each study reads of the parameters."""
    asked, rewrite = params.studies, params.rewrite

    def of(*names: str) -> dict[str, Any]:
        return asked.model_dump(mode="json", include=set(names))

    if study == "06_screened":
        shares, names = screens(params, settings)
        cut = {"splice": "top k as the headline"} if rewrite.headline.endswith(arms.TOPK) else {}
        cut |= {} if params.simulate.screen_cut == "each" else {"cut": "calibrate"}
        return {"shares": shares, "screens": names, "calibrator": rewrite.headline} | cut
    estimators = of("sizes", "draws", "held_windows", "latents") | {"auroc": asked.aurocs[0]}
    return {
        "06_estimators": estimators,
        "06_oracle": of("sizes", "aurocs", "calibrators", "latents"),
        "08_specificity": of("specificities", "latents"),
        "06_fewer": {"fewer": asked.fewer, "calibrators": rewrite.calibrators},
        "06_shrink": {"factors": asked.factors, "calibrators": shrunk(params)},
        "07_floors": {"calibrator": rewrite.headline, "derangements": asked.floors},
    }[study]


def _hashes(study: str, *, params: Params, settings: Site) -> dict[str, Any]:
    drawn: dict[str, Any] = {"windows": settings.evaluate_windows, "seed": params.seed}
    if study != "07_floors":  # which is of the rated windows alone
        both = [settings.evaluate_windows, settings.control_windows]
        drawn |= {"positions": params.rated_positions, "windows": both}
    return _content(study, params, settings) | drawn


def _cost(
    study: str, *, params: Params, settings: Site, name: str, model: ModelShape
) -> Cost | None:
    asked, rated = params.studies, settings.evaluate_windows
    controls = max(settings.control_windows, rated)
    windows, own = {
        "06_oracle": (controls, 2 * len(asked.aurocs) * len(asked.calibrators)),
        "08_specificity": (controls, 2 * len(asked.specificities)),
        "06_fewer": (rated, 2 * len(params.rewrite.calibrators)),
        "06_shrink": (settings.calibrate_windows, 2 * len(asked.factors)),
        "06_screened": (rated, len(asked.screens) * len(asked.shares)),
        "07_floors": (rated, 2 * asked.floors),
    }[study]
    if not own:
        return None
    what, losses = f"{windows:,} windows × {own} arms", windows * (own + ABLATED)
    return splice_cost(study, name, what, params, settings, model, windows=windows, losses=losses)


def read_table(folder: Path) -> pd.DataFrame:
    """The table of a study."""
    return pd.read_parquet(folder / TABLE)


def _declared(
    name: str, make: Callable[..., Any], *, on: str = "simulation_stage"
) -> Declared[pd.DataFrame]:
    return Declared(
        name=name,
        make=make,
        read=read_table,
        on=(on,),
        hashes=partial(_hashes, name),
        cost=None if name == "06_estimators" else partial(_cost, name),
    )


ESTIMATORS = _declared("06_estimators", make_estimators)
ORACLE = _declared("06_oracle", make_oracle)
SPECIFICITY = _declared("08_specificity", make_specificity, on="latents_stage")
FEWER = _declared("06_fewer", make_fewer)
SHRINK = _declared("06_shrink", make_shrink)
SCREENED = _declared("06_screened", make_screened)
FLOORS = _declared("07_floors", make_floors)

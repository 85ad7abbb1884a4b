"""Stages of the studies around the rewrite: estimators, corrupted oracle, false alarms, fewer
windows.

One function a study: it makes the stage once, or reuses it, and returns its table. In: a site's
stages. Out: one row a (window, arm), as the rewrite's own, or a mismatch table. No LLM is asked.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils.calibrate.oracle import rating_shape
from rewrite_utils.latents.cache import Windows
from rewrite_utils.rewrite import arms as rewrite
from rewrite_utils.rewrite import measure, studies
from rewrite_utils.rewrite.studies import Material
from rewrite_utils.runs.run import Stage
from rewrite_utils.simulate import screening
from rewrite_utils.stages import builders
from rewrite_utils.stages.builders import SIMULATED
from rewrite_utils.stages.site import SiteStages

TABLE = "table.parquet"
QUANTILE = "quantile:type8"


def studied(site: SiteStages) -> Int[ndarray, " latent"]:
    """All latents that fire in the calibrate rows, or as many of them as the studies take."""
    alive = np.flatnonzero(site.cache("calibrate").counts > 0)
    most = site.params.studies.latents
    if len(alive) <= most:
        return alive
    return np.sort(np.random.default_rng(site.params.seed).choice(alive, most, replace=False))


def estimators(site: SiteStages) -> pd.DataFrame:
    """Mismatch of the nine estimators against the number of calibration windows."""
    asked = site.params.studies
    content = asked.model_dump(mode="json", include={"sizes", "draws", "held_windows", "latents"})

    def make(folder: Path) -> None:
        found = studies.estimator_mismatch(
            material(site),
            auroc=asked.aurocs[0],
            sizes=asked.sizes,
            held=asked.held_windows,
            draws=asked.draws,
        )
        found.to_parquet(folder / TABLE)

    return _table(site, "06_estimators", make, content | {"auroc": asked.aurocs[0]})


def oracle(site: SiteStages) -> pd.DataFrame:
    """Losses with all studied latents from corrupted oracles, calibrated on few or many windows."""
    asked = site.params.studies
    names = {"sizes", "aurocs", "calibrators", "latents"}
    content = asked.model_dump(mode="json", include=names)

    def make(folder: Path) -> None:
        given = material(site)
        found = studies.oracle_estimates(
            given,
            site.windows("evaluate"),
            aurocs=asked.aurocs,
            sizes=(min(asked.sizes), max(asked.sizes)),
            calibrators=asked.calibrators,
        )
        _losses(site, found, given.latents, "corrupted oracle").to_parquet(folder / TABLE)

    return _table(site, "06_oracle", make, content)


def specificity(site: SiteStages) -> pd.DataFrame:
    """Losses with the true activations of all studied latents and false alarms among them."""
    asked = site.params.studies
    content = asked.model_dump(mode="json", include={"specificities", "latents"})

    def make(folder: Path) -> None:
        latents = studied(site)
        found = studies.alarm_estimates(
            site.cache("evaluate").dense(site.windows("evaluate"))[:, latents],
            studies.target_of(site.cache("calibrate"), latents),
            specificities=asked.specificities,
            seed=site.params.seed,
        )
        _losses(site, found, latents, "specificity").to_parquet(folder / TABLE)

    return _table(site, "08_specificity", make, content, inputs=[site.latents_stage])


def fewer(site: SiteStages) -> pd.DataFrame:
    """Losses of the simulator's ratings, calibrated on few and on all simulated windows."""
    names = site.params.rewrite.calibrators
    content = {"fewer": site.params.studies.fewer, "calibrators": names}

    def make(folder: Path) -> None:
        found = fewer_estimates(site, names)
        windows = site.simulated_windows("evaluate")
        latents = np.array(site.simulated)
        _losses(site, found, latents, "fewer windows", windows).to_parquet(folder / TABLE)

    return _table(site, "06_fewer", make, content)


def shrink(site: SiteStages) -> pd.DataFrame:
    """Losses on the *calibrate* windows with one global shrink factor, every row held out.

    Factor 0 is mean ablation: a best factor whose interval excludes 0 says that the sentences carry
    something, and no evaluate window was looked at to choose it.
    """
    asked = site.params.studies
    # Without the headline's TopK: it would make something else of the means at factor 0.
    names = QUANTILE, rewrite.before_topk(site.params.rewrite.headline)
    content = {"factors": asked.factors, "calibrators": names}

    def make(folder: Path) -> None:
        mean, found = site.evidence.target.mean, {}
        for name in names:
            held = held_out(site, name)
            for factor in asked.factors:
                values = np.maximum(mean + factor * (held - mean), 0)
                found[f"{factor:g} of {name}"] = values
        windows, latents = site.simulated_windows("calibrate"), np.array(site.simulated)
        table = _losses(site, found, latents, "shrink", windows, split="calibrate")
        table.to_parquet(folder / TABLE)

    return _table(site, "06_shrink", make, content)


def screened(site: SiteStages) -> pd.DataFrame:
    """Losses of the headline, had a cheap first pass sent only a share of the pairs to the LLM."""
    shares, screens = screens_of(site)
    name = site.params.rewrite.headline
    content = {"shares": shares, "screens": screens, "calibrator": name}
    cut = rewrite.TOPK * name.endswith(rewrite.TOPK)
    if cut:
        content["splice"] = "top k as the headline"

    def make(folder: Path) -> None:
        estimates = screened_estimates(site, name)
        found = {source + cut: values for source, values in estimates.items()}
        windows, latents = site.simulated_windows("evaluate"), np.array(site.simulated)
        _losses(site, found, latents, "screened", windows).to_parquet(folder / TABLE)

    return _table(site, "06_screened", make, content)


def screens_of(site: SiteStages) -> tuple[list[float], list[str]]:
    """Shares that leave every latent two calibrate windows to be fitted on, and the screens.

    Where the run itself screened, only smaller shares by the same screen can be looked at.
    """
    asked, own = site.params.studies, site.params.simulate
    count = site.settings.calibrate_windows
    shares = [s for s in asked.shares if s <= own.screen and round(s * count) >= 2]
    return shares, list(asked.screens) if own.screen == 1 else [own.screen_by]


def screened_estimates(site: SiteStages, name: str) -> dict[str, Float[ndarray, "window latent"]]:
    """What a calibrator says if the pairs that were not sent are a bin of their own, by share:
    ``"0.1 by lexical"``."""
    shares, screens = screens_of(site)
    sentences, found = list(site.sentences.values()), {}
    for by in screens:
        scores = {
            split: screening.plausibility(builders.window_texts(site, split), sentences, by=by)
            for split in SIMULATED
        }
        for share in shares:
            fitted, rated = (
                site.ratings(split).only(screening.most_plausible(scores[split], share=share))
                for split in SIMULATED
            )
            evidence = dataclasses.replace(site.evidence, ratings=fitted, screened=True)
            found[f"{share:g} by {by}"] = evidence.calibrated(name, rated)
    return found


def held_out(site: SiteStages, name: str) -> Float[ndarray, "window latent"]:
    """Estimates of every calibrate window by the calibration fitted on the other rows of text."""
    groups = site.simulated_windows("calibrate").rows
    return site.evidence.held_out(name, groups, seed=site.params.seed)


def few_windows(site: SiteStages) -> int:
    """How many calibrate windows stand for "fewer": a share of the simulated ones, at least 2."""
    return max(2, round(site.params.studies.fewer * site.settings.calibrate_windows))


def fewer_estimates(
    site: SiteStages, calibrators: Sequence[str]
) -> dict[str, Float[ndarray, "window latent"]]:
    """Calibrations fitted on the first few and on all windows: ``"6 windows: quantile:type8"``."""
    ratings = site.ratings("evaluate")
    counts = few_windows(site), site.settings.calibrate_windows
    return {
        f"{count} windows: {name}": site.evidence.first(count).calibrated(name, ratings)
        for count in counts
        for name in calibrators
    }


def judged(site: SiteStages, table: pd.DataFrame) -> pd.DataFrame:
    """One row an arm of a study: paired differences to the ablations, with intervals."""
    return measure.verdict(
        table,
        variance=float(site.output_moments.variance),
        seed=site.params.seed,
        resamples=site.params.rewrite.bootstrap,
    )


def material(site: SiteStages) -> Material:
    """What the studies with an oracle read: its ratings take the shape of the calibrate ratings."""
    return Material(
        site.cache("calibrate"),
        site.cache("evaluate"),
        studied(site),
        rating_shape(np.maximum(site.ranked("calibrate"), 0)),
        site.params.rated_positions,
        site.params.seed,
    )


def _losses(
    site: SiteStages,
    estimates: Mapping[str, Float[ndarray, "window latent"]],
    latents: Int[ndarray, " latent"],
    what: str,
    windows: Windows | None = None,
    *,
    split: str = "evaluate",
) -> pd.DataFrame:
    mean = site.cache("calibrate").mean[latents].astype(np.float32)
    return rewrite.measure(
        site.subject,
        site.hookpoint,
        site.coder,
        site.cache(split).tokens,
        windows or site.windows("evaluate"),
        described=latents,
        estimates=studies.with_ablations(estimates, mean),
        fractions=(1.0,),
        rankings={},
        constants={},
        seed=site.params.seed,
        name=f"{site.name}, {what}",
    )


def _table(
    site: SiteStages,
    name: str,
    make: Callable[[Path], None],
    content: Mapping[str, Any],
    *,
    inputs: Sequence[Stage] = (),
) -> pd.DataFrame:
    """Make or reuse the stage, and read its table."""
    windows = [site.settings.evaluate_windows, site.settings.control_windows]
    drawn = {"positions": site.params.rated_positions, "windows": windows}
    stage = site.run.stage(
        f"{name}.{site.name}",
        make,
        parameters=dict(content) | drawn | {"seed": site.params.seed},
        inputs=inputs or [site.simulation_stage],
    )
    return pd.read_parquet(stage / TABLE)

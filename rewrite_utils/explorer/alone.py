"""What one latent alone does to the model: its truth, its sentence, or nothing in its place.

In: the evaluate windows that the simulator rated. Out: the loss of each (window, latent, arm), all
other latents true; and one row an arm, paired against the truth. Beyond the paper, which replaces
many latents at once (§6).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils import stats
from rewrite_utils.explain.floor import derangement
from rewrite_utils.latents.controls import token_table
from rewrite_utils.rewrite import usefulness
from rewrite_utils.rewrite.estimates import shuffled
from rewrite_utils.runs.run import Stage
from rewrite_utils.stages import SiteStages

ARMS = ("truth", "sentence", "another's sentence", "token table", "mean", "zero")
"""What stands in the latent's place; the fourth needs no LLM, the third is the floor."""


def stage(site: SiteStages) -> Stage:
    """Losses of every simulated latent alone, made once."""
    return site.run.stage(
        f"10_alone.{site.name}",
        lambda folder: make(site, folder),
        parameters={"calibrator": site.params.rewrite.headline, "seed": site.params.seed},
        inputs=[site.simulation_stage],
    )


def make(site: SiteStages, folder: Path) -> dict[str, Any]:
    """Measure and write alone.parquet."""
    estimates = arms(site)
    sources = {
        (latent, arm): values[:, place]
        for arm, values in estimates.items()
        for place, latent in enumerate(site.simulated)
    }
    table = measure(site, sources, name=f"{site.name}, one latent at a time")
    table.to_parquet(folder / "alone.parquet")
    return {"units": len(table), "windows": site.settings.evaluate_windows}


def arms(site: SiteStages) -> dict[str, Float[ndarray, "window latent"]]:
    """What each arm says about the simulated latents at the rated evaluate windows; not truth."""
    latents, windows = np.array(site.simulated), site.simulated_windows("evaluate")
    headline, ratings = site.params.rewrite.headline, site.ratings("evaluate")
    shape = len(windows.rows), len(latents)
    said = {"sentence": site.evidence.calibrated(headline, ratings)}
    if len(latents) > 1:
        order = derangement(len(latents), site.params.seed)
        other = site.evidence.shuffled(order).calibrated(headline, shuffled(ratings, order))
        said["another's sentence"] = other
    table = token_table(site.cache("explain"), windows, site.cache("evaluate"))
    means = np.broadcast_to(site.cache("calibrate").mean[latents], shape)
    return said | {
        "token table": table[:, latents],
        "mean": means.astype(np.float32),
        "zero": np.zeros(shape, np.float32),
    }


def measure(
    site: SiteStages,
    sources: Mapping[tuple[int, str], Float[ndarray, " window"]],
    *,
    name: str,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """``usefulness.measure`` at the rated evaluate windows of a site."""
    return usefulness.measure(
        site.subject,
        site.hookpoint,
        site.coder,
        site.cache("evaluate").tokens,
        site.simulated_windows("evaluate"),
        sources,
        name=name,
        progress=progress,
    )


def of_arm(losses: pd.DataFrame, latent: int, arm: str) -> Float[ndarray, " window"]:
    """One latent's loss with one arm in its place, in order of window."""
    mine = losses[(losses["latent"] == latent) & (losses["arm"] == arm)]
    return mine.sort_values("window")["loss"].to_numpy()


def verdict(losses: pd.DataFrame, latent: int, *, seed: int, resamples: int = 2000) -> pd.DataFrame:
    """One row an arm: its loss minus the truth's, paired, with its interval (nats).

    ``delta`` is the truth's own loss minus the untouched model's; the other arms have None.
    """
    mine = losses[losses["latent"] == latent].pivot(index="window", columns="arm", values="loss")
    base = losses[losses["latent"] == latent].groupby("window")["base_loss"].first().to_numpy()
    rows, options = [], {"unit": "window", "seed": seed, "resamples": resamples}
    for arm in (arm for arm in ARMS if arm in mine):
        over = stats.bootstrap((mine[arm] - mine["truth"]).to_numpy(), **options)
        coder = arm == "truth"
        delta = stats.bootstrap(mine[arm].to_numpy() - base, **options) if coder else None
        rows.append({"arm": arm, "over_truth": over, "delta": delta})
    return pd.DataFrame(rows)

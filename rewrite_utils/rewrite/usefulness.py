"""What each latent's prediction is worth to the model: one latent replaced, all others true.

In: one row a (window, latent, arm) with its loss. Out: a latent's usefulness, CE with its mean in
place minus CE with its prediction. It puts latents in order ("useful") and is measured on calibrate
windows, never on those it is judged on.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from numpy import ndarray

from rewrite_utils import stats
from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.latents.stage import Drawn
from rewrite_utils.latents.windows import shared_rows
from rewrite_utils.params import Params, Site
from rewrite_utils.rewrite.estimates import Evidence
from rewrite_utils.rewrite.splicer import FILE, TRUTH, Splicer, one_by_one, read_losses
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.run import Stage
from rewrite_utils.runs.stage import Declared

PREDICTED, MEAN = "sentence", "mean"
"""The arms that a usefulness is made of, beside the latent's own truth."""


def usefulness(
    losses: pd.DataFrame,
    *,
    seed: int,
    resamples: int = 2000,
    units: Int[ndarray, " window"] | None = None,
) -> pd.DataFrame:
    """One row a latent: CE with its mean minus CE with its prediction, nats; positive is useful.

    ``at_stake`` is CE with its mean minus CE with its truth: what a perfect prediction would win.
    Intervals over windows, or over their rows (``units``, by number of the window).
    """
    options, rows = {"unit": "window", "seed": seed, "resamples": resamples}, []
    options |= {} if units is None else {"unit": "row"}
    for latent, part in losses.groupby("latent", sort=False):
        loss = part.pivot(index="window", columns="arm", values="loss").astype(np.float64)
        row: dict[str, float] = {"latent": int(latent), "windows": len(loss)}
        for column, arm in (("usefulness", PREDICTED), ("at_stake", TRUTH)):
            difference = (loss[MEAN] - loss[arm]).to_numpy()
            of = None if units is None else units[loss.index]
            row |= stats.bootstrap(difference, units=of, **options).named(column)
        rows.append(row)
    return pd.DataFrame(rows)


def useful_hashes(*, params: Params) -> dict[str, Any]:
    """What predicts each latent."""
    return {"calibrator": params.rewrite.headline, "seed": params.seed}


def make_usefulness(
    folder: Path,
    *,
    splicer: Splicer,
    evidence: Evidence,
    windows: Drawn,
    simulated: list[int],
    params: Params,
) -> dict[str, Any]:
    """Losses at the calibrate windows with one latent predicted or at its mean, all others true.

    Each window is predicted by a calibration fitted on the other rows of text.
    """
    drawn, name = windows.simulated("calibrate"), params.rewrite.headline
    told = evidence.held_out(name, drawn.rows, seed=params.seed).astype(np.float32)
    mean = np.tile(evidence.target.mean.astype(np.float32), (len(told), 1))
    both = {PREDICTED: told, MEAN: mean}
    sources = {(j, arm): v[:, i] for arm, v in both.items() for i, j in enumerate(simulated)}
    table = splicer.alone(drawn, sources, split="calibrate")
    table.to_parquet(folder / FILE)
    return {"units": len(table), "windows": len(drawn.rows)}


def useful_table(*, usefulness_stage: Stage, windows: Drawn, params: Params) -> pd.DataFrame:
    """One row a simulated latent: what its prediction wins over its mean, cross-validated."""
    losses, draws = read_losses(usefulness_stage.folder), params.rewrite.bootstrap
    units = shared_rows(windows.simulated("calibrate").rows)
    return usefulness(losses, seed=params.seed, resamples=draws, units=units)


def usefulness_cost(*, params: Params, settings: Site, name: str, model: ModelShape) -> Cost | None:
    """Each simulated latent alone, predicted and at its mean, at calibrate windows."""
    if "useful" not in params.rewrite.orders:
        return None
    windows = settings.calibrate_windows
    return one_by_one("07_usefulness", params, settings, name, model, windows=windows, each=2)


USEFULNESS = Declared(
    name="07_usefulness",
    make=make_usefulness,
    read=read_losses,
    on=("simulation_stage",),
    hashes=useful_hashes,
    cost=usefulness_cost,
)

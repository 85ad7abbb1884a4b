"""The two floors of the rewrite: other latents' sentences, over several derangements. No LLM.

By a curve refitted to them, which becomes mean ablation and cannot move, and by the curve of the
real sentences, which says what sentences cost that are believed and are about something else.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.params import Params, Site
from rewrite_utils.rewrite import arms
from rewrite_utils.rewrite.estimates import Evidence
from rewrite_utils.rewrite.splicer import splice_cost
from rewrite_utils.rewrite.study_stages import ABLATED, Study, read_table
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.stage import Declared
from rewrite_utils.simulate.stage import Rated


def make_floors(
    folder: Path, *, study: Study, evidence: Evidence, ratings: Rated, params: Params
) -> dict[str, Any]:
    """Losses of the headline calibration given other latents' sentences."""
    headline, asked = params.rewrite.headline, params.studies
    cut = arms.TOPK * headline.endswith(arms.TOPK)
    found = evidence.floors(headline, ratings("evaluate"), draws=asked.floors, seed=params.seed)
    return study.write(folder, {name + cut: values for name, values in found.items()}, "floors")


def floors_hashes(*, params: Params, settings: Site) -> dict[str, Any]:
    """The calibration, how many derangements, and of how many windows."""
    return {
        "calibrator": params.rewrite.headline,
        "derangements": params.studies.floors,
        "windows": settings.evaluate_windows,
        "seed": params.seed,
    }


def floors_cost(*, params: Params, settings: Site, name: str, model: ModelShape) -> Cost | None:
    """Two arms a derangement at every simulated window."""
    windows, own = settings.evaluate_windows, 2 * params.studies.floors
    losses, what = windows * (own + ABLATED), f"{windows:,} windows × {own} arms"
    sizes = {"windows": windows, "losses": losses}
    return splice_cost("07_floors", name, what, params, settings, model, **sizes) if own else None


def averaged(losses: pd.DataFrame) -> pd.DataFrame:
    """One row a (window, arm): each floor's mean over its derangements."""
    source = losses["source"].str.replace(r" \d+(?=(\+topk)?$)", "", regex=True)
    arm = ["window", *arms.Arm._fields]
    return losses.assign(source=source).groupby(arm, sort=False, as_index=False).mean()


FLOORS = Declared(
    name="07_floors",
    make=make_floors,
    read=read_table,
    on=("simulation_stage",),
    hashes=floors_hashes,
    cost=floors_cost,
)

"""The explorer's one stage: the loss with each simulated latent alone replaced, by every arm."""

from pathlib import Path
from typing import Any

import pandas as pd

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.latents.stage import Drawn
from rewrite_utils.params import Params, Site
from rewrite_utils.rewrite.arms import Estimate
from rewrite_utils.rewrite.splicer import Splicer, one_by_one
from rewrite_utils.rewrite.stage import useful_hashes
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.stage import Declared

SOURCES = {
    "another's sentence": "shuffled explanations",
    "token table": "token table",
    "mean": "mean",
    "zero": "zero",
}
"""Which of the rewrite's estimates stands for each arm of the card, beside the sentence."""


def make_alone(
    folder: Path,
    *,
    splicer: Splicer,
    estimates: dict[str, Estimate],
    windows: Drawn,
    simulated: list[int],
    params: Params,
) -> dict[str, Any]:
    """Measure at the rated evaluate windows and write alone.parquet."""
    named = {"sentence": params.rewrite.headline} | SOURCES
    count = windows.simulated_count("evaluate")
    sources = {
        (latent, arm): estimates[name].values[:count, place]
        for arm, name in named.items()
        if name in estimates  # a sentence that is alone has no other in its place
        for place, latent in enumerate(simulated)
    }
    table = splicer.alone(windows.simulated("evaluate"), sources)
    table.to_parquet(folder / "alone.parquet")
    return {"units": len(table), "windows": count}


def read_alone(folder: Path) -> pd.DataFrame:
    """One row a (window, latent, arm)."""
    return pd.read_parquet(folder / "alone.parquet")


def alone_cost(*, params: Params, settings: Site, name: str, model: ModelShape) -> Cost:
    """Each simulated latent alone, in all that the card compares."""
    windows, arms = settings.evaluate_windows, 1 + len(SOURCES)
    return one_by_one("10_alone", params, settings, name, model, windows=windows, each=arms)


ALONE = Declared(
    name="10_alone",
    make=make_alone,
    read=read_alone,
    on=("simulation_stage",),
    hashes=useful_hashes,
    cost=alone_cost,
)

"""The explorer's stages: the loss with each simulated latent alone replaced, by every arm; and how
well each description is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.explain.described import Level
from rewrite_utils.explorer.prediction import ROWS, predictor
from rewrite_utils.latents.stage import Caches, Drawn
from rewrite_utils.params import Params, Site
from rewrite_utils.rewrite.arms import Estimate
from rewrite_utils.rewrite.splicer import Splicer, one_by_one
from rewrite_utils.rewrite.usefulness import useful_hashes
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.stage import Declared
from rewrite_utils.simulate.readers.kept import Kept
from rewrite_utils.stats import Estimate as Interval
from rewrite_utils.stats import bootstrap
from rewrite_utils.subject.model import Subject

SOURCES = {
    "another's sentence": "shuffled explanations",
    "token table": "token table",
    "mean": "mean",
    "zero": "zero",
}
"""Which of the rewrite's estimates stands for each arm of the card, beside the sentence."""
ARMS = ("truth", "sentence", *SOURCES)
"""What stands in the place of the latent; another's sentence is the floor."""


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


def verdict(losses: pd.DataFrame, *, seed: int, resamples: int = 2000) -> pd.DataFrame:
    """One row an arm: a latent's loss minus the truth's, paired, with its interval over windows.

    ``delta`` is the truth's own loss minus the untouched model's (nats); None for the other arms.
    """
    loss = losses.pivot(index="window", columns="arm", values="loss")
    base = losses.groupby("window")["base_loss"].first()
    gaps = {arm: loss[arm] - loss["truth"] for arm in ARMS if arm in loss}

    def over(gap: pd.Series) -> Interval:
        return bootstrap(gap.to_numpy(), unit="window", seed=seed, resamples=resamples)

    delta = [over(loss["truth"] - base) if arm == "truth" else None for arm in gaps]
    return pd.DataFrame({"arm": list(gaps), "over_truth": map(over, gaps.values()), "delta": delta})


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


def make_fitted(
    folder: Path,
    *,
    reader: Kept,
    level_texts: Mapping[Level, Mapping[int, str]],
    cache: Caches,
    subject: Subject,
    params: Params,
) -> dict[str, Any]:
    """R² of every description that is read, on some evaluate rows; no LLM, no pass."""
    found = predictor(reader, level_texts, cache, subject, params.seed).scores()
    found.rename("r2").rename_axis("latent").to_frame().to_parquet(folder / "fitted.parquet")
    return {"units": len(found), "rows": ROWS}


def read_fitted(folder: Path) -> pd.Series:
    """R² by latent."""
    return pd.read_parquet(folder / "fitted.parquet")["r2"]


FITTED = Declared(
    name="10_fitted",
    make=make_fitted,
    read=read_fitted,
    on=("readers_stage",),
    hashes=lambda: {"rows": ROWS},
)

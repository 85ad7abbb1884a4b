"""The explorer's one stage: the loss with each simulated latent alone replaced, by every arm."""

import functools
from pathlib import Path
from typing import Any

from rewrite_utils.rewrite import usefulness
from rewrite_utils.runs.run import Stage
from rewrite_utils.stages import SiteStages

SOURCES = {
    "another's sentence": "shuffled explanations",
    "token table": "token table",
    "mean": "mean",
    "zero": "zero",
}
"""Which of the rewrite's estimates stands for each arm of the card, beside the sentence."""


def alone_stage(site: SiteStages) -> Stage:
    """Losses of every simulated latent alone, made once."""
    return site.run.stage(
        f"10_alone.{site.name}",
        functools.partial(_make, site),
        parameters={"calibrator": site.params.rewrite.headline, "seed": site.params.seed},
        inputs=[site.simulation_stage],
    )


def _make(site: SiteStages, folder: Path) -> dict[str, Any]:
    """Measure at the rated evaluate windows and write alone.parquet."""
    named = {"sentence": site.params.rewrite.headline} | SOURCES
    count, estimates = site.settings.evaluate_windows, site.estimates
    table = usefulness.measure(
        site.subject,
        site.hookpoint,
        site.coder,
        site.cache("evaluate").tokens,
        site.simulated_windows("evaluate"),
        {
            (latent, arm): estimates[name].values[:count, place]
            for arm, name in named.items()
            if name in estimates  # a sentence that is alone has no other in its place
            for place, latent in enumerate(site.simulated)
        },
        name=f"{site.name}, one latent at a time",
    )
    table.to_parquet(folder / "alone.parquet")
    return {"units": len(table), "windows": count}

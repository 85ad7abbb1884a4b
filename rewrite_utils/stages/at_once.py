"""The stage of several layers at once: one for a whole run, made from the latents of all its sites.

In: the sites of a run. Out: losses of ``rewrite.at_once``. No LLM is asked; everything that
is spliced was fitted on the explain and the calibrate rows.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.windows import draw_windows
from rewrite_utils.params import ParameterError
from rewrite_utils.rewrite import at_once
from rewrite_utils.rewrite.estimates import without_llm
from rewrite_utils.runs.run import Run, Stage
from rewrite_utils.stages.site import SiteStages

TABLE = "losses.parquet"


def losses(run: Run, sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """One row a (window, set of sites, source), sites added in the order of the parameter file."""
    return pd.read_parquet(stage(run, sites) / TABLE)


def stage(run: Run, sites: Mapping[str, SiteStages]) -> Stage:
    """Made once. Raises ParameterError where two sites lie at one layer."""
    layers = {name: site.hookpoint.layer for name, site in sites.items()}
    if len(set(layers.values())) < len(layers):
        told = ", ".join(f"{name} {layer}" for name, layer in layers.items())
        raise ParameterError(
            f"studies.layers_at_once rewrites one site a layer, but the layers are {told}: "
            "remove sites, or set it to false"
        )
    content = {
        "sites": list(sites),
        "windows": windows_of(sites),
        "positions": list(run.params.rated_positions),
        "seed": run.params.seed,
    }
    inputs = [site.latents_stage for site in sites.values()]
    return run.stage(
        "11_at_once", lambda folder: _make(run, sites, folder), parameters=content, inputs=inputs
    )


def windows_of(sites: Mapping[str, SiteStages]) -> int:
    """As many evaluate windows as every site has for its controls."""
    return min(site.settings.control_windows for site in sites.values())


def _make(run: Run, sites: Mapping[str, SiteStages], folder: Path) -> dict[str, int]:
    first, *_ = sites.values()
    tokens = first.cache("evaluate").tokens
    start, last = run.params.rated_positions
    generator = np.random.default_rng([run.params.seed, 11])
    windows = draw_windows(
        len(tokens), windows_of(sites), first=start, last=last, generator=generator
    )
    places = [_place(site, windows) for site in sites.values()]
    table = at_once.measure(first.subject, places, tokens, windows, name=run.params.name)
    table.to_parquet(folder / TABLE)
    return {"units": len(table), "windows": len(windows.rows)}


def _place(site: SiteStages, windows: Windows) -> at_once.Place:
    latents = np.arange(site.coder.config.num_latents)
    values = without_llm(
        site.cache("explain"), site.cache("calibrate"), windows, site.cache("evaluate"), latents
    )
    return at_once.Place(site.name, site.hookpoint, site.coder, values)

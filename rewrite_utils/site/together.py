"""What several sites of a run give together: layers rewritten at once (notebook 11), and the model
with all its read sites rewritten (notebook 13). Made once, as every stage.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.windows import draw_windows
from rewrite_utils.params import ParameterError
from rewrite_utils.rewrite import at_once, whole_model
from rewrite_utils.rewrite import layer_stage as layering
from rewrite_utils.rewrite.estimates import without_llm
from rewrite_utils.rewrite.rewritten import Rewritten
from rewrite_utils.rewrite.splicer import FILE, read_losses
from rewrite_utils.runs.run import Run
from rewrite_utils.site.stages import SiteStages, open_sites

Sites = Mapping[str, SiteStages]


def _made_once(
    sites: Sites, stage: str, content: dict[str, Any], on: str, make: Callable[[], pd.DataFrame]
) -> pd.DataFrame:
    """A table of several sites as a stage, which stands on the stage ``on`` of each of them."""
    first, *_ = sites.values()

    def write(folder: Path) -> dict[str, int]:
        table = make()
        table.to_parquet(folder / FILE)
        return {"units": len(table)}

    inputs = [getattr(site, on) for site in sites.values()]
    content = content | {"sites": list(sites)}
    made = first.run.stage(stage, write, parameters=content, inputs=inputs)
    return read_losses(made.folder)


def losses_at_once(sites: Sites) -> pd.DataFrame:
    """One row a (window, set of sites, source), sites added in the order of the parameter file.

    Made once. Raises ParameterError where two sites lie at one layer.
    """
    at_once.require_apart({name: site.hookpoint.layer for name, site in sites.items()})
    first, *_ = sites.values()

    def measured() -> pd.DataFrame:
        tokens, windows = first.cache("evaluate").tokens, windows_at_once(sites)
        places = []
        for name, site in sites.items():
            explain, calibrate, evaluate = map(site.cache, ("explain", "calibrate", "evaluate"))
            latents = np.arange(site.coder.config.num_latents)
            free = without_llm(explain, calibrate, windows, evaluate, latents)
            places.append(at_once.Place(name, site.hookpoint, site.coder, free))
        return at_once.measure(first.subject, places, tokens, windows, name=first.params.name)

    content = {"windows": min(site.settings.control_windows for site in sites.values())}
    content |= {"positions": list(first.params.rated_positions), "seed": first.params.seed}
    return _made_once(sites, "11_at_once", content, "latents_stage", measured)


def windows_at_once(sites: Sites) -> Windows:
    """The windows that several sites are spliced at together."""
    first, *_ = sites.values()
    (start, last), cache = first.params.rated_positions, first.cache("evaluate")
    count = min(site.settings.control_windows for site in sites.values())
    generator = np.random.default_rng([first.params.draws, 11])
    return draw_windows(cache.measured, count, first=start, last=last, generator=generator)


def read_sites(run: Run) -> dict[str, SiteStages]:
    """The sites that are read, by name, from the first layer up.

    Raises ParameterError where the run reads none.
    """
    found = {name: site for name, site in open_sites(run).items() if site.settings.reader}
    if not found:
        raise ParameterError(
            f"run {run.params.name!r} reads no site: set sites.<site>.reader to an arm of "
            "readers.arms ('c'), or take params/readers.yaml"
        )
    return dict(sorted(found.items(), key=lambda item: item[1].hookpoint.layer))


def continuations(sites: Sites) -> pd.DataFrame:
    """One row a (prompt, model); made once."""
    asked = next(iter(sites.values())).params.readers

    def continued() -> pd.DataFrame:
        models = _models(sites, edited=layering.EDITED)
        return whole_model.continued(models, asked.prompts, tokens=asked.continued)

    content = {"prompts": list(asked.prompts), "tokens": asked.continued}
    return _made_once(sites, "13_continuations", content, "readers_stage", continued)


def losses_together(sites: Sites) -> pd.DataFrame:
    """One row a (text, row, model): whole texts, each site alone and all together; made once."""
    first, *_ = sites.values()

    def scored() -> pd.DataFrame:
        texts = first.reader_rows.items()
        return pd.concat([whole_model.scored(_models(sites), t).assign(text=n) for n, t in texts])

    content = layering.layer_hashes(params=first.params)
    return _made_once(sites, "13_together", content, "readers_stage", scored)


def _models(sites: Sites, *, edited: str = "") -> dict[str, Rewritten]:
    """What every model of notebook 13 is."""
    first, *_ = sites.values()
    places = {name: site.replacements for name, site in sites.items()}
    return whole_model.models(first.subject, places, masked=first.corpus.masked, edited=edited)

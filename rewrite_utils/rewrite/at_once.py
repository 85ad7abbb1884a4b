"""How many layers can be rewritten at once? Every latent of several coders, without an LLM.

In: places (hookpoint, coder, what each source says there) and windows. Out: one row a (window, set
of places, source). The sets are each place alone, and the first two, three … places together.
Beyond the paper, which rewrites one layer.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from rewrite_utils import stats
from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.latents.cache import Windows
from rewrite_utils.params import ParameterError, Params
from rewrite_utils.rewrite.arms import by_window
from rewrite_utils.rewrite.splicer import splice_cost
from rewrite_utils.runs.cost import Cost
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice import (
    GivenLatents,
    Source,
    Spot,
    TrueLatents,
    Untouched,
    losses_at_once,
)
from rewrite_utils.subject.stage import layer_of

CODER = "coder"
SOURCES = (CODER, "zero", "mean", "token table", "word list")
"""The coders as they are, both ablations, and the two rewrites that need no LLM."""


class Place(NamedTuple):
    """One layer that may be rewritten."""

    name: str
    """The site's name."""
    hookpoint: Hookpoint
    """Where it is."""
    coder: SparseCoder
    """Its coder."""
    values: Mapping[str, Float[ndarray, "window latent"]]
    """What each source but the coder says of all its latents."""


def sets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Each place alone, then the first two, the first three …, and all of them."""
    alone = [(name,) for name in names]
    return alone + [tuple(names[:count]) for count in range(2, len(names) + 1)]


def require_apart(layers: Mapping[str, int]) -> None:
    """Raise ParameterError where two sites lie at one layer."""
    if len(set(layers.values())) < len(layers):
        told = ", ".join(f"{name} {layer}" for name, layer in layers.items())
        raise ParameterError(
            f"studies.layers_at_once rewrites one site a layer, but the layers are {told}: "
            "remove sites, or set it to false"
        )


def measure(
    subject: Subject,
    places: Sequence[Place],
    tokens: Int[ndarray, "row pos"],
    windows: Windows,
    *,
    name: str,
) -> pd.DataFrame:
    """Loss and KL of every (set, source) at every window: one position, all places of the set."""
    kinds = [(which, source) for which in sets([p.name for p in places]) for source in SOURCES]
    columns = [("+".join(which), len(which), source) for which, source in kinds]
    arms = pd.DataFrame(columns, columns=["places", "count", "source"])

    def losses(part: slice, rows: Tensor, mask: Tensor) -> dict[str, Tensor]:
        spots = [Spot(p.hookpoint, p.coder, _sources(p, kinds, part)) for p in places]
        return losses_at_once(subject, spots, rows, mask)._asdict()

    return by_window(tokens, windows, arms, losses, name=f"layers at once, {name}")


def cost(*, params: Params, model: ModelShape) -> Cost:
    """Stage 11: all sites spliced together."""
    sites = sorted(params.sites.values(), key=lambda site: layer_of(model, site))
    windows = min(site.control_windows for site in sites)
    each = len(sets(list(params.sites))) * len(SOURCES)
    sizes = {"windows": windows, "losses": windows * each}
    what = f"{windows:,} windows × {each} arms over {len(sites)} layers"
    found = splice_cost("11_at_once", "", what, params, sites[0], model, **sizes)
    coders = windows * each * sum(4 * model.d_model * site.latents for site in sites)
    return found._replace(flops=found.flops + coders)


def judged(
    losses: pd.DataFrame,
    *,
    seed: int,
    resamples: int = 2000,
    units: Int[ndarray, " window"] | None = None,
) -> pd.DataFrame:
    """One row a (set, source): ΔCE, its difference to mean ablation, and to the sum of its parts.

    ``over_sum``: ΔCE of the set minus the sum of ΔCE of its places alone; above 0 the errors
    compound. All paired over windows, with 95 % intervals over them or their rows (``units``, by
    number of the window).
    """
    delta = losses.assign(delta=losses["loss"] - losses["base_loss"]).pivot(
        index="window", columns=["places", "source"], values="delta"
    )
    of = None if units is None else units[delta.index]
    options = {"unit": "window" if of is None else "row", "units": of}
    options, rows = options | {"seed": seed, "resamples": resamples}, []
    for places, source in delta.columns:
        own, parts = delta[places, source], [delta[p, source] for p in places.split("+")]
        over_mean, alone = own - delta[places, "mean"], sum(parts)
        row = {"places": places, "count": len(parts), "source": source, "windows": len(own)}
        row |= {"parts": float(alone.mean())}
        shown = {"delta": own, "minus_mean": over_mean, "over_sum": own - alone}
        for name, values in shown.items():
            row |= stats.bootstrap(values.to_numpy(), **options).named(name)
        rows.append(row | {"detectable": stats.detectable(over_mean.to_numpy(), units=of)})
    return pd.DataFrame(rows)


def _sources(
    place: Place, arms: Sequence[tuple[tuple[str, ...], str]], part: slice
) -> list[Source]:
    """What stands at one place in every arm."""
    told: dict[str, Source] = {
        source: GivenLatents(torch.from_numpy(values[part].astype(np.float32)))
        for source, values in place.values.items()
    }
    told[CODER] = TrueLatents()
    return [told[source] if place.name in which else Untouched() for which, source in arms]

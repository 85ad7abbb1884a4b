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
from tqdm.auto import tqdm

from rewrite_utils import stats
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.latents.cache import Windows
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice import (
    GivenLatents,
    Source,
    Spot,
    TrueLatents,
    Untouched,
    at_positions,
    losses_at_once,
)

CODER = "coder"
SOURCES = (CODER, "zero", "mean", "token table", "word list")
"""The coders as they are, both ablations, and the two rewrites that need no LLM."""
BATCH = 8


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


def measure(
    subject: Subject,
    places: Sequence[Place],
    tokens: Int[ndarray, "row pos"],
    windows: Windows,
    *,
    name: str,
) -> pd.DataFrame:
    """Loss and KL of every (set, source) at every window: one position, all places of the set."""
    arms = [(which, source) for which in sets([p.name for p in places]) for source in SOURCES]
    rows, ends, tables = windows.rows, windows.ends, []
    for start in tqdm(range(0, len(rows), BATCH), desc=f"layers at once, {name}", unit="batch"):
        part = slice(start, start + BATCH)
        these = torch.from_numpy(tokens[rows[part]])
        mask = at_positions(these, torch.from_numpy(ends[part]))
        spots = [Spot(p.hookpoint, p.coder, _sources(p, arms, part)) for p in places]
        found = losses_at_once(subject, spots, these, mask)
        tables.append(
            pd.DataFrame(
                {
                    "window": start + np.repeat(np.arange(len(these)), len(arms)),
                    "places": ["+".join(which) for which, _ in arms] * len(these),
                    "count": [len(which) for which, _ in arms] * len(these),
                    "source": [source for _, source in arms] * len(these),
                    "base_loss": np.repeat(found.base_loss.numpy(), len(arms)),
                    "loss": found.loss.flatten().numpy(),
                    "kl": found.kl.flatten().numpy(),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def judged(losses: pd.DataFrame, *, seed: int, resamples: int = 2000) -> pd.DataFrame:
    """One row a (set, source): ΔCE, its difference to mean ablation, and to the sum of its parts.

    ``over_sum``: ΔCE of the set minus the sum of ΔCE of its places alone; above 0 the errors
    compound. All paired over windows, with 95 % intervals.
    """
    delta = losses.assign(delta=losses["loss"] - losses["base_loss"]).pivot(
        index="window", columns=["places", "source"], values="delta"
    )
    rows = []
    for places, source in delta.columns:
        own, parts = delta[places, source], [delta[p, source] for p in places.split("+")]
        shown = {
            "delta": own,
            "minus_mean": own - delta[places, "mean"],
            "over_sum": own - sum(parts),
        }
        row = {"places": places, "count": len(parts), "source": source, "windows": len(own)}
        row |= {"parts": float(sum(parts).mean())}
        for name, values in shown.items():
            found = stats.bootstrap(
                values.to_numpy(np.float64), unit="window", seed=seed, resamples=resamples
            )
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        row |= {"detectable": stats.detectable((own - delta[places, "mean"]).to_numpy())}
        rows.append(row)
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

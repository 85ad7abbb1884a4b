"""The arms of the rewrite: the same windows, the same splice, another source of latent activations.

In: one estimate of the latents a source, and which latents each arm substitutes. Out: one row a
(window, arm) with the next-token loss, the KL to the untouched model and the squared error. Paper
§6.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from rewrite_utils.latents.cache import Windows
from rewrite_utils.params.measuring import TOPK
from rewrite_utils.subject.splice import at_positions
from rewrite_utils.subject.splice import substituted as substitute

ALL = "all"
"""The order of an arm that substitutes every described latent."""


def before_topk(source: str) -> str:
    """What a source is called where its own estimates are shown: only the splice keeps the k
    largest."""
    return source.removesuffix(TOPK)


class Arm(NamedTuple):
    """One way to fill the place of the MLP output."""

    source: str
    """Where the latents come from: coder, zero, mean, token table, word list, a calibrator …"""
    count: int
    """How many of the described latents are substituted."""
    order: str
    """Which go first: top (score), random, useful; "all" where every described latent goes."""


class Estimate(NamedTuple):
    """What one source says about the described latents."""

    values: Float[ndarray, "window described"]
    """Activations, one row a window, in the order of the windows."""
    orders: tuple[str, ...]
    """Orders in which the latents of this source are substituted."""
    topk: bool = False
    """Whether only the k largest latents are kept afterwards though the source's name does not
    say so: the floor of a headline that does."""


def plan_arms(
    estimates: Mapping[str, Estimate], fractions: Sequence[float], described: int
) -> list[Arm]:
    """Every source at every fraction and order; fractions that round up to one count are one
    arm."""
    counts = sorted({int(np.ceil(f * described - 1e-9)) for f in fractions} - {0})
    grid = [
        Arm(source, count, order if count < described else ALL)
        for source, estimate in estimates.items()
        for count in counts
        for order in estimate.orders
    ]
    return list(dict.fromkeys(grid))


def masks(
    planned: Sequence[Arm],
    rankings: Mapping[str, Float[ndarray, " described"]],
    described: int,
    *,
    n_windows: int,
    seed: int,
) -> dict[tuple[int, str], Bool[Tensor, "window described"]]:
    """Which latents each (count, order) substitutes; random ones are drawn anew for each window.

    The draw depends on the seed and the window alone, so that all sources meet the same latents.
    """
    found = {}
    for count, order in {(arm.count, arm.order) for arm in planned}:
        share = described, count / described
        if order in ("random", ALL):
            drawn = {"windows": n_windows, "generator": torch.Generator().manual_seed(seed)}
            found[count, order] = substitute(*share, "random", **drawn)
        else:
            mask = substitute(*share, order, ranking=torch.tensor(rankings[order]))
            found[count, order] = mask.expand(n_windows, -1)
    return found


@torch.no_grad()
def by_window(
    tokens: Int[ndarray, "row pos"],
    windows: Windows,
    arms: pd.DataFrame,
    losses: Callable[[slice, Int[Tensor, "window pos"], Bool[Tensor, "window pos"]], dict],
    *,
    name: str,
    batch: int = 8,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """One row a (window, arm): the row of ``arms`` and, as columns, what ``losses`` returns.

    ``losses`` is given the places of a batch of windows, their rows of tokens and a mask of the
    window ends; it returns tensors [window arm], or [window] where all arms have the same.
    ``progress`` is told the share done after each batch, and may raise to stop.
    """
    n_windows, tables = len(windows.rows), []
    starts = range(0, n_windows, batch)
    for start in starts if progress else tqdm(starts, desc=name, unit="batch"):
        part = slice(start, min(start + batch, n_windows))
        rows = torch.from_numpy(tokens[windows.rows[part]])
        found = losses(part, rows, at_positions(rows, torch.from_numpy(windows.ends[part])))
        shape = len(rows), len(arms)
        columns = {
            key: value.reshape(len(rows), -1).expand(shape).flatten().numpy()
            for key, value in found.items()
        }
        table = pd.concat([arms] * len(rows), ignore_index=True).assign(**columns)
        table.insert(0, "window", np.repeat(np.arange(part.start, part.stop), len(arms)))
        tables.append(table)
        if progress:
            progress(part.stop / n_windows)
    return pd.concat(tables, ignore_index=True)

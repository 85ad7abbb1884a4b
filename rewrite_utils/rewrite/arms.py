"""The arms of the rewrite: the same windows, the same splice, another source of latent activations.

In: one estimate of the latents a source, and which latents each arm substitutes. Out: one row a
(window, arm) with the next-token loss, the KL to the untouched model and the squared error. Paper
§6.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.latents.cache import Windows
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice import (
    GivenLatents,
    GivenOutput,
    Source,
    TrueLatents,
    arm_losses,
    at_positions,
)
from rewrite_utils.subject.splice import substituted as substitute

TOPK = "+topk"
"""A source whose name ends so keeps the k largest latents after the overwrite, as the paper
does."""
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
        if order in ("random", ALL):
            generator = torch.Generator().manual_seed(seed)
            mask = substitute(
                described, count / described, "random", windows=n_windows, generator=generator
            )
        else:
            ranking = torch.tensor(rankings[order])
            mask = substitute(described, count / described, order, ranking=ranking)
            mask = mask.expand(n_windows, -1)
        found[count, order] = mask
    return found


@torch.no_grad()
def measure(
    subject: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    tokens: Int[ndarray, "row pos"],
    windows: Windows,
    *,
    described: Int[ndarray, " described"],
    estimates: Mapping[str, Estimate],
    fractions: Sequence[float],
    rankings: Mapping[str, Float[ndarray, " described"]],
    constants: Mapping[str, Float[Tensor, " d_out"]],
    seed: int,
    name: str,
    batch: int = 8,
) -> pd.DataFrame:
    """Losses of every arm at every window: the coder as is, ``constants``, and all planned arms."""
    planned = plan_arms(estimates, fractions, len(described))
    n_windows = len(windows.rows)
    chosen = masks(planned, rankings, len(described), n_windows=n_windows, seed=seed)
    width = coder.config.num_latents
    whole = {Arm("coder", 0, ALL): TrueLatents()}
    whole |= {Arm(key, 0, ALL): GivenOutput(value) for key, value in constants.items()}
    tables = []
    bar = tqdm(range(0, n_windows, batch), desc=f"rewrite of {name}", unit="batch")
    for start in bar:
        these = slice(start, min(start + batch, n_windows))
        arms: dict[Arm, Source] = dict(whole)
        for arm in planned:
            arms[arm] = GivenLatents(
                _wide(torch.from_numpy(estimates[arm.source].values[these]), described, width),
                _wide(chosen[arm.count, arm.order][these], described, width),
                topk=estimates[arm.source].topk or arm.source.endswith(TOPK),
            )
        rows = torch.from_numpy(tokens[windows.rows[these]])
        mask = at_positions(rows, torch.from_numpy(windows.ends[these]))
        found = arm_losses(subject, coder, hookpoint, list(arms.values()), rows, mask)
        tables.append(_table(start, list(arms), found))
    return pd.concat(tables, ignore_index=True)


def _wide(narrow: Tensor, described: Int[ndarray, " described"], width: int) -> Tensor:
    """Columns of the described latents at their places among all ``width`` latents, 0 elsewhere."""
    wide = narrow.new_zeros(len(narrow), width)
    wide[:, torch.from_numpy(described)] = narrow
    return wide


def _table(start: int, arms: Sequence[Arm], found) -> pd.DataFrame:
    n_windows, n_arms = found.losses.loss.shape
    return pd.DataFrame(
        {
            "window": start + np.repeat(found.rows.numpy(), n_arms),
            "source": [arm.source for arm in arms] * n_windows,
            "count": [arm.count for arm in arms] * n_windows,
            "order": [arm.order for arm in arms] * n_windows,
            "base_loss": np.repeat(found.losses.base_loss.numpy(), n_arms),
            "loss": found.losses.loss.flatten().numpy(),
            "kl": found.losses.kl.flatten().numpy(),
            "squared_error": found.squared_error.flatten().numpy(),
        }
    )

"""What a coder is worth: does it explain a text, and the range left to its latents.

In: a coder and text it was not trained on. Out: a `CoderCheck`; or a table, one row an arm (coder,
latents at mean or zero, whole output at mean or zero), positions patched one at a time, intervals
over rows. Paper §2. `over_coder` of "latents at mean" is the dynamic range; `recovered` = (CE of
the output at its mean − CE of the arm) / (CE of the output at its mean − CE of the untouched).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from rewrite_utils import stats
from rewrite_utils.assets.splits import plain_ids
from rewrite_utils.coder.fvu import FVU
from rewrite_utils.coder.harvest import pairs
from rewrite_utils.coder.sparse import Latents, SparseCoder
from rewrite_utils.params import Params
from rewrite_utils.runs.stage import Declared
from rewrite_utils.subject.corpus import Corpus
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice import (
    ArmLosses,
    GivenOutput,
    Source,
    TrueLatents,
    arm_losses,
    mean_latents,
    zero_latents,
)


class CoderCheck(NamedTuple):
    """What a coder does on given activations."""

    hookpoint: str
    """The module the activations were read from."""
    fvu: float
    """Fraction of variance unexplained."""
    tokens: int
    """Tokens it was measured on."""
    l0: float
    """Mean number of latents above 0 on a token."""
    dead: float
    """Share of the latents that never fired on these tokens."""
    firing_rates: Float[Tensor, " latent"]
    """Share of the tokens on which each latent fires."""


@torch.no_grad()
def check_coder(
    coder: SparseCoder,
    activations: Iterable[tuple[Float[Tensor, "_ d_in"], Float[Tensor, "_ d_out"]]],
    *,
    hookpoint: str,
    limit: float | None = 1.0,
) -> CoderCheck:
    """Measure a coder on (input, output) activations of the module `hookpoint`.

    Raises ValueError if the coder is of another hookpoint or of other widths, or if its FVU is
    above `limit`: no better than the mean, the usual sign of a wrong module (None: never).
    """
    coder.config.require_hookpoint(hookpoint)
    stream, fired = FVU(), torch.zeros(coder.config.num_latents)
    for x, y in activations:
        coder.config.require_widths(x.shape[-1], y.shape[-1])
        latents = coder.encode(x)
        stream.update(y, coder.decode(latents, x))
        fired += firings(latents, coder.config.num_latents).cpu()
    rates = fired / max(stream.tokens, 1)
    dead = float((fired == 0).float().mean())
    check = CoderCheck(hookpoint, stream.value, stream.tokens, float(rates.sum()), dead, rates)
    if limit is not None and not check.fvu <= limit:
        raise ValueError(
            f"the coder does not explain {hookpoint!r}: FVU {check.fvu:.3f} on {check.tokens} "
            f"tokens is above {limit}; check the hookpoint, the layer norm's side, bias_convention"
        )
    return check


def firings(latents: Latents, num_latents: int) -> Float[Tensor, " latent"]:
    """On how many tokens of the batch each latent is above 0."""
    on = latents.indices[latents.values > 0]
    return torch.bincount(on, minlength=num_latents).float()


def check_on_text(
    coder: SparseCoder,
    subject: Subject,
    texts: Sequence[str],
    *,
    hookpoint: str = "",
    row_tokens: int = 128,
    limit: float | None = 1.0,
) -> CoderCheck:
    """`check_coder` on texts, cut into rows behind a BOS; names the modules that were read.

    ``hookpoint``: left out, the coder's own. Raises ValueError as `check_coder` does, and where
    neither says a hookpoint that the subject has.
    """
    place = subject.hookpoint(hookpoint or coder.config.hookpoint)
    parts = []
    for ids in plain_ids(subject.tokenizer, list(texts)):
        rows = (part[None] for part in torch.tensor(ids).split(row_tokens - 1) if len(part))
        parts += [torch.cat([torch.full_like(row[:, :1], subject.bos), row], 1) for row in rows]
    read = (pair for row in parts for pair in pairs(subject, place, row))
    found = check_coder(coder, read, hookpoint=place.name, limit=limit)
    return found._replace(hookpoint=f"{place.name}: {place.input_hook} → {place.output_hook}")


@torch.no_grad()
def measure(
    subject: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    tokens: Int[Tensor, "row pos"],
    where: Bool[Tensor, "row pos"],
    *,
    latent_means: Float[ndarray, " latent"],
    output_mean: Float[Tensor, " d_out"],
    variance: float,
    seed: int,
    rows: int = 32,
    positions: int = 8,
) -> pd.DataFrame:
    """Every arm at ``positions`` random places, of those ``where`` losses are measured, of each of
    the first ``rows`` rows."""
    arms: dict[str, Source] = {
        "coder": TrueLatents(),
        "latents at mean": mean_latents(torch.from_numpy(latent_means).float()),
        "latents at zero": zero_latents(coder.config.num_latents),
        "output at mean": GivenOutput(output_mean),
        "output at zero": GivenOutput(torch.zeros_like(output_mean)),
    }
    chosen, where = tokens[:rows], where[:rows]
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(len(chosen), chosen.shape[1] - 2, generator=generator)
    order = draws.masked_fill(~where[:, 1:-1], torch.inf).argsort(1)
    mask = torch.zeros(chosen.shape, dtype=torch.bool).scatter(1, 1 + order[:, :positions], True)
    mask &= where
    found = arm_losses(subject, coder, hookpoint, list(arms.values()), chosen, mask)
    table = [_row(arm, list(arms), found, variance, seed) for arm in arms]
    return pd.DataFrame(table)


def _row(arm: str, arms: list[str], found: ArmLosses, variance: float, seed: int) -> dict:
    """ΔCE over rows, the same over the coder's, the share recovered of what the output is worth."""
    delta, coder, gone = (_of_rows(found, arms.index(a)) for a in (arm, "coder", "output at mean"))
    recovered = stats.ratio(gone - delta, gone, unit="row", seed=seed)
    interval = stats.bootstrap(delta, unit="row", seed=seed)
    row = {"arm": arm, **_named("delta", interval)}
    row |= _named("over_coder", stats.bootstrap(delta - coder, unit="row", seed=seed))
    row |= _named("recovered", recovered)
    return row | {
        "fvu": float(found.squared_error[:, arms.index(arm)].mean()) / variance,
        "rows": interval.n,
        "positions": len(found.rows),
        "base CE": float(found.losses.base_loss.mean()),
    }


def _of_rows(found: ArmLosses, place: int) -> Float[ndarray, " row"]:
    """ΔCE of one arm: the mean over each row's positions."""
    delta = (found.losses.loss[:, place] - found.losses.base_loss).numpy()
    rows = found.rows.numpy()
    return np.bincount(rows, weights=delta) / np.bincount(rows)


def _named(name: str, found: stats.Estimate) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def make_quality(
    folder: Path,
    *,
    subject: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    corpus: Corpus,
    latent_means: Float[ndarray, " latent"],
    output_mean: Float[Tensor, " d_out"],
    output_variance: float,
    params: Params,
) -> dict[str, Any]:
    """Loss and FVU of the coder and of the ablations, on the evaluate rows."""
    table = measure(
        subject,
        hookpoint,
        coder,
        corpus.rows("evaluate"),
        corpus.measured("evaluate"),
        latent_means=latent_means,
        output_mean=output_mean,
        variance=output_variance,
        seed=params.draws,
    )
    table.to_parquet(folder / "quality.parquet")
    return {}


def read_quality(folder: Path) -> pd.DataFrame:
    """One row an arm: ΔCE with its interval over rows, FVU."""
    return pd.read_parquet(folder / "quality.parquet")


QUALITY = Declared(
    name="01_quality", make=make_quality, read=read_quality, on=("latents_stage",), version=2
)

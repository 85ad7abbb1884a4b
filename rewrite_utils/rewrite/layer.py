"""A whole layer rewritten: losses at every position patched alone, and with all patched at once.

In: rows of text and, by name, what each source says of every latent at every token of them. Out:
one row a (row of text, source). Beyond the paper, which patches one position a row.
"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from rewrite_utils import stats
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.rewrite.rewritten import Place, Rewritten, constant
from rewrite_utils.subject.masking import measured
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice import GivenLatents, GivenOutput, Source, TrueLatents, arm_losses

CODER, MEAN, OUTPUT_MEAN = "coder", "mean", "output mean"
AT_ONCE = 8
"""Rows measured together."""


class Says(NamedTuple):
    """What one source says of some latents."""

    latents: Int[ndarray, " latent"]
    """Those that it substitutes; all others stay true."""
    values: Callable[[slice], Float[ndarray, "row pos latent"]]
    """Their activations at every token of these rows."""


def whole_mean(means: Float[ndarray, " latent"], latents: Int[ndarray, " read"]) -> Says:
    """Mean ablation of some latents."""
    row = means[latents].astype(np.float32)
    return Says(latents, lambda part: np.broadcast_to(row, (part.stop - part.start, 1, len(row))))


def measure(
    subject: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    tokens: Int[ndarray, "row pos"],
    says: Mapping[str, Says],
    output_mean: Float[Tensor, " d_out"],
    *,
    name: str,
    whole: Collection[str],
    masked: Collection[int] = (),
) -> pd.DataFrame:
    """One row a (row, source): mean loss and KL over its positions patched alone (``loss``,
    ``base_loss``, ``kl``, ``n``), and the mean loss with all of them patched at once (``whole``, of
    the sources so named, NaN of others: a pass through the whole model each).

    Sources: the coder as it is, the output at its mean, and all of ``says``. At ``masked`` tokens
    nothing is replaced or measured.
    """
    rows, tables = torch.from_numpy(tokens).long(), []
    for start in tqdm(range(0, len(rows), AT_ONCE), desc=name, unit=f"{AT_ONCE} rows"):
        part = slice(start, min(start + AT_ONCE, len(rows)))
        sources: dict[str, Source] = {CODER: TrueLatents(), OUTPUT_MEAN: GivenOutput(output_mean)}
        sources |= {key: _given(one, part, rows[part], coder) for key, one in says.items()}
        tables.append(
            _part(subject, hookpoint, coder, rows[part], sources, whole, tuple(masked)).assign(
                row=lambda table, first=start: table["row"] + first
            )
        )
    return pd.concat(tables, ignore_index=True)


def _part(
    subject: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    rows: Int[Tensor, "row pos"],
    sources: Mapping[str, Source],
    whole: Collection[str],
    masked: tuple[int, ...],
) -> pd.DataFrame:
    given, positions = list(sources.values()), measured(rows, masked)
    found = arm_losses(subject, coder, hookpoint, given, rows, positions)
    count = positions.sum(1).numpy()
    base = np.bincount(found.rows, found.losses.base_loss, len(rows)) / count
    table = pd.DataFrame({"row": np.repeat(np.arange(len(rows)), len(given))})
    table["source"] = list(sources) * len(rows)
    table["base_loss"], table["n"] = np.repeat(base, len(given)), np.repeat(count, len(given))
    for key in ("loss", "kl"):
        arms = getattr(found.losses, key).numpy().T
        means = [np.bincount(found.rows, values, len(rows)) / count for values in arms]
        table[key] = np.stack(means, axis=1).ravel()
    asked = [(key, source) for key, source in sources.items() if key in whole]
    for key, source in asked:
        model = Rewritten(subject, (Place(hookpoint, coder, constant(source)),), masked)
        at_once = np.nanmean(model.losses(rows, batch=len(rows)), axis=1)
        table.loc[table["source"] == key, "whole"] = at_once
    return table


def _given(
    one: Says, part: slice, rows: Int[Tensor, "row pos"], coder: SparseCoder
) -> GivenLatents:
    width = coder.config.num_latents
    values = torch.zeros((*rows.shape, width))
    values[..., torch.from_numpy(one.latents)] = torch.from_numpy(one.values(part).copy()).float()
    return GivenLatents(values, substituted(one.latents, width))


def substituted(latents: Int[ndarray, " read"], width: int) -> Bool[Tensor, " latent"]:
    """Which columns these are."""
    mask = torch.zeros(width, dtype=torch.bool)
    mask[torch.from_numpy(latents)] = True
    return mask


def judged(
    losses: pd.DataFrame, against: Mapping[str, str], *, table: str, seed: int, resamples: int
) -> pd.DataFrame:
    """One row a source: CE minus its ablation's, as shares of the range and of the MLP's worth.

    ``against``: the ablation that each source is compared with (of the same latents). ``table``:
    the token table that all are compared with, too. Intervals are over rows of text.
    """
    alone = losses.pivot(index="row", columns="source", values="loss")
    whole = losses.pivot(index="row", columns="source", values="whole")
    base = losses.groupby("row")["base_loss"].first()
    how = {"unit": "row", "seed": seed, "resamples": resamples}
    rows = []
    for source, ablation in against.items():
        won, most = alone[ablation] - alone[source], alone[ablation] - alone[CODER]
        worth = alone[OUTPUT_MEAN] - base
        estimates = {
            "delta": stats.bootstrap((alone[source] - base).to_numpy(), **how),
            "minus_mean": stats.bootstrap(-won.to_numpy(), **how),
            "of_range": stats.ratio(won.to_numpy(), most.to_numpy(), **how),
            "of_worth": stats.ratio(won.to_numpy(), worth.to_numpy(), **how),
            "minus_table": stats.bootstrap((alone[source] - alone[table]).to_numpy(), **how),
        }
        row = {"source": source, "against": ablation, "rows": len(alone)}
        for name, estimate in estimates.items():
            row |= estimate.named(name)
        row["perplexity"] = float(np.exp(whole[source].mean()))
        row["detectable"] = stats.detectable(won.to_numpy())
        rows.append(row)
    return pd.DataFrame(rows)

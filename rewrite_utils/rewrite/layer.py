"""A whole layer rewritten: losses at every position patched alone, and with all patched at once.

In: rows of text and, by name, what each source says of every latent at every token of them. Out:
one row a (row of text, source). Beyond the paper, which patches one position a row.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
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
from rewrite_utils.subject.splice import (
    ArmLosses,
    GivenLatents,
    GivenOutput,
    Source,
    TrueLatents,
    arm_losses,
)

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
    rows, tables, masked = torch.from_numpy(tokens).long(), [], tuple(masked)
    for start in tqdm(range(0, len(rows), AT_ONCE), desc=name, unit=f"{AT_ONCE} rows"):
        part = slice(start, min(start + AT_ONCE, len(rows)))
        these, positions = rows[part], measured(rows[part], masked)
        sources: dict[str, Source] = {CODER: TrueLatents(), OUTPUT_MEAN: GivenOutput(output_mean)}
        sources |= {key: _given(one, part, these, coder) for key, one in says.items()}
        given = list(sources.values())
        found = arm_losses(subject, coder, hookpoint, given, these, positions)
        table = _row_means(found, positions.sum(1).numpy(), list(sources))
        for key in [key for key in sources if key in whole]:
            model = Rewritten(subject, (Place(hookpoint, coder, constant(sources[key])),), masked)
            at_once = np.nanmean(model.losses(these, batch=len(these)), axis=1)
            table.loc[table["source"] == key, "whole"] = at_once
        tables.append(table.assign(row=table["row"] + start))
    return pd.concat(tables, ignore_index=True)


def _row_means(
    found: ArmLosses, count: Int[ndarray, " row"], sources: Sequence[str]
) -> pd.DataFrame:
    """Means over the ``count`` positions of each row, one row of the table a (row, source)."""

    def mean(values: Float[Tensor, " site"]) -> Float[ndarray, " row"]:
        return np.bincount(found.rows, values, len(count)) / count

    table = pd.DataFrame({"row": np.repeat(np.arange(len(count)), len(sources))})
    table["source"] = list(sources) * len(count)
    table["base_loss"] = np.repeat(mean(found.losses.base_loss), len(sources))
    table["n"] = np.repeat(count, len(sources))
    for key in ("loss", "kl"):
        table[key] = np.stack([mean(x) for x in getattr(found.losses, key).T], axis=1).ravel()
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
    rows, worth = [], (alone[OUTPUT_MEAN] - base).to_numpy()
    for source, ablation in against.items():
        won, most = ((alone[ablation] - alone[one]).to_numpy() for one in (source, CODER))
        found = {
            "delta": stats.bootstrap((alone[source] - base).to_numpy(), **how),
            "minus_mean": stats.bootstrap(-won, **how),
            "of_range": stats.ratio(won, most, **how),
            "of_worth": stats.ratio(won, worth, **how),
            "minus_table": stats.bootstrap((alone[source] - alone[table]).to_numpy(), **how),
        }
        row = {"source": source, "against": ablation, "rows": len(alone)}
        for name, estimate in found.items():
            row |= estimate.named(name)
        row |= {"perplexity": float(np.exp(whole[source].mean()))}
        rows.append(row | {"detectable": stats.detectable(won)})
    return pd.DataFrame(rows)

"""What each latent's prediction is worth to the model: one latent replaced, all others true.

In: windows, and what to put in a latent's place there. Out: one row a (window, latent, arm) with
its loss; and a latent's usefulness, CE with its mean in place minus CE with its prediction. It puts
latents in order ("useful") and is measured on calibrate windows, never on those it is judged on.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from rewrite_utils import stats
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.latents.cache import Windows
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice import OneLatent, TrueLatents, arm_losses, at_positions

BATCH = 8
PREDICTED, MEAN, TRUTH = "sentence", "mean", "truth"
"""The arms that a usefulness is made of: the prediction, the mean, and the latent itself."""


def measure(
    subject: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    tokens: Int[ndarray, "row pos"],
    windows: Windows,
    sources: Mapping[tuple[int, str], Float[ndarray, " window"]],
    *,
    name: str,
    progress: Callable[[float], None] | None = None,
) -> pd.DataFrame:
    """One row a (window, latent, arm), each latent's truth among its arms.

    ``sources``: activations by (latent, arm). ``progress`` is told the share done after each batch
    and may raise to stop.
    """
    rows, ends = windows
    tables, bar = [], range(0, len(rows), BATCH)
    for start in bar if progress else tqdm(bar, desc=name, unit="batch"):
        part = slice(start, start + BATCH)
        told = [OneLatent(key[0], torch.tensor(v[part])) for key, v in sources.items()]
        these = torch.from_numpy(tokens[rows[part]])
        with torch.no_grad():
            mask = at_positions(these, torch.from_numpy(ends[part]))
            found = arm_losses(subject, coder, hookpoint, [TrueLatents(), *told], these, mask)
        tables.append(_table(start, list(sources), found.losses.loss, found.losses.base_loss))
        if progress:
            progress(min(1.0, (start + BATCH) / len(rows)))
    return pd.concat(tables, ignore_index=True)


def usefulness(losses: pd.DataFrame, *, seed: int, resamples: int = 2000) -> pd.DataFrame:
    """One row a latent: CE with its mean minus CE with its prediction, nats; positive is useful.

    ``at_stake`` is CE with its mean minus CE with its truth: what a perfect prediction would win.
    Intervals over windows.
    """
    rows = []
    for latent, part in losses.groupby("latent", sort=False):
        loss = part.pivot(index="window", columns="arm", values="loss")
        row: dict[str, float] = {"latent": int(latent), "windows": len(loss)}
        for column, arm in (("usefulness", PREDICTED), ("at_stake", TRUTH)):
            difference = (loss[MEAN] - loss[arm]).to_numpy(np.float64)
            found = stats.bootstrap(difference, unit="window", seed=seed, resamples=resamples)
            row |= {column: found.value, f"{column}_low": found.low, f"{column}_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _table(start: int, keys: Sequence[tuple[int, str]], loss: Tensor, base: Tensor) -> pd.DataFrame:
    """Long form, with the truth once for every latent."""
    latents = list(dict.fromkeys(latent for latent, _ in keys))
    columns = [(latent, TRUTH) for latent in latents] + list(keys)
    values = torch.cat([loss[:, :1].expand(-1, len(latents)), loss[:, 1:]], dim=1)
    return pd.DataFrame(
        {
            "window": start + np.repeat(np.arange(len(values)), len(columns)),
            "latent": [latent for latent, _ in columns] * len(values),
            "arm": [arm for _, arm in columns] * len(values),
            "loss": values.flatten().numpy(),
            "base_loss": base.repeat_interleave(len(columns)).numpy(),
        }
    )

"""What each latent's prediction is worth to the model: one latent replaced, all others true.

In: windows, and what to put in a latent's place there. Out: one row a (window, latent, arm) with
its loss; and a latent's usefulness, CE with its mean in place minus CE with its prediction. It puts
latents in order ("useful") and is measured on calibrate windows, never on those it is judged on.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from rewrite_utils import stats
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.latents.cache import Windows
from rewrite_utils.rewrite.arms import by_window, windows_at_once
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice import OneLatent, TrueLatents, arm_losses

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
    latents = list(dict.fromkeys(latent for latent, _ in sources))
    keys = [(latent, TRUTH) for latent in latents] + list(sources)

    def losses(part: slice, rows: Tensor, mask: Tensor) -> dict[str, Tensor]:
        told = [OneLatent(key[0], torch.tensor(v[part])) for key, v in sources.items()]
        found = arm_losses(subject, coder, hookpoint, [TrueLatents(), *told], rows, mask).losses
        truth = found.loss[:, :1].expand(-1, len(latents))  # once for every latent
        loss = torch.cat([truth, found.loss[:, 1:]], dim=1)
        return {"loss": loss, "base_loss": found.base_loss}

    arms = pd.DataFrame(keys, columns=["latent", "arm"])
    batch = windows_at_once(subject, (), latents=coder.config.num_latents)
    return by_window(tokens, windows, arms, losses, name=name, batch=batch, progress=progress)


def usefulness(
    losses: pd.DataFrame,
    *,
    seed: int,
    resamples: int = 2000,
    units: Int[ndarray, " window"] | None = None,
) -> pd.DataFrame:
    """One row a latent: CE with its mean minus CE with its prediction, nats; positive is useful.

    ``at_stake`` is CE with its mean minus CE with its truth: what a perfect prediction would win.
    Intervals over windows, or over their rows (``units``, by number of the window).
    """
    options, rows = {"unit": "window", "seed": seed, "resamples": resamples}, []
    options |= {} if units is None else {"unit": "row"}
    for latent, part in losses.groupby("latent", sort=False):
        loss = part.pivot(index="window", columns="arm", values="loss").astype(np.float64)
        row: dict[str, float] = {"latent": int(latent), "windows": len(loss)}
        for column, arm in (("usefulness", PREDICTED), ("at_stake", TRUTH)):
            difference = (loss[MEAN] - loss[arm]).to_numpy()
            of = None if units is None else units[loss.index]
            row |= stats.bootstrap(difference, units=of, **options).named(column)
        rows.append(row)
    return pd.DataFrame(rows)

"""What a coder is worth: loss and FVU on held-out text, and the range left to its latents.

In: a coder and rows it was not trained on. Out: one row an arm (coder, latents at mean or zero,
whole output at mean or zero), positions patched one at a time, intervals over rows. Paper §2.
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from rewrite_utils import stats
from rewrite_utils.coders import SparseCoder
from rewrite_utils.models import Hookpoint, Subject
from rewrite_utils.splice import (
    ArmLosses,
    GivenOutput,
    Source,
    TrueLatents,
    arm_losses,
    mean_latents,
    zero_latents,
)


@torch.no_grad()
def measure(
    subject: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    tokens: Int[ndarray, "row pos"],
    *,
    latent_means: Float[ndarray, " latent"],
    output_mean: Float[Tensor, " d_out"],
    variance: float,
    seed: int,
    rows: int = 32,
    positions: int = 8,
) -> pd.DataFrame:
    """Every arm at ``positions`` random places of each of the first ``rows`` rows."""
    arms: dict[str, Source] = {
        "coder": TrueLatents(),
        "latents at mean": mean_latents(torch.from_numpy(latent_means).float()),
        "latents at zero": zero_latents(coder.config.num_latents),
        "output at mean": GivenOutput(output_mean),
        "output at zero": GivenOutput(torch.zeros_like(output_mean)),
    }
    chosen = torch.from_numpy(tokens[:rows])
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(len(chosen), chosen.shape[1] - 2, generator=generator).argsort(1)
    mask = torch.zeros(chosen.shape, dtype=torch.bool).scatter(1, 1 + order[:, :positions], True)
    found = arm_losses(subject, coder, hookpoint, list(arms.values()), chosen, mask)
    table = [_row(arm, place, found, variance, seed) for place, arm in enumerate(arms)]
    return pd.DataFrame(table)


def _row(arm: str, place: int, found: ArmLosses, variance: float, seed: int) -> dict:
    """ΔCE as a mean over rows of row means, its interval over rows, and FVU."""
    delta = (found.losses.loss[:, place] - found.losses.base_loss).numpy()
    rows = found.rows.numpy()
    of_rows = np.bincount(rows, weights=delta) / np.bincount(rows)
    interval = stats.bootstrap(of_rows, unit="row", seed=seed)
    return {
        "arm": arm,
        "delta": interval.value,
        "delta_low": interval.low,
        "delta_high": interval.high,
        "fvu": float(found.squared_error[:, place].mean()) / variance,
        "rows": interval.n,
        "positions": len(rows),
        "base CE": float(found.losses.base_loss.mean()),
    }

"""What one latent alone does to the model: its truth, its sentence, or nothing in its place.

In: one latent's losses at the evaluate windows, by arm. Out: one row an arm, paired against the
truth. Beyond the paper, which replaces many latents at once (§6).
"""

import pandas as pd

from rewrite_utils.stats import bootstrap

ARMS = ("truth", "sentence", "another's sentence", "token table", "mean", "zero")
"""What stands in the latent's place; the fourth needs no LLM, the third is the floor."""


def verdict(losses: pd.DataFrame, *, seed: int, resamples: int = 2000) -> pd.DataFrame:
    """One row an arm: its loss minus the truth's, paired, with its interval over windows (nats).

    ``delta`` is the truth's own loss minus the untouched model's; the other arms have None.
    """
    loss = losses.pivot(index="window", columns="arm", values="loss")
    base = losses.groupby("window")["base_loss"].first()
    options = {"unit": "window", "seed": seed, "resamples": resamples}
    gaps = {arm: (loss[arm] - loss["truth"]).to_numpy() for arm in ARMS if arm in loss}
    delta = bootstrap((loss["truth"] - base).to_numpy(), **options)
    return pd.DataFrame(
        {
            "arm": list(gaps),
            "over_truth": [bootstrap(gap, **options) for gap in gaps.values()],
            "delta": [delta if arm == "truth" else None for arm in gaps],
        }
    )

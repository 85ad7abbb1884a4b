"""The rewritten model beside the model: the same prompts continued, the same rows scored.

In: by name, a `Rewritten`. Out: continuations, and one loss a row. Also the edit that shows what a
description does: two latents exchange theirs. Beyond the paper.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from numpy import ndarray
from tqdm.auto import tqdm

from rewrite_utils.rewrite.rewritten import Rewritten


def continued(
    models: Mapping[str, Rewritten], prompts: Sequence[str], *, tokens: int
) -> pd.DataFrame:
    """One row a (prompt, model): the likeliest ``tokens`` that follow."""
    pairs = [(prompt, name) for prompt in prompts for name in models]
    texts = [
        models[name].generate(prompt, tokens) for prompt, name in tqdm(pairs, desc="continuations")
    ]
    return pd.DataFrame(pairs, columns=["prompt", "model"]).assign(text=texts)


def scored(
    models: Mapping[str, Rewritten], tokens: Int[ndarray, "row pos"], *, batch: int = 8
) -> pd.DataFrame:
    """One row a (row, model): its mean loss with every position replaced, in nats."""
    rows = torch.from_numpy(tokens).long()
    tables = []
    for name, model in tqdm(models.items(), desc="whole texts", unit="model"):
        loss = np.nanmean(model.losses(rows, batch=batch), axis=1)
        tables.append(pd.DataFrame({"row": np.arange(len(rows)), "model": name, "loss": loss}))
    return pd.concat(tables, ignore_index=True)


def exchanged(texts: Mapping[int, str], one: int, other: int) -> dict[int, str]:
    """Descriptions in which two latents have each other's."""
    return {**texts, one: texts[other], other: texts[one]}

"""The rewritten model beside the model: the same prompts continued, the same rows scored.

In: a subject, and by site what may stand there. Out: models by name, continuations, losses a row.
Beyond the paper.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from numpy import ndarray
from tqdm.auto import tqdm

from rewrite_utils.rewrite.rewritten import Place, Rewritten
from rewrite_utils.subject.model import Subject

SOURCES = ("coder", "reader", "mean")
"""What every site, and all sites together, take their latents from."""


def models(
    subject: Subject,
    sites: Mapping[str, Mapping[str, Place]],
    *,
    masked: tuple[int, ...] = (),
    edited: str = "",
) -> dict[str, Rewritten]:
    """The model itself; each site, and all of them together, from every source ("coder, early");
    and, if it is named, the first site from one more source."""
    sets = [[name] for name in sites] + [list(sites)] * (len(sites) > 1)
    chosen = [(source, names) for names in sets for source in SOURCES]
    chosen += [(edited, [next(iter(sites))])] if edited else []
    found = {"model": Rewritten(subject, masked=masked)}
    for source, names in chosen:
        places = tuple(sites[name][source] for name in names)
        found[f"{source}, {'+'.join(names)}"] = Rewritten(subject, places, masked)
    return found


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

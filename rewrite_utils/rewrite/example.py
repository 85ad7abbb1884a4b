"""One window through the whole experiment: a token, its latents, what is said of each, what is read
from that, and what the model says next. Paper figure 2, with the numbers of a run.

In: a site's results. Out: tables, as ``report.pipeline`` draws them; the model runs once a speaker.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from numpy import ndarray
from torch import Tensor

from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.stage import Caches
from rewrite_utils.params import Params
from rewrite_utils.rewrite.arms import ALL, TOPK, Estimate
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.pieces import spelled, token_texts
from rewrite_utils.subject.splice import (
    GivenLatents,
    Source,
    TrueLatents,
    Untouched,
    at_positions,
    spliced,
)

EXPECTED = 0.1
"""The model's own chance of the next token from which on a window can be an example."""
BEFORE, LIKELIEST = 12, 3
"""Tokens of context that are shown, and next tokens a speaker."""


class Example(NamedTuple):
    """One window of a run."""

    texts: list[str]
    """Exact text of the tokens up to the marked one."""
    following: str
    """That of the token which follows in the text."""
    latents: pd.DataFrame
    """One row a latent: its sentence, true activation, expected rating (0 … 9), predicted."""
    said: pd.DataFrame
    """One row a (speaker, token): its chance; a speaker is a source of the rewrite."""


def example(
    *,
    subject: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    cache: Caches,
    simulated_windows: Callable[[str], Windows],
    ratings: Callable[[str], Any],
    true: Callable[[str], ndarray],
    estimates: Mapping[str, Estimate],
    sentences: Mapping[int, str],
    losses: pd.DataFrame,
    params: Params,
) -> Example:
    """The window that ``typical`` chooses."""
    headline, latents = params.rewrite.headline, list(sentences)
    at = typical(losses, headline, (true("evaluate") > 0).any(1))
    windows, tokens = simulated_windows("evaluate"), cache("evaluate").tokens
    row, end = torch.from_numpy(tokens[[windows.rows[at]]]), int(windows.ends[at])

    def told(source: str) -> Source:
        values, which = torch.zeros(coder.config.num_latents), torch.tensor(latents)
        values[which] = torch.from_numpy(estimates[source].values[at]).float()
        given = torch.zeros(len(values), dtype=torch.bool).index_fill_(0, which, True)
        return GivenLatents(values, given, topk=source.endswith(TOPK))

    speakers: dict[str, Source] = {"untouched": Untouched(), "coder": TrueLatents()}
    speakers |= {source: told(source) for source in (headline, "mean")}
    numbers = {
        "true": true("evaluate")[at],
        "expected": ratings("evaluate").expected[at].astype(np.float32),
        "predicted": estimates[headline].values[at],
    }
    texts = token_texts(subject.tokenizer, row[0, max(1, end - BEFORE) : end + 2].tolist())
    table = pd.DataFrame({"latent": latents, "sentence": list(sentences.values()), **numbers})
    said = next_tokens(subject, hookpoint, coder, speakers, row, end)
    return Example(texts[:-1], texts[-1], table, said)


def typical(losses: pd.DataFrame, headline: str, fires: Bool[ndarray, " window"]) -> int:
    """The window whose gain over mean ablation is nearest the mean gain of all, among those where a
    described latent ``fires`` and whose next token the model itself expects; where there are none
    such, among those where one fires, or all."""
    whole = losses[losses["order"] == ALL]
    loss = whole.pivot(index="window", columns="source", values="loss")
    gain = (loss["mean"] - loss[headline]).dropna()  # controls have more windows
    expected = np.exp(-whole.groupby("window")["base_loss"].first()[gain.index]) >= EXPECTED
    active = pd.Series(fires[gain.index], gain.index)
    chosen = next(one for one in (expected & active, active, expected | True) if one.any())
    return int((gain[chosen] - gain.mean()).abs().idxmin())


@torch.no_grad()
def next_tokens(
    subject: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    speakers: Mapping[str, Source],
    row: Int[Tensor, "one pos"],
    end: int,
) -> pd.DataFrame:
    """Chances of each speaker's likeliest tokens behind ``end``, and of the one that follows in the
    text; sources are spliced in at ``end`` alone."""
    tables, following = [], int(row[0, end + 1])
    where = at_positions(row, torch.tensor([end]))
    for name, source in speakers.items():
        with spliced(subject, coder, hookpoint, source, positions=where):
            logits = subject.bridge(row.to(subject.device))[0, end]
        chances = logits.float().softmax(-1).cpu()[: len(subject.tokenizer)]  # the rest is padding
        ids = list(dict.fromkeys([*chances.topk(LIKELIEST).indices.tolist(), following]))
        found = {"token": spelled(subject.tokenizer, ids), "chance": chances[ids].numpy()}
        found["follows"] = [one == following for one in ids]
        tables.append(pd.DataFrame({"speaker": name, **found}))
    return pd.concat(tables, ignore_index=True)

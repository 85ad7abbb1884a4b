"""Stages of notebook 13: the losses of whole layers read from descriptions, and their vocabulary.

The verdict on each reader against mean ablation of the same latents, and against a token table.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.latents.controls import vocabulary_table
from rewrite_utils.latents.totals import TokenTotals
from rewrite_utils.params import Params, Site
from rewrite_utils.rewrite import layer
from rewrite_utils.rewrite.layer import MEAN
from rewrite_utils.rewrite.layer import Says as Said
from rewrite_utils.rewrite.rewritten import Place, Says, coded, constant
from rewrite_utils.rewrite.splicer import splice_cost
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.stage import Declared
from rewrite_utils.simulate.readers.arms import Senses, parse_arm
from rewrite_utils.simulate.readers.kept import Kept
from rewrite_utils.simulate.readers.reader import dense
from rewrite_utils.simulate.readers.stage import LevelTexts, Readings, text_of
from rewrite_utils.simulate.readers.text import Text
from rewrite_utils.subject.corpus import Corpus
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice import GivenLatents, Source, mean_latents

FILE = "losses.parquet"
TABLE, BACKOFF = "token table", "token table, back-off"
ELSEWHERE = "c, fitted elsewhere"
EDITED = "edited"
"""The token reader after the two latents that carry most have exchanged their descriptions."""


def make_layer(
    folder: Path,
    *,
    subject: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    output_mean: Tensor,
    latent_means: Float[ndarray, " latent"],
    totals: TokenTotals,
    senses: Senses,
    readers: Readings,
    elsewhere_reader: Kept | None,
    level_texts: LevelTexts,
    reader_rows: Mapping[str, Int[ndarray, "row pos"]],
    corpus: Corpus,
    params: Params,
    name: str,
) -> dict[str, Any]:
    """Every source at every position of every text."""
    kept = {arm: readers[arm] for arm in params.arms_of(name)}
    kept |= {ELSEWHERE: elsewhere_reader} if elsewhere_reader else {}
    tables = []
    for title, tokens in reader_rows.items():
        file = folder / f"part {title.replace('/', ' ')}.parquet"
        if not file.exists():
            text = text_of(tokens, subject)
            says = sources(tokens, text, latent_means, totals, senses)
            for arm, one in kept.items():
                said = [level_texts[one.level][latent] for latent in one.latents.tolist()]
                values = dense(one.reader.read(said, text), text).astype(np.float16)
                says[arm] = Said(one.latents, values.__getitem__)
            for one in kept.values():
                says[ablation(one.latents)] = layer.whole_mean(latent_means, one.latents)
            how = {"name": f"{name}, {title}", "masked": corpus.masked}
            how["whole"] = {layer.CODER, layer.OUTPUT_MEAN, MEAN, params.sites[name].reader}
            found = layer.measure(subject, hookpoint, coder, tokens, says, output_mean, **how)
            found.assign(text=title).to_parquet(file)
        tables.append(pd.read_parquet(file))
    pd.concat(tables, ignore_index=True).to_parquet(folder / FILE)
    return {"rows": {title: len(tokens) for title, tokens in reader_rows.items()}}


def sources(
    tokens: Int[ndarray, "row pos"],
    text: Text,
    latent_means: Float[ndarray, " latent"],
    totals: TokenTotals,
    senses: Senses,
) -> dict[str, Said]:
    """What needs no description: mean ablation of every latent, and both token tables."""
    every, ids = np.arange(len(latent_means)), np.unique(tokens)
    vectors = senses.spaces["whitened"](text.kinds)
    found = {MEAN: layer.whole_mean(latent_means, every)}
    for title, near in ((TABLE, ()), (BACKOFF, (vectors,))):
        table = vocabulary_table(totals, ids, *near)
        found[title] = Said(every, lambda part, table=table: table[text.rows[part]])
    return found


def ablation(latents: Int[ndarray, " latent"]) -> str:
    """Mean ablation of so many latents, by name."""
    return f"mean of {len(latents)}"


def layer_verdict(
    *,
    layer_losses: pd.DataFrame,
    readers: Readings,
    params: Params,
    name: str,
) -> pd.DataFrame:
    """One row a (text, source); see `layer.judged`."""
    against = dict.fromkeys((layer.CODER, layer.OUTPUT_MEAN, MEAN, TABLE, BACKOFF), MEAN)
    against |= {arm: ablation(readers.latents(arm)) for arm in params.arms_of(name)}
    if ELSEWHERE in set(layer_losses["source"]):
        against[ELSEWHERE] = ablation(readers.latents("c"))
    how = {"table": BACKOFF, "seed": params.seed, "resamples": params.readers.bootstrap}
    tables = [
        layer.judged(part, against, **how).assign(text=title)
        for title, part in layer_losses.groupby("text", sort=False)
    ]
    return pd.concat(tables, ignore_index=True)


def layer_hashes(*, params: Params) -> dict[str, Any]:
    """Which texts, and how many rows of them."""
    asked = params.readers
    rows = [asked.evaluate_rows, asked.text_rows]
    return {"texts": list(asked.texts), "rows": rows, "seed": params.seed}


def layer_cost(*, params: Params, settings: Site, name: str, model: ModelShape) -> Cost | None:
    """Every position through the layers above, a source; and every row once whole, a source."""
    if not settings.reader:
        return None
    asked, width = params.readers, params.corpus.row_tokens
    arms = 7 + len(params.arms_of(name))
    rows = asked.evaluate_rows + len(asked.texts) * asked.text_rows
    return splice_cost(
        "13_layer",
        name,
        f"{rows:,} rows at every position × {arms} sources",
        params,
        settings,
        model,
        windows=rows * (1 + arms),
        losses=rows * (width - 2) * arms,
    )


LAYER = Declared(
    name="13_layer",
    make=make_layer,
    read=lambda folder: pd.read_parquet(folder / FILE),
    on=("readers_stage", "elsewhere_stage"),
    hashes=layer_hashes,
    cost=layer_cost,
)


class TokenReader:
    """A reader of single tokens as a table over the vocabulary, a row read when its token first
    occurs; what a rewritten model asks in place of the encoder."""

    def __init__(
        self, kept: Kept, texts: Mapping[int, str], subject: Subject, *, width: int
    ) -> None:
        """``texts``: the description of every latent that ``kept`` reads; ``width``: the coder's,
        whose other latents stay at 0."""
        self._kept, self._subject = kept, subject
        self._said = [texts[one] for one in kept.latents.tolist()]
        self._table = torch.zeros(subject.vocab_size, width)
        # Logits may be wider than the tokenizer: what has no text is not read.
        self._known = torch.arange(subject.vocab_size) >= len(subject.tokenizer)

    def __call__(self, tokens: Int[Tensor, "batch pos"]) -> Source:
        """What it says of these rows."""
        return GivenLatents(self.values(tokens))

    def values(self, tokens: Int[Tensor, "*where"]) -> Float[Tensor, "*where latent"]:
        """Activation of every latent at these tokens."""
        tokens = tokens.cpu()
        new = tokens.unique()
        new = new[~self._known[new]]
        if len(new):
            text = text_of(np.pad(new.numpy(), (1, 0), constant_values=self._subject.bos)[None],
                           self._subject)  # fmt: skip
            found = dense(self._kept.reader.read(self._said, text), text)[0, 1:]
            columns = torch.from_numpy(self._kept.latents)
            self._table[new[:, None], columns] = torch.from_numpy(found)
            self._known[new] = True
        return self._table[tokens]


def reader(*, readers: Readings, params: Params, name: str) -> Kept:
    """The site's richest reader of single tokens: what rewritten models and the explorer use."""
    return readers[token_arm(params, name)]


def token_reader(
    *, reader: Kept, level_texts: LevelTexts, subject: Subject, coder: SparseCoder
) -> TokenReader:
    """The same as a table."""
    texts, width = level_texts[reader.level], coder.config.num_latents
    return TokenReader(reader, texts, subject, width=width)


def exchanged(
    *, read_latents: Int[ndarray, " read"], energy: Float[ndarray, " latent"]
) -> tuple[int, int]:
    """The two latents that carry most of the output among those that are read."""
    one, other = read_latents[np.argsort(-energy[read_latents], kind="stable")][:2]
    return int(one), int(other)


def edited_reader(
    *,
    reader: Kept,
    level_texts: LevelTexts,
    exchanged: tuple[int, int],
    subject: Subject,
    coder: SparseCoder,
) -> TokenReader:
    """The token reader when those two have each other's descriptions."""
    texts = dict(level_texts[reader.level])
    one, other = exchanged
    texts[one], texts[other] = texts[other], texts[one]
    return TokenReader(reader, texts, subject, width=coder.config.num_latents)


def replacements(
    *,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    latent_means: Float[ndarray, " latent"],
    token_reader: TokenReader,
    edited_reader: TokenReader,
) -> dict[str, Place]:
    """What a rewritten model may put at this site, by source."""
    means = mean_latents(torch.from_numpy(latent_means).float())
    says: dict[str, Says] = {"coder": coded, "reader": token_reader, "mean": constant(means)}
    says[EDITED] = edited_reader
    return {source: Place(hookpoint, coder, one) for source, one in says.items()}


def token_arm(params: Params, name: str) -> str:
    """The site's richest arm that needs no LLM pass: the one that can be a table."""
    plain = [arm for arm in params.arms_of(name) if not parse_arm(arm).needs_llm]
    whole = [arm for arm in plain if parse_arm(arm).together]
    return max(whole or plain, key=lambda arm: parse_arm(arm).level)

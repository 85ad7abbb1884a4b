"""A stage of notebook 13: how much every latent fires on every token, over rows of training text.

What words are counted from, and what the token tables hold. Rows that no reader is calibrated or
measured on. Beyond the paper.
"""

import shutil
from pathlib import Path
from typing import Any

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.latents.cache import cache_latents
from rewrite_utils.latents.stage import cached_cost
from rewrite_utils.latents.totals import TokenTotals
from rewrite_utils.params import Params, Site
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.stage import Declared
from rewrite_utils.subject.corpus import Corpus
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.stage import split_rows


def make_totals(
    folder: Path,
    *,
    collector: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    corpus: Corpus,
    params: Params,
    name: str,
) -> dict[str, Any]:
    """Run the coder over train rows and keep the sums by kind of token."""
    rows = corpus.rows("train")[: params.readers.train_rows or None]
    batches = folder / "batches"
    label, masked = f"{name}, train", corpus.masked
    cache, _ = cache_latents(
        collector, hookpoint, coder, rows, folder=batches, name=label, masked=masked
    )
    TokenTotals.of(cache).write(folder)
    shutil.rmtree(batches)
    return {"rows": len(rows)}


def read_totals(folder: Path) -> TokenTotals:
    """Sums of every latent's activation by kind of token, over train rows."""
    return TokenTotals.read(folder)


def totals_cost(*, params: Params, settings: Site, name: str, model: ModelShape) -> Cost | None:
    """The coder over these rows."""
    if not settings.reader:
        return None
    rows = min(params.readers.train_rows or 2**62, split_rows(params)["train"])
    what = f"{rows:,} train rows for words and token tables"
    return cached_cost("13_totals", name, what, params, settings, model, rows=rows)


def totals_hashes(*, params: Params) -> dict[str, Any]:
    """How many rows."""
    return {"rows": params.readers.train_rows}


TOTALS = Declared(
    name="13_totals",
    make=make_totals,
    read=read_totals,
    on=("coder_stage", "corpus_stage"),
    hashes=totals_hashes,
    cost=totals_cost,
)

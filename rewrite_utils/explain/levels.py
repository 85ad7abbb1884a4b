"""Descriptions of every latent in levels: sentences where an LLM wrote one, counted words, outputs.

In: a site's counted totals, its sentences, its coder. Out: one `Description` a latent, and its text
at each level. A stage of notebook 13 asks for the sentences that the paper's own way did not need.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.explain import asking
from rewrite_utils.explain import stage as explaining
from rewrite_utils.explain.described import LEVELS, Description, Level
from rewrite_utils.explain.evidence import Source
from rewrite_utils.explain.logits import output_words
from rewrite_utils.explain.stage import latent_count
from rewrite_utils.latents.stage import Caches
from rewrite_utils.latents.totals import TokenTotals
from rewrite_utils.latents.words import Word, count_words
from rewrite_utils.params import Params, Site
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.stage import Declared
from rewrite_utils.subject.model import Subject
from rewrite_utils.subject.pieces import spelled

PIECE = re.compile(r'"([^"]*)"|([^",;\s](?:[^",;]*[^",;\s])?)')
"""A word of the explainer's list, in quotation marks or bare between commas."""


def read_latents(*, totals: TokenTotals, params: Params) -> Int[ndarray, " latent"]:
    """Every latent that fires often enough to be described, in order of index."""
    firings = np.diff(totals.sums.indptr)  # kinds of token that it fires on
    return np.flatnonzero(firings >= min(params.explain.min_firings, 3))


def told(
    *,
    read_latents: Int[ndarray, " read"],
    described: Int[ndarray, " described"],
    energy: Float[ndarray, " latent"],
    cache: Caches,
    params: Params,
) -> Int[ndarray, " told"]:
    """The latents that an LLM describes: the described ones, and those that carry most."""
    shown = read_latents[cache("explain").counts[read_latents] >= params.explain.min_firings]
    ranked = shown[np.argsort(-energy[shown], kind="stable")]
    count = params.readers.told or len(ranked)
    return np.union1d(ranked[:count], np.intersect1d(described, read_latents))


def make_told(
    folder: Path,
    *,
    evidence_source: Source,
    told: Int[ndarray, " latent"],
    described: Int[ndarray, " described"],
    params: Params,
) -> dict[str, Any]:
    """One sentence for each latent that the paper's way has left without."""
    missing = [] if _elsewhere(params) else np.setdiff1d(told, described).tolist()
    if missing:
        return explaining.written(folder, evidence_source, missing, params)
    nothing = pd.DataFrame(columns=[*asking.Explanation._fields, "sentence"])
    nothing.to_parquet(folder / explaining.FILE)
    return {"units": 0}


def told_hashes(*, params: Params, settings: Site) -> dict[str, Any]:
    """As the described ones are asked about, and how many."""
    own = {"told": params.readers.told, "least": params.explain.min_firings}
    beside = {"beside": "nobody"} if _elsewhere(params) else {}
    return explaining.explanation_hashes(params=params, settings=settings) | own | beside


def _elsewhere(params: Params) -> bool:
    """Whether the sentences come from elsewhere: then nobody writes others beside them."""
    return bool(params.explain.labels or params.explain.delphi)


def told_cost(*, params: Params, settings: Site, name: str, model: ModelShape) -> Cost | None:
    """Sentences beside those of the paper's way."""
    count = (params.readers.told or settings.latents) - latent_count(settings)
    if not settings.reader or count <= 0 or _elsewhere(params):
        return None
    what = f"{count:,} sentences more, for the readers"
    return explaining.sentences_cost("13_told", name, what, params, count)


TOLD = Declared(
    name="13_told",
    make=make_told,
    read=explaining.read_explanations,
    on=("latents_stage", "totals_stage"),
    hashes=told_hashes,
    cost=told_cost,
)


def level_records(
    *,
    read_latents: Int[ndarray, " read"],
    totals: TokenTotals,
    told_more: pd.DataFrame,
    explanations: pd.DataFrame,
    subject: Subject,
    coder: SparseCoder,
    params: Params,
    name: str,
) -> dict[int, Description]:
    """Everything that can be said about each latent that is read."""
    asked, tokenizer = params.readers, subject.tokenizer
    counted = count_words(totals, lambda ids: spelled(tokenizer, ids.tolist()), words=asked.words)
    written = pd.concat([explanations, told_more]).dropna(subset=["explanation"])
    english = dict(zip(written["latent"], written["explanation"], strict=True))
    named = dict(zip(written["latent"], written["pieces"], strict=True))
    outputs = any(arm.startswith("d") for arm in params.arms_of(name))
    limits = {"raises": asked.raises, "lowers": asked.lowers}
    found = {}
    for latent in read_latents.tolist():
        ends = output_words(subject, coder, latent, **limits) if outputs else ((), ())
        words = (*named_words(named.get(latent, "")), *counted[latent].words)
        found[latent] = Description(english.get(latent, ""), words, counted[latent].covered, *ends)
    return found


def level_texts(*, level_records: dict[int, Description]) -> dict[Level, dict[int, str]]:
    """The description of every latent at each level; one that says nothing there is left out.

    Levels a and b are an LLM's words: they have the latents that an LLM described.
    """
    written = {n: one for n, one in level_records.items() if one.english}
    found: dict[Level, dict[int, str]] = {}
    for level in LEVELS:
        records = written if level in ("a", "b") else level_records
        said = {n: one.text(level) for n, one in records.items()}
        found[level] = {n: text for n, text in said.items() if text}
    return found


def named_words(pieces: str) -> tuple[Word, ...]:
    """The words of the explainer's own list, each once, as it wrote them."""
    found = (quoted or bare for quoted, bare in PIECE.findall(pieces))
    return tuple(Word(text) for text in dict.fromkeys(found) if text)

"""Stage 00: rows of text in five disjoint splits, the same for all sites; and the subject."""

import functools
import math
from pathlib import Path
from typing import Any

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.params import SPLITS, Params, Site
from rewrite_utils.params.place import Subject as Asked
from rewrite_utils.runs.cost import Cost, PlanError
from rewrite_utils.runs.machine import BYTES, device, precision
from rewrite_utils.runs.stage import Declared
from rewrite_utils.subject.corpus import Corpus, load_corpus
from rewrite_utils.subject.masking import control_tokens
from rewrite_utils.subject.model import Hookpoint, Subject, load_subject, parse_hookpoint
from rewrite_utils.subject.splice.checking import checked

CACHED_SPLITS = SPLITS[1:]
"""Every split but train: what latents are cached on."""
CORPUS_TOKENS = {
    "embedded/wikipedia": 1_070_000,
    "embedded/recipes": 700_000,
    "embedded/shakespeare": 1_840_000,
}
"""Tokens of the embedded texts in SmolLM2's tokens; other tokenizers differ by a tenth or so."""


@functools.cache
def loaded(model: str, dtype: str, where: str, revision: str) -> Subject:
    """A subject, loaded once a process."""
    return load_subject(model, dtype=dtype, device=where, revision=revision or None)


@functools.cache
def tried(model: str, dtype: str, where: str, revision: str) -> Subject:
    """The same, its splice checked against brute force: for losses."""
    return checked(loaded(model, dtype, where, revision))


def subject(*, params: Params) -> Subject:
    """The language model under study, in the precision that losses are measured in."""
    asked = params.subject
    return tried(asked.model, asked.measured_in, device(asked.device), asked.revision)


def collector(*, params: Params) -> Subject:
    """The same model in the precision that activations are collected in."""
    asked = params.subject
    where = device(asked.device)
    dtype = precision(asked.collected_in, device=where)
    return loaded(asked.model, dtype, where, asked.revision)


def checkpoint(asked: Asked, name: str) -> Subject:
    """The subject at one point of its training; not kept in memory."""
    where = device(asked.device)
    return load_subject(asked.model, dtype=asked.measured_in, device=where, revision=name)


def hookpoint(*, subject: Subject, settings: Site) -> Hookpoint:
    """The place in the subject."""
    return parse_hookpoint(settings.hookpoint, n_layers=subject.n_layers)


def make_corpus(folder: Path, *, subject: Subject, params: Params) -> dict[str, Any]:
    """Tokenise, split and cut the text."""
    asked = params.corpus
    corpus = load_corpus(
        asked.sources,
        subject.tokenizer,
        row_tokens=asked.row_tokens,
        shares=asked.shares,
        seed=params.seed,
        draw=params.draws,
        bos=subject.bos,
        max_rows=dict.fromkeys(CACHED_SPLITS, asked.max_rows) if asked.max_rows else None,
        faithful=asked.faithful,
        apart_from=asked.apart_from,
        masked=control_tokens(subject.tokenizer) if asked.special_tokens == "masked" else (),
    )
    corpus.write(folder)
    return {split: len(corpus.rows(split)) for split in corpus.splits}


def corpus_hashes(*, params: Params) -> dict[str, Any]:
    """Text, tokenizer and seed; the run's name where rows are drawn by it."""
    asked = params.corpus.content()
    named = {"name": params.name} if params.corpus.draw == "name" else {}
    return {"corpus": asked, "tokenizer": params.subject.model, "seed": params.seed} | named


def split_rows(params: Params) -> dict[str, int]:
    """Rows in each split: from the known size of embedded text, else from corpus.max_rows.

    Raises PlanError for text of unknown size whose rows are not limited.
    """
    corpus, width = params.corpus, params.corpus.row_tokens - 1
    if any(source not in CORPUS_TOKENS for source in corpus.sources):
        if not corpus.max_rows:
            raise PlanError(
                f"the size of corpus {', '.join(corpus.sources)} is not known without the hub: set "
                "corpus.max_rows"
            )
        trained = [site.tokens // width for site in params.sites.values() if not site.coder]
        read = [params.readers.train_rows for site in params.sites.values() if site.reader]
        return {"train": max([0, *trained, *read])} | dict.fromkeys(CACHED_SPLITS, corpus.max_rows)
    total = sum(CORPUS_TOKENS[source] for source in corpus.sources)
    limit = corpus.max_rows or math.inf
    pool = 1 - corpus.train
    shares = {name: pool if corpus.faithful else corpus.shares[name] for name in CACHED_SPLITS}
    rows = {name: int(min(total * share // width, limit)) for name, share in shares.items()}
    return {"train": int(total * corpus.train // width)} | rows


def corpus_cost(*, params: Params, model: ModelShape) -> Cost:
    """Rows of all splits, as int32; the subject in memory."""
    if params.corpus.row_tokens > model.context:
        raise PlanError(
            f"corpus.row_tokens = {params.corpus.row_tokens} is more than the subject's context "
            f"of {model.context}"
        )
    rows = split_rows(params)
    tokens = sum(rows.values()) * params.corpus.row_tokens
    weights = model.parameters * BYTES[params.subject.measured_in]
    return Cost(
        "00_corpus",
        "",
        ", ".join(f"{name} {count:,}" for name, count in rows.items()) + " rows",
        storage=4 * tokens,
        text=tokens,
        memory={"subject": weights},
        remarks=tuple(_remarks(params)),
    )


def _remarks(params: Params) -> list[str]:
    unknown = [source for source in params.corpus.sources if source not in CORPUS_TOKENS]
    found = []
    if unknown:
        found.append(
            f"The size of {', '.join(unknown)} is not known without the hub: train rows are "
            "what the coders trained here ask for, the other splits have corpus.max_rows each; "
            "reading and tokenising the rest of the train split comes on top."
        )
    if params.corpus.faithful:
        found.append(
            "corpus.faithful: explain, score, calibrate and evaluate are the same rows, cached "
            "once for each of them."
        )
    return found


def layer_of(model: ModelShape, settings: Site) -> int:
    """The block of a site's hookpoint."""
    return parse_hookpoint(settings.hookpoint, n_layers=model.n_layers).layer


def flops_to(model: ModelShape, settings: Site) -> int:
    """FLOPs a token up to and with the hooked block."""
    return model.flops(layers=layer_of(model, settings) + 1)


CORPUS = Declared(
    name="00_corpus",
    make=make_corpus,
    read=Corpus.read,
    hashes=corpus_hashes,
    cost=corpus_cost,
    shared=True,
)

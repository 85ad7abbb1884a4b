"""Stages of notebook 03: one sentence a described latent, asked for, read from elsewhere, or kept
by hand.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Int
from numpy import ndarray

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.explain import asking, curated, delphi, labels, logits
from rewrite_utils.explain.contrast import Contrast
from rewrite_utils.explain.evidence import Source
from rewrite_utils.latents.cache import LatentCache
from rewrite_utils.latents.stage import Caches
from rewrite_utils.llm import embedding, opening, prompts
from rewrite_utils.llm.lengths import asked as asked_of
from rewrite_utils.llm.lengths import explain_prompt, explain_wording, require_fits
from rewrite_utils.llm.protocol import Usage
from rewrite_utils.params import ParameterError, Params, Site
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.run import Stage
from rewrite_utils.runs.stage import Declared
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.pieces import quotable_texts, token_texts

FILE = "explanations.parquet"


Texts = Callable[[ndarray], list[str]]
"""The text of token ids."""


def texts(*, subject: Subject) -> Texts:
    """The exact text of each token id."""
    return lambda ids: token_texts(subject.tokenizer, ids.tolist())


def quoted(*, subject: Subject) -> Texts:
    """The text of each token id as a prompt quotes it: special tokens are named in words."""
    return lambda ids: quotable_texts(subject.tokenizer, ids.tolist())


def contrasted(
    cache: LatentCache, coder: SparseCoder, quoted: Texts, *, by: str, length: int, rivals: int
) -> Contrast:
    """What finds the hard negatives of a split, in windows of ``length`` tokens."""
    embed = embedding.embedder() if by == "embedding" else None
    decoder = coder.W_dec.detach().float().cpu().numpy()
    return Contrast(cache, by, length, rivals, quoted, decoder, embed)


def evidence_source(
    *, cache: Caches, coder: SparseCoder, quoted: Texts, subject: Subject, params: Params
) -> Source:
    """Where the explainer's evidence comes from."""
    asked, rows = params.explain, cache("explain")
    contrast, promoted = None, None
    if asked.contrast != "none":
        how = {"by": asked.contrast, "length": asked.window_tokens, "rivals": asked.rivals}
        contrast = contrasted(rows, coder, quoted, **how)
    if asked.logits:
        promoted = partial(logits.promoted, subject, coder, count=asked.logits)
    return Source(rows, asked, quoted, params.draws, contrast, promoted)


def explanation_hashes(*, params: Params, settings: Site) -> dict[str, Any]:
    """What the explainer is shown, how it is asked, and which latents."""
    asked = params.explain
    content: dict[str, Any] = {
        "explain": asked.content(),
        "llm": params.explainer.content(),
        "prompt": prompts.digest(asking.wording(asked)),
        "described": settings.described,
        "seed": params.seed,
    }
    if asked.contrast == "embedding":
        content["embedder"] = embedding.DEFAULT
    elif asked.contrast != "none":
        content["rivals' deciles"] = "all"
    return content


def make_explanations(
    folder: Path,
    *,
    evidence_source: Source,
    described: Int[ndarray, " described"],
    params: Params,
) -> dict[str, Any]:
    """One sentence a described latent."""
    return written(folder, evidence_source, described.tolist(), params)


def written(
    folder: Path, evidence_source: Source, latents: list[int], params: Params
) -> dict[str, Any]:
    """Ask the explainer about these latents, into ``folder``."""
    llm = opening.engine(params.explainer)
    before = llm.usage
    table = asking.explain(evidence_source, latents, llm, folder=folder)
    return facts(table, llm.usage.since(before))


def make_curated(
    folder: Path, *, written_stage: Stage, curated: dict[int, str], name: str
) -> dict[str, Any]:
    """The explainer's table with the curated sentences in it; no LLM is asked."""
    table = read_explanations(written_stage.folder).set_index("latent")
    unknown = sorted(set(curated) - set(table.index))
    if unknown:
        raise ParameterError(
            f"explain.curated has a sentence for latent {unknown[0]} of site {name!r}, which "
            "is not among the described ones: raise sites.<site>.described or remove the sentence"
        )
    for column in ("sentence", "explanation"):
        table.loc[list(curated), column] = list(curated.values())
    table.reset_index().to_parquet(folder / FILE)
    return {"units": len(curated)}


def make_elsewhere(
    folder: Path, *, params: Params, hookpoint: Hookpoint, coder: SparseCoder
) -> dict[str, Any]:
    """Sentences from elsewhere: a delphi run's, or anyone's labels; no LLM is asked."""
    asked, place = params.explain, hookpoint.name
    if asked.labels:
        table, origin = labels.read_labels(asked.labels, hookpoint), "explain.labels"
    else:
        table, origin = delphi.read_explanations(asked.delphi, place), "explain.delphi"
    delphi.require_width(table["latent"], coder.config.num_latents, place, origin)
    table.to_parquet(folder / FILE)
    return facts(table, Usage())


def facts(table: pd.DataFrame, usage: Usage) -> dict[str, Any]:
    """What the manifest says of a table of explanations."""
    failures = int(table["sentence"].isna().sum())
    return {"units": len(table), "failures": failures, "usage": usage._asdict()}


def read_explanations(folder: Path) -> pd.DataFrame:
    """One row a described latent; ``sentence`` is missing where the explainer failed."""
    return pd.read_parquet(folder / FILE)


def written_by(*, params: Params) -> str:
    """The sentences as they came: from elsewhere, the explainer's, or those refined."""
    if params.explain.labels:
        return "labels_stage"
    if params.explain.delphi:
        return "delphi_stage"
    return "refined_stage" if params.explain.refine else "explanations_stage"


def kept_by_hand(*, params: Params, name: str, coder_stage: Stage) -> dict[int, str]:
    """The sentences that the parameter ``explain.curated`` puts in place of the explainer's."""
    file = params.explain.curated
    return curated.read(file, site=name, coder=coder_stage.hash) if file else {}


def counted_by(*, curated: dict[int, str]) -> str:
    """The explanations that count: the explainer's, or with curated sentences in their place."""
    return "curated_stage" if curated else "written_stage"


def explanations(*, sentences_stage: Stage) -> pd.DataFrame:
    """One row a described latent; ``sentence`` is missing where the explainer failed."""
    return read_explanations(sentences_stage.folder)


def sentences(*, explanations: pd.DataFrame, written_stage: Stage, name: str) -> dict[int, str]:
    """The sentence of every latent that has one.

    Raises ExplanationError when none has.
    """
    kept = explanations.dropna(subset=["sentence"])
    if kept.empty:
        raise asking.ExplanationError(
            f"none of the {len(explanations)} latents of site {name!r} got a sentence; the raw "
            f"replies are in {written_stage / FILE}"
        )
    return dict(zip(kept["latent"].astype(int), kept["sentence"], strict=True))


def simulated(*, sentences: dict[int, str]) -> list[int]:
    """The latents that are simulated: the columns of every rating and estimate."""
    return list(sentences)


def latent_count(settings: Site) -> int:
    """Latents that get a sentence; where all live ones do, at most the coder's width."""
    return settings.described or settings.latents


def explanations_cost(*, params: Params, settings: Site, name: str, model: ModelShape) -> Cost:
    """Described × windows × their tokens, and the answers."""
    count, explain = latent_count(settings), params.explain
    if origin := explain.delphi or explain.labels:
        return Cost("03_explanations", name, f"read from {origin}")
    what = f"{count:,} sentences from {explain.windows} windows each"
    return sentences_cost("03_explanations", name, what, params, count)


def sentences_cost(stage: str, name: str, what: str, params: Params, count: int) -> Cost:
    """So many answers of the explainer; PlanError where one does not fit its context."""
    one = explain_prompt(params) + params.explain.max_tokens
    require_fits("explainer", params.explainer, explain_wording(params) + one)
    return asked_of(
        params.explainer,
        stage,
        name,
        what,
        tokens=explain_wording(params) + count * one,
        sent=count * (explain_wording(params) + one),
        answers=count,
        storage=2000 * count,
    )


EXPLANATIONS = Declared(
    name="03_explanations",
    make=make_explanations,
    read=read_explanations,
    on=("latents_stage",),
    hashes=explanation_hashes,
    cost=explanations_cost,
    version=3,
)
DELPHI = Declared(
    name="03_delphi",
    make=make_elsewhere,
    read=read_explanations,
    on=("latents_stage",),
    hashes=lambda *, params, settings: {
        "files": delphi.digest(params.explain.delphi, settings.hookpoint)
    },
)
LABELS = Declared(
    name="03_labels",
    make=make_elsewhere,
    read=read_explanations,
    on=("latents_stage",),
    hashes=lambda *, params, hookpoint: {"files": labels.digest(params.explain.labels, hookpoint)},
)
CURATED = Declared(
    name="03_curated",
    make=make_curated,
    read=read_explanations,
    on=("written_stage",),
    hashes=lambda *, curated: {"curated": {str(latent): text for latent, text in curated.items()}},
)

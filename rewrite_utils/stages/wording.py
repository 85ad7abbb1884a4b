"""How the stages of sentences and scores are made: the explainer and the judge are asked here.

One function a stage, called by ``Run.stage`` with the folder; what it returns are facts for the
manifest. What a stage hashes and reads is said in worded.py.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rewrite_utils.explain import asking as explaining
from rewrite_utils.explain import delphi
from rewrite_utils.llm.protocol import Usage
from rewrite_utils.params import ParameterError
from rewrite_utils.rewrite.estimates import derangement
from rewrite_utils.score import refine as refining
from rewrite_utils.score import scores as scoring
from rewrite_utils.score import trials
from rewrite_utils.score.trials import Draw, Trial
from rewrite_utils.stages import builders

if TYPE_CHECKING:
    from rewrite_utils.stages.worded import WordedSite

EXPLANATIONS, JUDGEMENTS = "explanations.parquet", "judgements.parquet"


def make_explanations(site: "WordedSite", folder: Path) -> dict[str, Any]:
    """One sentence a described latent."""
    source, latents = site.evidence_source, site.described.tolist()
    llm = builders.engine(site.params.explainer)
    before = llm.usage
    table = explaining.explain(source, latents, llm, folder=folder)
    return _facts(table, llm.usage.since(before))


def make_refined(site: "WordedSite", folder: Path) -> dict[str, Any]:
    """The sentences after one round on held-out explain windows."""
    old = pd.read_parquet(site.explanations_stage / EXPLANATIONS)
    llm = builders.engine(site.params.explainer)
    before = llm.usage
    table = refining.refine(site.evidence_source, old, llm, folder=folder)
    asked = {"asked again": int((table["attempts"] > 0).sum())}
    return _facts(table, llm.usage.since(before)) | asked


def make_curated(site: "WordedSite", folder: Path) -> dict[str, Any]:
    """The explainer's table with the curated sentences in it; no LLM is asked."""
    table = pd.read_parquet(site.written_stage / EXPLANATIONS).set_index("latent")
    unknown = sorted(set(site.curated) - set(table.index))
    if unknown:
        raise ParameterError(
            f"explain.curated has a sentence for latent {unknown[0]} of site {site.name!r}, which "
            "is not among the described ones: raise sites.<site>.described or remove the sentence"
        )
    for column in ("sentence", "explanation"):
        table.loc[list(site.curated), column] = list(site.curated.values())
    table.reset_index().to_parquet(folder / EXPLANATIONS)
    return {"units": len(site.curated)}


def make_delphi(site: "WordedSite", folder: Path) -> dict[str, Any]:
    """The sentences of a delphi run; no LLM is asked."""
    table = delphi.read_explanations(site.params.explain.delphi, site.hookpoint.name)
    delphi.require_width(table["latent"], site.coder.config.num_latents, site.hookpoint.name)
    table.to_parquet(folder / EXPLANATIONS)
    return _facts(table, Usage())


def make_delphi_judgements(site: "WordedSite", folder: Path, *, kind: str) -> dict[str, Any]:
    """The judgements of a delphi run; no LLM is asked."""
    found = delphi.read_scores(site.params.explain.delphi, site.hookpoint.name, kind=kind)
    kept = found.table[found.table["latent"].isin(list(site.sentences))]
    kept.to_parquet(folder / JUDGEMENTS)
    facts = {"units": int(kept["latent"].nunique()), "failures": found.failures}
    return facts | {"usage": Usage()._asdict()}


def make_judgements(site: "WordedSite", folder: Path, *, kind: str, task: str) -> dict[str, Any]:
    """Judgements of every sentence on its windows of one kind."""
    sentences = site.sentences
    if kind == "shuffled":
        order = derangement(len(sentences), site.params.seed)
        texts = list(sentences.values())
        moved = [texts[place] for place in order]
        sentences = dict(zip(sentences, moved, strict=True))
    draw = drawing(site, kind)
    llm = builders.engine(site.params.explainer)
    before = llm.usage
    scoring.judge(
        sentences,
        llm,
        draw=draw,
        per_prompt=site.params.score.per_prompt,
        seed=site.params.seed,
        folder=folder,
        task=task,
        name=f"{kind} scores of {site.name}",
    )
    return {"units": len(sentences), "usage": llm.usage.since(before)._asdict()}


def drawing(site: "WordedSite", kind: str) -> Draw:
    """How the windows of one kind of test are drawn from the score rows."""
    asked, cache = site.params.score, site.cache("score")
    if kind == "hard":
        contrast = site.contrast(
            "score", by=asked.hard_by, window_tokens=asked.window_tokens, rivals=asked.rivals
        )

    def draw(latent: int, generator: np.random.Generator) -> Trial:
        if kind == "hard":
            return trials.hard(contrast, latent, asked, generator, site.quoted)
        if kind == "fuzzing":
            threshold = site.params.explain.threshold
            return trials.fuzzing(cache, latent, asked, generator, site.quoted, threshold=threshold)
        return trials.detection(cache, latent, asked, generator, site.quoted)

    return draw


def _facts(table: pd.DataFrame, usage: Usage) -> dict[str, Any]:
    failures = int(table["sentence"].isna().sum())
    return {"units": len(table), "failures": failures, "usage": usage._asdict()}

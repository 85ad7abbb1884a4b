"""Stages of notebook 04: judgements of the sentences, of four kinds; and sentences refined by them
(a stage of notebook 03).
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.explain import delphi
from rewrite_utils.explain.evidence import Source
from rewrite_utils.explain.floor import derangement
from rewrite_utils.explain.stage import (
    Texts,
    contrasted,
    facts,
    latent_count,
    read_explanations,
)
from rewrite_utils.latents.stage import Caches
from rewrite_utils.llm import opening, prompts
from rewrite_utils.llm.lengths import (
    FRAME,
    SENTENCE,
    detect_prompt,
    judged_tokens,
    prompt_tokens,
    require_fits,
)
from rewrite_utils.llm.lengths import asked as asked_of
from rewrite_utils.llm.protocol import Usage
from rewrite_utils.params import Params, Site
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.run import Stage
from rewrite_utils.runs.stage import Declared
from rewrite_utils.score import refine, scores, trials
from rewrite_utils.score.detection import wording
from rewrite_utils.score.trials import Draw
from rewrite_utils.subject.model import Hookpoint

FILE = "judgements.parquet"
MISTAKES = 6
"""Held-out windows a sentence gets wrong, of those shown in the prompt that refines it."""


class Kind(NamedTuple):
    """One kind of judgement; each is a stage of its own."""

    stage: str
    """Its name on disk."""
    task: str
    """What the judge is asked: "detect" or "fuzz"."""
    label: str
    """Its name in tables."""


KINDS = {
    "detection": Kind("04_scores", "detect", "detection"),
    "hard": Kind("04_hard", "detect", "detection, hard negatives"),
    "fuzzing": Kind("04_fuzzing", "fuzz", "fuzzing"),
    "shuffled": Kind("04_shuffled", "detect", "detection, another latent's sentence (floor)"),
}


def kinds(*, params: Params) -> tuple[str, ...]:
    """The kinds of judgements this run asks for, detection first."""
    asked = params.score
    wanted = {"hard": asked.hard, "fuzzing": asked.fuzzing, "shuffled": asked.shuffled}
    return ("detection", *(kind for kind, on in wanted.items() if on))


def make_refined(
    folder: Path, *, evidence_source: Source, explanations_stage: Stage, params: Params
) -> dict[str, Any]:
    """The sentences after one round on held-out explain windows."""
    llm = opening.engine(params.explainer)
    before, old = llm.usage, read_explanations(explanations_stage.folder)
    table = refine.refine(evidence_source, old, llm, folder=folder)
    again = {"asked again": int((table["attempts"] > 0).sum())}
    return facts(table, llm.usage.since(before)) | again


def refined_hashes(*, params: Params) -> dict[str, Any]:
    """How many windows each sentence is tried on, and the wording."""
    wordings = [prompts.digest("refine"), prompts.digest("detect_one")]
    return {"refine": params.explain.refine, "prompt": wordings}


def refined_cost(*, params: Params, settings: Site, name: str, model: ModelShape) -> Cost | None:
    """Every sentence tried on held-out windows, and asked for again."""
    asked = params.explain
    if not asked.refine or asked.delphi:
        return None
    tried = 2 * asked.refine * (asked.window_tokens + FRAME) + 2 * SENTENCE
    again = MISTAKES * (asked.window_tokens + 4) + 2 * SENTENCE + asked.max_tokens
    count = latent_count(settings)
    answers = count * (2 * asked.refine + 1)
    one, last = prompt_tokens("detect_one"), prompt_tokens("refine")
    return asked_of(
        params.explainer,
        "03_refined",
        name,
        f"{count:,} sentences on {2 * asked.refine} held-out windows each, and once more",
        tokens=one + last + count * (tried + again),
        sent=count * (2 * asked.refine * (one + SENTENCE) + last + tried + again),
        answers=answers,
        storage=80 * answers,
    )


def make_judgements(
    folder: Path,
    *,
    kind: str,
    sentences: dict[int, str],
    cache: Caches,
    coder: SparseCoder,
    quoted: Texts,
    params: Params,
    hookpoint: Hookpoint,
    name: str,
) -> dict[str, Any]:
    """Judgements of every sentence on its windows of one kind; a delphi run's are read."""
    if _from_delphi(kind, params):
        found = delphi.read_scores(params.explain.delphi, hookpoint.name, kind=kind)
        kept = found.table[found.table["latent"].isin(list(sentences))]
        kept.to_parquet(folder / FILE)
        units = {"units": int(kept["latent"].nunique()), "failures": found.failures}
        return units | {"usage": Usage()._asdict()}
    if kind == "shuffled":
        order, told = derangement(len(sentences), params.seed), list(sentences.values())
        sentences = dict(zip(sentences, (told[place] for place in order), strict=True))
    llm = opening.engine(params.explainer)
    before = llm.usage
    scores.judge(
        sentences,
        llm,
        draw=drawing(kind, cache, coder, quoted, params),
        per_prompt=params.score.per_prompt,
        seed=params.draws,
        folder=folder,
        task=KINDS[kind].task,
        name=f"{kind} scores of {name}",
    )
    return {"units": len(sentences), "usage": llm.usage.since(before)._asdict()}


def _from_delphi(kind: str, params: Params) -> bool:
    return bool(params.explain.delphi) and kind in delphi.SCORES


def drawing(kind: str, cache: Caches, coder: SparseCoder, quoted: Texts, params: Params) -> Draw:
    """How the windows of one kind of test are drawn from the score rows."""
    asked, rows = params.score, cache("score")
    if kind == "fuzzing":
        threshold = params.explain.threshold
        return lambda latent, generator: trials.fuzzing(
            rows, latent, asked, generator, quoted, threshold=threshold
        )
    if kind == "hard":
        how = {"by": asked.hard_by, "length": asked.window_tokens, "rivals": asked.rivals}
        contrast = contrasted(rows, coder, quoted, **how)
        return lambda latent, generator: trials.hard(contrast, latent, asked, generator, quoted)
    return lambda latent, generator: trials.detection(rows, latent, asked, generator, quoted)


def judgement_hashes(kind: str, *, params: Params, settings: Site) -> dict[str, Any]:
    """What the judge is shown and how it is asked."""
    if _from_delphi(kind, params):
        return {"files": delphi.digest(params.explain.delphi, settings.hookpoint, scores=kind)}
    asked = params.score
    own: dict[str, dict[str, Any]] = {
        "hard": {"hard": asked.hard, "by": asked.hard_by, "rivals": asked.rivals}
        | ({} if asked.hard_by == "embedding" else {"rivals' deciles": "all"}),
        "fuzzing": {"fuzzing": asked.fuzzing, "marks": params.explain.threshold},
    }
    return {
        "score": asked.content(),
        "llm": params.explainer.content(),
        "prompt": prompts.digest(wording(KINDS[kind].task, asked.per_prompt)),
        "seed": params.seed,
    } | own.get(kind, {})


def read_judgements(folder: Path) -> pd.DataFrame:
    """One row a (latent, window): whether yes is right, and the probability of "yes"."""
    return pd.read_parquet(folder / FILE)


def judgements_cost(
    kind: str, *, params: Params, settings: Site, name: str, model: ModelShape
) -> Cost | None:
    """Described × windows, a few a prompt."""
    asked, stage = params.score, KINDS[kind].stage
    if kind not in kinds(params=params):
        return None
    if _from_delphi(kind, params):
        return Cost(stage, name, f"read from {params.explain.delphi}")
    windows, shown = {
        "detection": (asked.activating + asked.random, ""),
        "shuffled": (asked.activating + asked.random, ", another's sentence"),
        "hard": (asked.activating + asked.hard, ", hard negatives"),
        "fuzzing": (2 * asked.fuzzing, ", marks, half of them moved"),
    }[kind]
    require_fits("explainer", params.explainer, prompt_tokens("detect") + detect_prompt(params))
    count = latent_count(settings)
    prompts_asked = count * -(-windows // asked.per_prompt)
    whole = prompt_tokens(wording("detect", asked.per_prompt)) + detect_prompt(params)
    return asked_of(
        params.explainer,
        stage,
        name,
        f"{count:,} latents × {windows} windows in {prompts_asked:,} prompts{shown}",
        tokens=prompt_tokens("detect") + count * judged_tokens(params, windows),
        sent=prompts_asked * whole,
        answers=count * windows,
        storage=2 * 40 * count * windows,
    )


REFINED = Declared(
    name="03_refined",
    make=make_refined,
    read=read_explanations,
    on=("explanations_stage",),
    hashes=refined_hashes,
    cost=refined_cost,
    version=2,
)
JUDGED = {
    kind: Declared(
        name=stage,
        make=partial(make_judgements, kind=kind),
        read=read_judgements,
        on=("sentences_stage",),
        hashes=partial(judgement_hashes, kind),
        cost=partial(judgements_cost, kind),
        version=3 if kind == "detection" else 1,
    )
    for kind, (stage, *_) in KINDS.items()
}
"""The stage of each kind of judgement."""


def score_table(*, judgements_of: Callable[[str], pd.DataFrame], params: Params) -> pd.DataFrame:
    """Detection scores, one row a latent; one that cannot be scored has missing numbers."""
    return scores.scores(judgements_of("detection"), threshold=params.score.threshold)


def together(kind: str, parts: Sequence[Cost]) -> Cost:
    """What one kind of explanations costs beside the plain one, its stages in one line."""
    kept = [part for part in parts if part.stage != "04_shuffled"]
    names = ("tokens", "predictions", "storage", "flops")
    sums = {name: sum(getattr(part, name) for part in kept) for name in names}
    what = f"{kind}: {kept[0].what}, {len(kept)} stages"
    return kept[0]._replace(stage="12_explanations", what=what, **sums)

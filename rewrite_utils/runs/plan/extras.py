"""What the optional sentences and scores cost: refinement, hard negatives, fuzzing, floors, kinds.

In: parameters. Out: one Cost a stage and site that the parameters switch on, none by default. The
plain sentences and detection are in costs.py.
"""

from collections.abc import Iterator

from rewrite_utils.params import Params
from rewrite_utils.runs.plan.cost import Cost, described
from rewrite_utils.runs.plan.costs import explanations, scores
from rewrite_utils.runs.plan.lengths import (
    FRAME,
    SENTENCE,
    explain_prompt,
    judged_tokens,
    prompt_tokens,
)
from rewrite_utils.runs.plan.shapes import ModelShape, shape

MISTAKES = 6
"""Held-out windows a sentence gets wrong, of those shown in the second prompt."""


def options(params: Params, model: ModelShape) -> list[Cost]:
    """Every optional stage of sentences and scores, and the kinds that notebook 12 compares."""
    return [
        cost
        for name in params.sites
        for part in (further(params, name), compared(params, name, model))
        for cost in part
    ]


def further(params: Params, name: str) -> Iterator[Cost]:
    """Refinement, and the judgements beside detection."""
    explain, score = params.explain, params.score
    if explain.refine and not explain.delphi:
        yield refined(params, name)
    wanted = {
        "hard": (score.hard > 0, score.activating + score.hard, "hard negatives"),
        "fuzzing": (score.fuzzing > 0, 2 * score.fuzzing, "marks, half of them moved"),
        "shuffled": (score.shuffled, score.activating + score.random, "another's sentence"),
    }
    for kind, (on, windows, what) in wanted.items():
        if on:
            yield judged(params, name, f"04_{kind}", windows, what)


def refined(params: Params, name: str) -> Cost:
    """Stage 03: every sentence tried on held-out windows, and asked for again."""
    asked = params.explain
    tried = 2 * asked.refine * (asked.window_tokens + FRAME) + 2 * SENTENCE
    again = MISTAKES * (asked.window_tokens + 4) + 2 * SENTENCE + asked.max_tokens
    count = described(params.sites[name])
    tokens = prompt_tokens("detect_one") + prompt_tokens("refine") + count * (tried + again)
    what = f"{count:,} sentences on {2 * asked.refine} held-out windows each, and once more"
    return _cost(params, name, "03_refined", what, tokens, count * (2 * asked.refine + 1))


def judged(params: Params, name: str, stage: str, windows: int, what: str) -> Cost:
    """One further kind of judgement."""
    count = described(params.sites[name])
    tokens = prompt_tokens("detect") + count * judged_tokens(params, windows)
    what = f"{count:,} latents × {windows} windows, {what}"
    return _cost(params, name, stage, what, tokens, count * windows)


def compared(params: Params, name: str, model: ModelShape) -> Iterator[Cost]:
    """Notebook 12: sentences and scores of each kind beside the plain one, in one line a kind; none
    for a coder with random weights, which is a floor."""
    kinds = () if params.sites[name].coder == "random" else params.explain.compared
    for kind in kinds:
        other = params.model_copy(update={"explain": params.explain.of_kind(kind)})
        parts = [explanations(other, name, model), scores(other, name, model)]
        parts += [cost for cost in further(other, name) if cost.stage != "04_shuffled"]
        tokens = sum(part.tokens for part in parts)
        asked = sum(part.predictions for part in parts)
        what = f"{kind}: {explain_prompt(other):,} tokens a prompt, {len(parts)} stages"
        yield _cost(params, name, "12_explanations", what, tokens, asked)


def _cost(
    params: Params, name: str, stage: str, what: str, tokens: float | int, asked: int
) -> Cost:
    llm = params.explainer
    return Cost(
        stage,
        name,
        what,
        tokens=tokens,
        predictions=asked,
        storage=80 * asked,
        flops=tokens * shape(llm.model).flops(),
        dtype=llm.dtype,
    )

"""What each stage of a run reads, computes and writes, one Cost a stage and site.

In: parameters and the subject's shape. Out: tokens, predictions, bytes, FLOPs, as stages.py would
spend them. Knows no machine: seconds come from machine.py. Paper §5 gives its own cost (327M
predictions, one week on 32 A40s).
"""

import math

from rewrite_utils.params import SPLITS, Params, Simulate
from rewrite_utils.runs.plan.cost import Cost, described, flops_to
from rewrite_utils.runs.plan.lengths import (
    explain_prompt,
    explain_wording,
    judged_tokens,
    prompt_tokens,
)
from rewrite_utils.runs.plan.ratings import predictions, rated, stored
from rewrite_utils.runs.plan.shapes import ModelShape, PlanError, shape
from rewrite_utils.runs.plan.splicing import (
    alone,
    at_once,
    checkpoints,
    rewrite,
    studies,
    usefulness,
)
from rewrite_utils.simulate.ways import asked_as

CACHED = SPLITS[1:]
CORPUS_TOKENS = {
    "embedded/wikipedia": 1_070_000,
    "embedded/recipes": 700_000,
    "embedded/shakespeare": 1_840_000,
}
"""Tokens of the embedded texts in SmolLM2's tokens; other tokenizers differ by a tenth or so."""


def split_rows(params: Params) -> dict[str, int]:
    """Rows in each split: from the known size of embedded text, else from corpus.max_rows.

    Raises PlanError for text of unknown size whose rows are not limited.
    """
    corpus, width = params.corpus, params.corpus.row_tokens - 1
    limit = corpus.max_rows or math.inf
    if any(source not in CORPUS_TOKENS for source in corpus.sources):
        if not corpus.max_rows:
            raise PlanError(
                f"the size of corpus {', '.join(corpus.sources)} is not known without the hub: set "
                "corpus.max_rows"
            )
        wanted = max((s.tokens for s in params.sites.values() if not s.coder), default=0)
        return {"train": wanted // width} | dict.fromkeys(CACHED, corpus.max_rows)
    total = sum(CORPUS_TOKENS[source] for source in corpus.sources)
    pool = 1 - corpus.train
    shares = {name: pool if corpus.faithful else corpus.shares[name] for name in CACHED}
    rows = {name: int(min(total * share // width, limit)) for name, share in shares.items()}
    return {"train": int(total * corpus.train // width)} | rows


def corpus(params: Params) -> Cost:
    """Stage 00: rows of all splits, as int32."""
    rows = split_rows(params)
    tokens = sum(rows.values()) * params.corpus.row_tokens
    what = ", ".join(f"{name} {count:,}" for name, count in rows.items()) + " rows"
    return Cost("00_corpus", "", what, storage=4 * tokens, text=tokens)


def coder(params: Params, name: str, model: ModelShape) -> Cost:
    """Stage 01: activations of the training tokens, and training; or a coder loaded."""
    site, d = params.sites[name], model.d_model
    weights = 4 * (2 * site.latents * d + site.latents + d + site.skip * d * d)
    if site.coder:
        return Cost("01_coder", name, f"loads {site.coder}", storage=weights)
    a_row = params.corpus.row_tokens - 1
    rows = min(split_rows(params)["train"], max(1, site.tokens // a_row))
    tokens, seen = rows * a_row, rows * a_row * site.epochs
    steps, passes = -(-seen // site.batch), site.epochs if site.stream else 1
    sides = 0 if site.stream else 1 + site.hookpoint.endswith(".mlp")  # kept on disk
    step_flops = 2 * d * site.latents + 10 * site.k * d + 6 * d * d * site.skip
    return Cost(
        "01_coder",
        name,
        f"{site.latents:,} latents, k {site.k}, {steps:,} steps",
        tokens=tokens,
        storage=4 * sides * d * tokens + 3 * weights,
        flops=rows * (a_row + 1) * passes * flops_to(model, site) + seen * step_flops,
        dtype=params.subject.collected_in,
        traffic=seen * 20 * site.k * d + steps * 7 * weights,
    )


def latents(params: Params, name: str, model: ModelShape) -> Cost:
    """Stage 02: the coder over all rows that are not training rows."""
    site = params.sites[name]
    rows = sum(split_rows(params)[split] for split in CACHED)
    tokens = rows * params.corpus.row_tokens
    return Cost(
        "02_latents",
        name,
        f"{rows:,} rows, at most {tokens * site.k:,} activations",
        tokens=tokens,
        storage=24 * tokens * site.k,
        flops=tokens * (flops_to(model, site) + 2 * model.d_model * site.latents),
        dtype=params.subject.collected_in,
    )


def explanations(params: Params, name: str, model: ModelShape) -> Cost:
    """Stage 03: described × windows × their tokens, and the answers."""
    count, llm = described(params.sites[name]), params.explainer
    if params.explain.delphi:
        return Cost("03_explanations", name, f"read from {params.explain.delphi}")
    tokens = explain_wording(params) + count * (explain_prompt(params) + params.explain.max_tokens)
    return Cost(
        "03_explanations",
        name,
        f"{count:,} sentences from {params.explain.windows} windows each",
        tokens=tokens,
        predictions=count,
        storage=2000 * count,
        flops=tokens * shape(llm.model).flops(),
        dtype=llm.dtype,
    )


def scores(params: Params, name: str, model: ModelShape) -> Cost:
    """Stage 04: described × (activating + random) windows, a few a prompt."""
    count, asked, llm = described(params.sites[name]), params.score, params.explainer
    windows = asked.activating + asked.random
    if params.explain.delphi:
        return Cost("04_scores", name, f"read from {params.explain.delphi}")
    asked_of = count * -(-windows // asked.per_prompt)
    tokens = prompt_tokens("detect") + count * judged_tokens(params, windows)
    return Cost(
        "04_scores",
        name,
        f"{count:,} latents × {windows} windows in {asked_of:,} prompts",
        tokens=tokens,
        predictions=count * windows,
        storage=2 * 40 * count * windows,
        flops=tokens * shape(llm.model).flops(),
        dtype=llm.dtype,
    )


def simulation(params: Params, name: str, model: ModelShape) -> Cost:
    """Stage 05: (calibrate + evaluate windows) × described sentences; what is shared, once."""
    site, asked = params.sites[name], params.simulate
    windows = site.calibrate_windows + site.evaluate_windows
    what = f"{windows:,} windows × {described(site):,} latents"
    if asked.screen < 1:
        what += f", {asked.screen:.0%} of them sent"
    return _ratings("05_simulation", name, what, params, {"": asked}, windows)


def other_ways(params: Params, name: str, model: ModelShape) -> Cost:
    """Stage 05 again, on fewer windows, for each of ``studies.simulators``."""
    asked = {way: asked_as(params.simulate, way) for way in params.studies.simulators}
    windows = min(params.studies.simulator_windows, params.sites[name].calibrate_windows)
    what = f"{', '.join(asked)}: {windows:,} windows × {described(params.sites[name]):,} latents"
    return _ratings("05_way", name, what, params, asked, windows)


def _ratings(
    stage: str, name: str, what: str, params: Params, ways: dict[str, Simulate], windows: int
) -> Cost:
    llm, latents = params.simulator, described(params.sites[name])
    asked = [(one, *rated(one, windows, latents)) for one in ways.values()]
    tokens = sum(tokens for _, _, tokens in asked)
    return Cost(
        stage,
        name,
        what,
        tokens=tokens,
        predictions=sum(predictions(one, pairs) for one, pairs, _ in asked),
        storage=2 * sum(stored(one, windows * latents) for one in ways.values()),
        flops=tokens * shape(llm.model).flops(),
        dtype=llm.dtype,
    )


SITE_STAGES = (coder, latents, explanations, scores, simulation, rewrite, studies, alone)
"""The stages of a site, in order."""


def costs(params: Params, model: ModelShape) -> list[Cost]:
    """Every stage of a run: the corpus, then each site's."""
    asked = {
        checkpoints: params.subject.checkpoints,
        usefulness: "useful" in params.rewrite.orders,
        other_ways: params.studies.simulators,
    }
    stages = [*SITE_STAGES, *(stage for stage, wanted in asked.items() if wanted)]
    per_site = [stage(params, name, model) for stage in stages for name in params.sites]
    together = [at_once(params, model)] if params.studies.layers_at_once else []
    return [corpus(params), *per_site, *together]

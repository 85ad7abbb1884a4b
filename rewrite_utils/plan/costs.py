"""What each stage of a run reads, computes and writes, one Cost a stage and site.

In: parameters and the subject's shape. Out: tokens, predictions, bytes, FLOPs, as stages.py would
spend them. Knows no machine: seconds come from machine.py. Paper §5 gives its own cost (327M
predictions, one week on 32 A40s).
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from rewrite_utils.models import parse_hookpoint
from rewrite_utils.params import SPLITS, Params, Site
from rewrite_utils.plan.lengths import (
    FRAME,
    SENTENCE,
    described,
    explain_prompt,
    explain_wording,
    judged_tokens,
    prompt_tokens,
)
from rewrite_utils.plan.shapes import ModelShape, PlanError, shape
from rewrite_utils.rewrite import Estimate, plan_arms

CACHED = SPLITS[1:]
CORPUS_TOKENS = {
    "embedded/wikipedia": 1_070_000,
    "embedded/recipes": 700_000,
    "embedded/shakespeare": 1_840_000,
}
"""Tokens of the embedded texts in SmolLM2's tokens; other tokenizers differ by a tenth or so."""
PREDICTION_BYTES = 24
"""Expected value, ten digits and their mass in float16."""
BASELINES = ("zero", "mean", "token table", "word list")
"""Sources of latents that need no LLM, measured on all control windows."""
FLOOR = "shuffled explanations"
"""A source beside the calibrators: the headline one, given another latent's sentence."""
CONSTANTS = 3
"""Arms without a fraction: the coder as is, the module's output at zero, and at its mean."""


class Cost(NamedTuple):
    """One stage of one site."""

    stage: str
    """As its folder in runs/<name>/stages; it begins with the notebook's number."""
    site: str
    """The site's name; empty for the corpus, which all sites share."""
    what: str
    """What is made, in words and numbers."""
    tokens: float = 0
    """Tokens that pass through the subject or the LLM."""
    predictions: int = 0
    """Answers asked of an LLM: sentences, yes-or-no judgements, ratings."""
    storage: float = 0
    """Bytes on disk at the stage's fullest moment."""
    flops: float = 0
    """Floating-point operations in matrix products."""
    dtype: str = "float32"
    """Precision of those products."""
    traffic: float = 0
    """Bytes moved through memory beside the products."""
    text: float = 0
    """Tokens made by the tokenizer."""


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
    """Stage 01: activations of the training tokens to disk, then training; or a coder loaded."""
    site, d = params.sites[name], model.d_model
    weights = 4 * (2 * site.latents * d + site.latents + d + site.skip * d * d)
    if site.coder:
        return Cost("01_coder", name, f"loads {site.coder}", storage=weights)
    a_row = params.corpus.row_tokens - 1
    rows = min(split_rows(params)["train"], max(1, site.tokens // a_row))
    tokens, seen = rows * a_row, rows * a_row * site.epochs
    steps = -(-seen // site.batch)
    step_flops = 2 * d * site.latents + 10 * site.k * d + 6 * d * d * site.skip
    return Cost(
        "01_coder",
        name,
        f"{site.latents:,} latents, k {site.k}, {steps:,} steps",
        tokens=tokens,
        storage=4 * (2 if site.hookpoint.endswith(".mlp") else 1) * d * tokens + 3 * weights,
        flops=rows * (a_row + 1) * _flops_to(model, site) + seen * step_flops,
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
        flops=tokens * (_flops_to(model, site) + 2 * model.d_model * site.latents),
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
    """Stage 05: (calibrate + evaluate windows) × described sentences; each window is read once."""
    site, asked, llm = params.sites[name], params.simulate, params.simulator
    windows = site.calibrate_windows + site.evaluate_windows
    pairs = windows * described(site)
    tokens = windows * (asked.window_tokens + asked.align) + pairs * (FRAME + SENTENCE)
    return Cost(
        "05_simulation",
        name,
        f"{windows:,} windows × {described(site):,} latents",
        tokens=tokens,
        predictions=pairs,
        storage=2 * PREDICTION_BYTES * pairs,
        flops=tokens * shape(llm.model).flops(),
        dtype=llm.dtype,
    )


def rewrite(params: Params, name: str, model: ModelShape) -> Cost:
    """Stage 07: each window once whole, and one token a (window, arm) through the layers above."""
    site, asked = params.sites[name], params.rewrite
    controls = max(site.control_windows, site.evaluate_windows)
    free, simulated = (
        n_arms(params, site, sources) for sources in (BASELINES, (*asked.calibrators, FLOOR))
    )
    losses = controls * (free + CONSTANTS) + site.evaluate_windows * simulated
    whole = controls * params.corpus.row_tokens
    return Cost(
        "07_rewrite",
        name,
        f"{controls:,} windows × {free + CONSTANTS} arms"
        f" + {site.evaluate_windows:,} × {simulated} simulated = {losses:,} losses",
        tokens=whole + losses,
        storage=60 * losses,
        flops=_spliced(model, site, whole=whole, losses=losses),
        dtype=params.subject.dtype,
    )


def _spliced(model: ModelShape, site: Site, *, whole: int, losses: int) -> int:
    """FLOPs of ``whole`` tokens passed untouched and ``losses`` patched ones above the splice."""
    above = model.n_layers - _layer(model, site) - 1
    patched = model.flops(layers=above, logits=True) + 2 * model.d_model * site.latents
    return whole * (model.flops() + _flops_to(model, site)) + losses * patched


def checkpoints(params: Params, name: str, model: ModelShape) -> Cost:
    """Stage 07: every checkpoint of the subject once over the evaluate windows."""
    site, asked = params.sites[name], params.subject
    count, windows = len(asked.checkpoints), max(site.control_windows, site.evaluate_windows)
    tokens = count * windows * params.corpus.row_tokens
    return Cost(
        "07_checkpoints",
        name,
        f"{count} checkpoints × {windows:,} windows",
        tokens=tokens,
        storage=8 * count * windows,
        flops=tokens * model.flops() + count * windows * 2 * model.vocab * model.d_model,
        dtype=asked.dtype,
    )


def studies(params: Params, name: str, model: ModelShape) -> Cost:
    """Stages 06 and 08 of notebooks 06 and 08: the same splice, its sources without an LLM."""
    site, asked = params.sites[name], params.studies
    controls = max(site.control_windows, site.evaluate_windows)
    oracle = 2 * len(asked.aurocs) * len(asked.calibrators)
    free, own = oracle + 2 * len(asked.specificities), 2 * len(params.rewrite.calibrators)
    losses = controls * (free + 2 * ABLATED) + site.evaluate_windows * (own + ABLATED)
    whole = (2 * controls + site.evaluate_windows) * params.corpus.row_tokens
    return Cost(
        "08_studies",
        name,
        f"{controls:,} windows × {free} arms + {site.evaluate_windows:,} × {own}",
        tokens=whole + losses,
        storage=60 * losses,
        flops=_spliced(model, site, whole=whole, losses=losses),
        dtype=params.subject.dtype,
    )


ABLATED = 3
"""Arms beside every study's own: the coder as it is, latents at zero and at their mean."""
SITE_STAGES = (coder, latents, explanations, scores, simulation, rewrite, studies)
"""The stages of a site, in order."""


def costs(params: Params, model: ModelShape) -> list[Cost]:
    """Every stage of a run: the corpus, then each site's."""
    stages = (*SITE_STAGES, checkpoints) if params.subject.checkpoints else SITE_STAGES
    per_site = [stage(params, name, model) for stage in stages for name in params.sites]
    return [corpus(params), *per_site]


def n_arms(params: Params, site: Site, sources: Iterable[str]) -> int:
    """Arms of some sources, as the rewrite plans them: every fraction in every order."""
    asked = params.rewrite
    estimate = Estimate(np.empty((0, described(site)), np.float32), asked.orders)
    return len(plan_arms(dict.fromkeys(sources, estimate), asked.fractions, described(site)))


def _layer(model: ModelShape, site: Site) -> int:
    return parse_hookpoint(site.hookpoint, n_layers=model.n_layers).layer


def _flops_to(model: ModelShape, site: Site) -> int:
    """FLOPs a token up to and with the hooked block."""
    return model.flops(layers=_layer(model, site) + 1)

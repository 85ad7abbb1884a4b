"""What the stages cost that patch the subject: the rewrite, its studies, checkpoints, usefulness.

In: parameters and the subject's shape. Out: one Cost a stage and site. A window is read once whole;
each (window, arm) is one token through the layers above the splice. Paper §6.
"""

from collections.abc import Iterable

import numpy as np

from rewrite_utils.rewrite.at_once import SOURCES, sets
from rewrite_utils.params import Params, Site
from rewrite_utils.runs.plan.cost import Cost, described, flops_to, layer_of
from rewrite_utils.runs.plan.shapes import ModelShape
from rewrite_utils.rewrite.arms import Estimate, plan_arms

BASELINES = ("zero", "mean", "token table", "word list")
"""Sources of latents that need no LLM, measured on all control windows."""
FLOOR = "shuffled explanations"
"""A source beside the calibrators: the headline one, given another latent's sentence."""
CONSTANTS = 3
"""Arms without a fraction: the coder as is, the module's output at zero, and at its mean."""
CARD = 5
"""Arms of one latent alone: its sentence, another's, the token table, its mean, zero."""
ABLATED = 3
"""Arms beside every study's own: the coder as it is, latents at zero and at their mean."""


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
        dtype=params.subject.measured_in,
    )


def _spliced(model: ModelShape, site: Site, *, whole: int, losses: int) -> int:
    """FLOPs of ``whole`` tokens passed untouched and ``losses`` patched ones above the splice."""
    above = model.n_layers - layer_of(model, site) - 1
    patched = model.flops(layers=above, logits=True) + 2 * model.d_model * site.latents
    return whole * (model.flops() + flops_to(model, site)) + losses * patched


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
        dtype=asked.measured_in,
    )


def studies(params: Params, name: str, model: ModelShape) -> Cost:
    """Stages 06 and 08 of notebooks 06 and 08: the same splice, its sources without an LLM."""
    site, asked = params.sites[name], params.studies
    controls = max(site.control_windows, site.evaluate_windows)
    oracle = 2 * len(asked.aurocs) * len(asked.calibrators)
    free, own = oracle + 2 * len(asked.specificities), 2 * len(params.rewrite.calibrators)
    own += len(asked.screens) * len(asked.shares)
    losses = controls * (free + 2 * ABLATED) + site.evaluate_windows * (own + 2 * ABLATED)
    whole = 2 * (controls + site.evaluate_windows) * params.corpus.row_tokens
    return Cost(
        "08_studies",
        name,
        f"{controls:,} windows × {free} arms + {site.evaluate_windows:,} × {own}",
        tokens=whole + losses,
        storage=60 * losses,
        flops=_spliced(model, site, whole=whole, losses=losses),
        dtype=params.subject.measured_in,
    )


def usefulness(params: Params, name: str, model: ModelShape) -> Cost:
    """Stage 07: each simulated latent alone, predicted and at its mean, at calibrate windows."""
    windows = params.sites[name].calibrate_windows
    return _one_by_one("07_usefulness", params, name, model, windows=windows, arms=2)


def alone(params: Params, name: str, model: ModelShape) -> Cost:
    """Stage 10: each simulated latent alone, in all that the explorer's card compares."""
    windows = params.sites[name].evaluate_windows
    return _one_by_one("10_alone", params, name, model, windows=windows, arms=CARD)


def _one_by_one(
    stage: str, params: Params, name: str, model: ModelShape, *, windows: int, arms: int
) -> Cost:
    """Every latent by itself in so many arms, and the truth once."""
    site, latents = params.sites[name], described(params.sites[name])
    whole, losses = windows * params.corpus.row_tokens, windows * (arms * latents + 1)
    return Cost(
        stage,
        name,
        f"{windows:,} windows × {latents:,} latents alone × {arms} arms",
        tokens=whole + losses,
        storage=50 * windows * latents * (arms + 1),
        flops=_spliced(model, site, whole=whole, losses=losses),
        dtype=params.subject.measured_in,
    )


def at_once(params: Params, model: ModelShape) -> Cost:
    """Stage 11: all sites spliced together, without an LLM."""
    sites = sorted(params.sites.values(), key=lambda site: layer_of(model, site))
    windows = min(site.control_windows for site in sites)
    arms = len(sets(list(params.sites))) * len(SOURCES)
    whole, losses = windows * params.corpus.row_tokens, windows * arms
    coders = losses * sum(4 * model.d_model * site.latents for site in sites)
    return Cost(
        "11_at_once",
        "",
        f"{windows:,} windows × {arms} arms over {len(sites)} layers",
        tokens=whole + losses,
        storage=60 * losses,
        flops=_spliced(model, sites[0], whole=whole, losses=losses) + coders,
        dtype=params.subject.measured_in,
    )


def n_arms(params: Params, site: Site, sources: Iterable[str]) -> int:
    """Arms of some sources, as the rewrite plans them: every fraction in every order."""
    asked = params.rewrite
    estimate = Estimate(np.empty((0, described(site)), np.float32), asked.orders)
    return len(plan_arms(dict.fromkeys(sources, estimate), asked.fractions, described(site)))

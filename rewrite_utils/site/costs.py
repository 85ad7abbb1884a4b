"""What a run would cost, from its parameters alone (``make plan``), and what can be refused before.

In: the costs that the rooms declare beside their stages. Out: costs in order, and the plan's text.
"""

from collections.abc import Collection, Iterator
from typing import Any

from rewrite_utils.assets.shapes import ModelShape, shape
from rewrite_utils.calibrate import calibrator
from rewrite_utils.coder import stage as coding
from rewrite_utils.coder.formats import keeps_k
from rewrite_utils.explain import levels
from rewrite_utils.explain import stage as explaining
from rewrite_utils.latents import stage as caching
from rewrite_utils.latents import totals as counting
from rewrite_utils.llm import lengths
from rewrite_utils.params import Params
from rewrite_utils.rewrite import at_once, usefulness
from rewrite_utils.rewrite import layer_stage as layering
from rewrite_utils.rewrite import stage as rewriting
from rewrite_utils.rewrite import study_stages as studying
from rewrite_utils.rewrite.arms import TOPK
from rewrite_utils.runs.cost import Cost, PlanError, plan
from rewrite_utils.runs.machine import Machine
from rewrite_utils.runs.stage import Declared, Results
from rewrite_utils.score import stage as scoring
from rewrite_utils.simulate import stage as simulating
from rewrite_utils.simulate import ways as asking
from rewrite_utils.simulate.readers import stage as readings
from rewrite_utils.subject import stage as reading

PLANNED: tuple[Declared[Any], ...] = (
    coding.CODER,
    caching.LATENTS,
    counting.TOTALS,
    explaining.EXPLANATIONS,
    levels.TOLD,
    scoring.REFINED,
    *scoring.JUDGED.values(),
    simulating.SIMULATION,
    asking.WAYS_COST,
    usefulness.USEFULNESS,
    rewriting.REWRITE,
    rewriting.CHECKPOINTS,
    studying.ORACLE,
    studying.FEWER,
    studying.SHRINK,
    studying.SCREENED,
    studying.SPECIFICITY,
    studying.FLOORS,
    readings.READERS,
    layering.LAYER,
)
"""Every stage with a cost of its own, in order."""
WORDED = (explaining.EXPLANATIONS, scoring.REFINED, *scoring.JUDGED.values())


def costs(params: Params, planned: tuple[Declared[Any], ...] = PLANNED) -> list[Cost]:
    """What every stage of a run would cost, from parameters alone.

    Raises PlanError when the parameters do not fit together or a size is unknown.
    """
    model = shape(params.subject.model)
    found = [reading.corpus_cost(params=params, model=model)]
    for declared in planned:
        for name in params.sites:
            found += _costs(declared, params, name, model)
    for name, site in params.sites.items():
        kinds = () if site.coder == coding.RANDOM else params.explain.compared
        for kind in kinds:
            other = params.model_copy(update={"explain": params.explain.of_kind(kind)})
            parts = [cost for one in WORDED for cost in _costs(one, other, name, model)]
            found.append(scoring.together(kind, parts))
    together = [at_once.cost(params=params, model=model)]
    return found + together * params.studies.layers_at_once


def _costs(declared: Declared[Any], params: Params, name: str, model: ModelShape) -> Iterator[Cost]:
    given = {"params": params, "settings": params.sites[name], "name": name, "model": model}
    cost = declared.cost and Results(None, **given).call(declared.cost)
    if cost:
        yield cost


def plan_of(
    params: Params,
    machine: Machine,
    extra: tuple[Declared[Any], ...] = (),
    notebooks: Collection[str] = (),
) -> str:
    """The plan of a run on a machine; ``extra``: stages declared above this file; ``notebooks``:
    the numbers of those whose stages are planned, all where there are none."""
    subject = params.subject
    models = [
        shape(subject.model).described("subject", subject.model, subject.dtype),
        lengths.described("explainer", params.explainer),
        lengths.described("simulator", params.simulator),
    ]
    require_calibrators(params)
    planned = [
        cost
        for cost in costs(params, (*PLANNED, *extra))
        if not notebooks or cost.stage[:2] in {"00", *notebooks}
    ]
    return plan(params.name, models, planned, machine)


def require_calibrators(params: Params) -> None:
    """Raise PlanError at a calibration whose name says nothing, or that a coder on this disk cannot
    serve, before hours of ratings."""
    for name, site in params.sites.items():
        told = site.coder not in ("", coding.RANDOM) and coding.without_k(name, params)
        if told and keeps_k(site.coder, site.hookpoint) is False:
            raise PlanError(told)
    asked = {"rewrite": params.rewrite.calibrators, "studies": params.studies.calibrators}
    for name, section in [(name, key) for key, names in asked.items() for name in names]:
        try:
            calibrator(name.removesuffix(TOPK))
        except (KeyError, ValueError) as error:
            raise PlanError(f"{section}.calibrators: {error.args[0]}") from None

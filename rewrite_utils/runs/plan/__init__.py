"""The plan of a run: what every stage reads, asks and writes, and how long this machine would take.

In: parameters. Out: a text (``make plan PARAMS=…``). Nothing is run, nothing is fetched, no hub is
needed: sizes come from files on this disk or from published shapes.
"""

from collections.abc import Sequence
from pathlib import Path

from rewrite_utils.params import ROOT, Params
from rewrite_utils.runs.plan.checks import remarks, require_calibrators, require_consistent
from rewrite_utils.runs.plan.costs import Cost, costs
from rewrite_utils.runs.plan.extras import options
from rewrite_utils.runs.plan.cost import EFFICIENCY, hours as hours_of
from rewrite_utils.runs.machine import Machine, this_machine
from rewrite_utils.runs.plan.shapes import ModelShape, PlanError, shape

__all__ = ["Cost", "Machine", "ModelShape", "PlanError", "plan", "require_calibrators"]


def plan(params: Params, *, machine: Machine | None = None) -> str:
    """The whole plan as text; ``machine`` is measured unless given.

    Raises PlanError (a ValueError) when the parameters do not fit together or a size is unknown.
    """
    model = shape(params.subject.model)
    require_consistent(params, model)
    machine = machine or this_machine(folder=ROOT)
    planned = [*costs(params, model), *options(params, model)]
    parts = [
        f"plan of run {params.name!r}: nothing is run\n",
        *_models(params),
        _machine(machine) + "\n",
        table(planned, machine),
        "",
        "* Storage: each stage's fullest moment. Hours: on the CPU, as busy as it is now.",
        *(f"* {remark}" for remark in remarks(params, model, planned, machine)),
    ]
    return "\n".join(parts).rstrip()


def table(planned: Sequence[Cost], machine: Machine) -> str:
    """One row a stage and site, and the totals."""
    hours = [hours_of(cost, machine) for cost in planned]
    rows = [
        (
            c.stage,
            c.site or "all",
            count(c.tokens),
            count(c.predictions),
            size(c.storage),
            in_hours(h),
        )
        for c, h in zip(planned, hours, strict=True)
    ]
    total = (
        count(sum(c.tokens for c in planned)),
        count(sum(c.predictions for c in planned)),
        size(sum(c.storage for c in planned)),
        in_hours(sum(hours)),
    )
    heads = ("stage", "site", "tokens", "predictions", "storage", "hours")
    grid = [heads, *rows, ("total", "", *total)]
    widths = [max(len(row[column]) for row in grid) for column in range(len(heads))]
    what = ["what", *(cost.what for cost in planned), ""]
    lines = [_line(row, widths, text) for row, text in zip(grid, what, strict=True)]
    rule = "-" * max(len(line) for line in lines)
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def count(number: float | int) -> str:
    """12,345 · 12.3M · 4.56B; empty for none."""
    if not number:
        return ""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= 0.9995 * unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:,.0f}"


def size(bytes_: float | int) -> str:
    """Bytes in MB, GB or TB; empty below 10 kB."""
    if bytes_ < 1e4:
        return ""
    unit, name = next(u for u in ((1e12, "TB"), (1e9, "GB"), (0, "MB")) if bytes_ >= u[0])
    return f"{bytes_ / (unit or 1e6):,.2f} {name}"


def in_hours(hours: float) -> str:
    """Hours with the digits that an estimate deserves."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.3f}"


def _line(row: Sequence[str], widths: Sequence[int], what: str) -> str:
    texts = [f"{cell:{width}}" for cell, width in zip(row[:2], widths[:2], strict=True)]
    numbers = [f"{cell:>{width}}" for cell, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join([*texts, *numbers, what]).rstrip()


def _models(params: Params) -> list[str]:
    asked = {"subject": params.subject, "explainer": params.explainer}
    asked["simulator"] = params.simulator
    return [_model(role, section.model, section.dtype) for role, section in asked.items()]


def _model(role: str, name: str, dtype: str) -> str:
    found = shape(name)
    origin = "its config.json" if Path(found.origin).is_file() else found.origin
    return (
        f"{role:9}  {name}: {found.n_layers} layers, d_model {found.d_model:,}, "
        f"{count(found.parameters)} parameters, {dtype} ({origin})"
    )


def _machine(machine: Machine) -> str:
    speeds = ", ".join(f"{dtype} {rate / 1e9:,.0f}" for dtype, rate in machine.rates.items())
    return (
        f"machine    {machine.name}, {machine.memory / 1e9:.0f} GB of memory, "
        f"{machine.disk / 1e9:,.0f} GB of disk free; GFLOP/s measured now: {speeds}; "
        f"hours at {EFFICIENCY:.0%} of that; auto is {machine.faster}"
    )

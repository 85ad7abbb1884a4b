"""The plan of a run as text: what every stage would read, ask and write, and how long it would take.

In: the costs that the rooms declare, a machine. Out: a text (``make plan PARAMS=…``, ``GPU=a40``).
Nothing is run, nothing is fetched. Right within a factor of two or three.
"""

from collections.abc import Sequence

from rewrite_utils.runs.cost import EFFICIENCY, Cost
from rewrite_utils.runs.machine import Machine

HEADS = ("stage", "site", "tokens", "predictions", "storage", "hours", "what")
LEFT = ("stage", "site", "what")
"""Columns of words; the others are numbers, and stand at the right."""


def plan(name: str, models: Sequence[str], costs: Sequence[Cost], machine: Machine) -> str:
    """The whole plan of the run ``name``; ``models`` are lines about its models."""
    rates = ", ".join(f"{dtype} {rate / 1e9:,.0f}" for dtype, rate in machine.rates.items())
    remarks = dict.fromkeys(r for c in costs for r in (*c.remarks, *c.too_much(machine)))
    disk = "" if machine.disk == float("inf") else f"{machine.disk / 1e9:,.0f} GB of disk free; "
    return "\n".join(
        [
            f"plan of run {name!r}: nothing is run\n",
            *models,
            f"machine    {machine.name}, {machine.memory / 1e9:.0f} GB of memory, {disk}"
            f"GFLOP/s: {rates}; auto is {machine.faster}; hours at {EFFICIENCY:.0%} of that\n",
            table(costs, machine),
            "",
            "* Storage: each stage's fullest moment. Hours: on this machine, as busy as it is now.",
            *(f"* {remark}" for remark in remarks),
        ]
    ).rstrip()


def table(costs: Sequence[Cost], machine: Machine) -> str:
    """One row a stage and site, and the totals."""
    rows = [_row(c, c.hours(machine), c.site or "all") for c in costs]
    total = Cost(
        "total",
        "",
        "",
        tokens=sum(c.tokens for c in costs),
        predictions=sum(c.predictions for c in costs),
        storage=sum(c.storage for c in costs),
    )
    rows.append(_row(total, sum(c.hours(machine) for c in costs), ""))
    grid = [HEADS, *rows]
    widths = [max(len(row[column]) for row in grid) for column in range(len(HEADS))]
    lines = [
        "  ".join(
            f"{cell:{'<' if head in LEFT else '>'}{width}}"
            for cell, head, width in zip(row, HEADS, widths, strict=True)
        ).rstrip()
        for row in grid
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _row(cost: Cost, hours: float, site: str) -> tuple[str, ...]:
    numbers = count(cost.tokens), count(cost.predictions), size(cost.storage), in_hours(hours)
    return cost.stage, site, *numbers, cost.what


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

"""What a stage reads, computes and writes, as counts; the hours a machine would need for it; a plan.

In: counts that each room's ``stage.py`` composes from parameters. Out: hours, or PlanError where
what the parameters ask for does not fit together; all costs of a run as one text (``make plan
PARAMS=…``, ``GPU=a40``), right within a factor of two or three. Knows no stage, runs nothing.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from rewrite_utils.runs.machine import Machine

EFFICIENCY = 0.8
"""Speed of a model's forward pass as a share of the measured product's. Measured side by side on
one busy core, 512–1,024 tokens: SmolLM2 float32 .75–.96 and bfloat16 .64–.91, Qwen2.5-1.5B
bfloat16 .71–1.26 (the last while the load changed)."""
BANDWIDTH = 5e9
"""Bytes a second through memory in scattered reads (1,024 latents, k 32: 10k tokens/s trained)."""
TOKENISER = 130_000
"""Tokens a second of the tokenizer (SmolLM2's on Wikipedia, one busy core)."""


class PlanError(ValueError):
    """A run that cannot be planned: the message names the value, the reason and the fix."""


class Cost(NamedTuple):
    """One stage of one site."""

    stage: str
    """As its folder in runs/<name>/stages; it begins with the notebook's number."""
    site: str
    """The site's name; empty for what all sites share."""
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
    """Precision of those products; "auto" is the machine's."""
    traffic: float = 0
    """Bytes moved through memory beside the products."""
    text: float = 0
    """Tokens made by the tokenizer."""
    memory: Mapping[str, float] = MappingProxyType({})
    """Bytes that must be in memory, by what they hold."""
    remarks: tuple[str, ...] = ()
    """What these numbers rest on."""

    def hours(self, machine: Machine) -> float:
        """Products at ``EFFICIENCY``, plus memory traffic and tokenizer."""
        products = self.flops / (EFFICIENCY * machine.rates[machine.precision(self.dtype)])
        return (products + self.traffic / BANDWIDTH + self.text / TOKENISER) / 3600

    def too_much(self, machine: Machine) -> list[str]:
        """A sentence for everything that this machine has not enough of."""
        where = ".".join(filter(None, (self.stage, self.site)))
        found = [
            f"The {role} needs {needed / 1e9:,.1f} GB of memory, this machine has "
            f"{machine.memory / 1e9:,.0f} GB: it cannot run here."
            for role, needed in self.memory.items()
            if needed > machine.memory
        ]
        if self.storage > machine.disk:
            found.append(
                f"{where} needs {self.storage / 1e9:,.0f} GB of disk, "
                f"{machine.disk / 1e9:,.0f} GB are free: it will stop before it starts."
            )
        return found


HEADS = ("stage", "site", "tokens", "predictions", "storage", "hours", "what")
SUMMED = ("tokens", "predictions", "storage")
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
    sums = {name: sum(getattr(c, name) for c in costs) for name in SUMMED}
    rows.append(_row(Cost("total", "", "", **sums), sum(c.hours(machine) for c in costs), ""))
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

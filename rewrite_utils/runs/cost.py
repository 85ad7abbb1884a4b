"""What a stage reads, computes and writes, as counts; and the hours a machine would need for it.

In: counts that each room's ``stage.py`` composes from parameters. Out: hours, or PlanError where
what the parameters ask for does not fit together. Knows no stage.
"""

from collections.abc import Mapping
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

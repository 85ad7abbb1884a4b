"""What this machine can do: its matrix products measured for a moment, its memory, its free disk.

Out: a Machine, and the hours it needs for a Cost. Measured while planning, so a busy machine gives
longer estimates. Right within a factor of two or three, which is all a plan is for.
"""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from rewrite_utils.runs.plan.cost import Cost

EFFICIENCY = 0.8
"""Speed of a model's forward pass as a share of the measured product's. Measured side by side on
one busy core, 512–1,024 tokens: SmolLM2 float32 .75–.96 and bfloat16 .64–.91, Qwen2.5-1.5B
bfloat16 .71–1.26 (the last while the load changed)."""
BANDWIDTH = 5e9
"""Bytes a second through memory in scattered reads (1,024 latents, k 32: 10k tokens/s trained)."""
TOKENISER = 130_000
"""Tokens a second of the tokenizer (SmolLM2's on Wikipedia, one busy core)."""


class Machine(NamedTuple):
    """The machine that plans."""

    rates: Mapping[str, float]
    """FLOP/s of a large product, by dtype."""
    cores: int
    """Threads the products used."""
    memory: int
    """Bytes of memory."""
    disk: int
    """Bytes free where runs are kept."""

    def hours(self, cost: Cost) -> float:
        """Hours for one stage: products at ``EFFICIENCY``, plus memory traffic and tokenizer."""
        products = cost.flops / (EFFICIENCY * self.rates[cost.dtype])
        return (products + cost.traffic / BANDWIDTH + cost.text / TOKENISER) / 3600


def this_machine(folder: Path) -> Machine:
    """Measure float32 and bfloat16 for 0.3 s each; ``folder`` is on the disk that runs use."""
    return Machine(
        rates={dtype: product_rate(dtype) for dtype in ("float32", "bfloat16")},
        cores=torch.get_num_threads(),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        disk=shutil.disk_usage(folder).free,
    )


def product_rate(dtype: str, *, seconds: float = 0.3) -> float:
    """FLOP/s of [512, 1024] × [1024, 1024] on the CPU, the shape of a batch passing a matrix."""
    a, b = torch.ones(512, 1024), torch.ones(1024, 1024)
    a, b = a.to(getattr(torch, dtype)), b.to(getattr(torch, dtype))
    torch.mm(a, b)  # warm-up
    started, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < seconds:
        torch.mm(a, b)
        done += 1
    return 2 * 512 * 1024 * 1024 * done / spent

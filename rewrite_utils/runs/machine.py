"""What a machine can do: matrix products timed in both precisions, memory, disk; or a GPU by name.

Out: a Machine; what ``device: auto`` and ``dtype: auto`` mean on it, and how much fits at once. A
processor without bfloat16 products computes them seven times slower than float32 ones, one that has
them twice as fast, so the choice is a measurement (a fifth of a second, once a process). Nothing
here is part of any stage's hash.
"""

import functools
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

log = logging.getLogger(__name__)
BYTES = {"float32": 4, "bfloat16": 2}
SHAPES = {"cpu": (512, 1024, 1024), "cuda": (4096, 4096, 4096)}
"""Rows, inner width and columns of the product that is timed: a batch passing a matrix. On a GPU
the smaller one would time its launch."""
SPARE = 3e9
"""Bytes of memory that a model leaves to everything else on the machine."""
PASS = 1 / 8
"""Share of a GPU's free memory that one pass may fill."""
MOST = 32
"""On a GPU one pass takes at most so many times as much as on a CPU: by then it is busy."""


class Machine(NamedTuple):
    """The machine that computes, or a GPU that is planned for."""

    rates: Mapping[str, float]
    """FLOP/s of a large product, by dtype."""
    memory: float
    """Bytes of memory that models may use."""
    disk: float
    """Bytes free where runs are kept; infinite where nobody knows."""
    name: str
    """What it is called in a plan."""

    @property
    def faster(self) -> str:
        """The precision whose products are faster here; float32 unless bfloat16 clearly is."""
        return "bfloat16" if self.rates["bfloat16"] > 1.2 * self.rates["float32"] else "float32"

    def precision(self, asked: str, *, weights: float | int = 0) -> str:
        """``asked``, or for "auto" the faster precision in which ``weights`` parameters fit."""
        if asked != "auto":
            return asked
        fits = weights * BYTES[self.faster] + SPARE <= self.memory
        return self.faster if fits else min(self.rates, key=BYTES.__getitem__)

    def told(self) -> dict[str, object]:
        """What a stage's manifest keeps of it."""
        return {"name": self.name, "auto": self.faster, "rates": dict(self.rates)}

    def said(self) -> str:
        """The line that says what "auto" means here."""
        speeds = ", ".join(f"{dtype} {rate / 1e9:,.0f}" for dtype, rate in self.rates.items())
        return f"{self.name}, {speeds} GFLOP/s: dtype auto is {self.faster} (losses stay float32)"


GPUS = {
    "t4": (8.1, 8.1, 16),
    "v100": (15.7, 15.7, 32),
    "a10": (31.2, 125, 24),
    "a40": (37.4, 149.7, 48),
    "a100": (19.5, 312, 80),
    "l4": (30.3, 121, 24),
    "l40s": (91.6, 362, 48),
    "h100": (67, 989, 80),
    "h200": (67, 989, 141),
    "rtx3090": (35.6, 71, 24),
    "rtx4090": (82.6, 165, 24),
}
"""Published dense peak rates of float32 and bfloat16 products in TFLOP/s, and memory in GB."""


def gpu(name: str) -> Machine:
    """A GPU by its published numbers; ValueError for one that is not listed."""
    if name.lower() not in GPUS:
        raise ValueError(f"no GPU {name!r} is known here; there are {', '.join(GPUS)}")
    single, half, memory = GPUS[name.lower()]
    rates = {"float32": single * 1e12, "bfloat16": half * 1e12}
    return Machine(rates, memory * 1e9, float("inf"), f"one {name.upper()} (published peak)")


def device(asked: str = "auto") -> str:
    """The device that a parameter names; for "auto" a GPU if torch sees one, else the CPU.

    ValueError for a GPU that is not there.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        return "cuda" if there else "cpu"
    if asked != "cpu" and int(asked.partition(":")[2] or 0) >= there:
        raise ValueError(
            f"subject.device is {asked!r}, but torch sees {there or 'no'} GPU here: use 'auto' or "
            "'cpu'"
        )
    return asked


def this_machine(device: str = "cpu", folder: Path = Path()) -> Machine:
    """This machine measured, ``folder`` being on the disk that runs use."""
    return Machine(
        rates=product_rates(device),
        memory=memory(device),
        disk=shutil.disk_usage(folder).free,
        name=f"{torch.get_num_threads()} threads"
        if device == "cpu"
        else torch.cuda.get_device_name(device),
    )


def memory(device: str | torch.device = "cpu") -> float:
    """Bytes of memory: a GPU's free ones, all of the machine's for the CPU."""
    if torch.device(device).type == "cpu":
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(torch.cuda.mem_get_info(device)[0] + kept)


def free_share(device: str) -> float:
    """Share of a GPU's memory that is free, what torch keeps here given back; 0 for the CPU."""
    if device == "cpu":
        return 0.0
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return free / total


def at_once(on_cpu: int, *, each: float | int, device: str | torch.device) -> int:
    """How many things one pass takes: ``on_cpu`` there, where more were measured to gain nothing;
    on a GPU as many as fit in ``PASS`` of its free memory at ``each`` bytes, 1 … ``MOST`` times
    ``on_cpu``."""
    if torch.device(device).type == "cpu":
        return on_cpu
    return max(1, min(int(PASS * memory(device) / each), MOST * on_cpu))


@functools.cache
def product_rates(device: str = "cpu", *, seconds: float = 0.1) -> dict[str, float]:
    """FLOP/s of one product of each precision: the best of several, the two in turns, so that a
    busy neighbour slows both. Measured once a process."""
    rows, inner, columns = SHAPES[torch.device(device).type]
    sides = {
        dtype: [torch.ones(size, dtype=getattr(torch, dtype), device=device)
                for size in ((rows, inner), (inner, columns))]
        for dtype in BYTES
    }  # fmt: skip
    best = dict.fromkeys(BYTES, float("inf"))
    for dtype, (a, b) in sides.items():
        _timed(a, b, device)  # warm-up
    started = time.perf_counter()
    while time.perf_counter() - started < seconds * len(BYTES):
        for dtype, (a, b) in sides.items():
            best[dtype] = min(best[dtype], _timed(a, b, device))
    return {dtype: 2 * rows * inner * columns / spent for dtype, spent in best.items()}


def precision(asked: str, *, device: str = "cpu", weights: float | int = 0, what: str = "") -> str:
    """What ``dtype: auto`` means for a model of ``weights`` parameters; said once where memory and
    not speed decides."""
    if asked != "auto":
        return asked
    machine = this_machine(device)
    found = machine.precision(asked, weights=weights)
    if found != machine.faster:
        log.warning(
            "%s: %.1f GB in %s do not fit %.1f GB of memory beside the rest: %s is taken, which is "
            "slower here", what or "model", weights * BYTES[machine.faster] / 1e9,
            machine.faster, machine.memory / 1e9, found,
        )  # fmt: skip
    return found


def _timed(a: torch.Tensor, b: torch.Tensor, device: str) -> float:
    started = time.perf_counter()
    torch.mm(a, b)
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started

"""Coder training, ours against eai-sparsify: the same coder on the same cached activations.

    python benchmarks/coder_training.py --subject embedded/smollm2-135m-instruct --latents 4096 \\
        --batch 1024 --steps 330 --epochs 7

Activations are harvested once from the subject's MLP (without --subject: made up). Both start from
the same weights and see the same batches, in fp32, on one core by default (``--device cuda``: on
the GPU, sparsify with its Triton kernels). Speed: one process trains both in turns of a few steps,
so that a busy machine slows both; the ratio's interval is a bootstrap over turns. Peak memory: each
alone in a fresh process. Also: the share of the measured matmul rate that the step's dense products
reach. Prints one JSON object.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

if not torch.cuda.is_available():
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"

import numpy as np
import sparsify
from torch import Tensor
from tqdm.auto import tqdm

from rewrite_utils.coder.fvu import fvu
from rewrite_utils.coder.harvest import Harvest
from rewrite_utils.coder.sparse import CoderConfig, SparseCoder
from rewrite_utils.coder.training import TensorBatches, TrainingSettings
from rewrite_utils.coder.training.loop import _Run
from rewrite_utils.subject.corpus import load_corpus
from rewrite_utils.subject.model import load_subject

TURN = 5  # steps one of the two makes before it is the other's turn
WARM_UP = 20  # first steps, not timed
HELD_OUT = 2048  # tokens that FVU is measured on


class Ours:
    """Our training loop, a step at a time."""

    def __init__(self, config: CoderConfig, batches: TensorBatches, rate: float) -> None:
        settings = TrainingSettings(lr=rate, warmup_steps=0, record_every=10**9)
        self.run = _Run(config, batches, settings)
        self.run.centre()

    def step(self, step: int) -> None:
        self.run.advance()

    def outputs(self, x: Tensor) -> Tensor:
        return self.run.coder(x)


class Sparsify:
    """eai-sparsify's module, loss and Adam, stepped as its Trainer does (without clipping)."""

    def __init__(self, config: CoderConfig, batches: TensorBatches, rate: float) -> None:
        cfg = sparsify.SparseCoderConfig(
            num_latents=config.num_latents,
            k=config.k,
            transcode=True,
            skip_connection=config.skip_connection,
        )
        self.coder = sparsify.SparseCoder(config.d_in, cfg, device=batches.x.device)
        self.batches, self.rate = batches, rate
        start = SparseCoder(config, generator=torch.Generator().manual_seed(0))
        self.coder.encoder.weight.data.copy_(start.W_enc.data)
        pairs = [batches[step] for step in range(8)]
        x, y = (torch.cat(part) for part in zip(*pairs, strict=True))
        self.coder.encoder.bias.data = -x.mean(0) @ self.coder.encoder.weight.data.T
        self.coder.b_dec.data = y.mean(0)
        self.optimizer = torch.optim.Adam(self.coder.parameters(), lr=rate)
        self.silent = torch.zeros(config.num_latents, dtype=torch.long, device=batches.x.device)

    def step(self, step: int) -> None:
        x, y = self.batches[step]
        out = self.coder(x=x, y=y)
        fired = torch.zeros_like(self.silent, dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        out.fvu.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * (1 - step / len(self.batches))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.silent += len(x)
        self.silent[fired] = 0

    def outputs(self, x: Tensor) -> Tensor:
        return self.coder(x).sae_out


KINDS = {"ours": Ours, "sparsify": Sparsify}


class Times(NamedTuple):
    wall: list[float]
    cpu: list[float]


def timed(trainer: Ours | Sparsify, steps: range, times: Times) -> None:
    for step in steps:
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.step(step)
        synchronize()
        if step >= WARM_UP:
            times.wall.append(time.perf_counter() - wall)
            times.cpu.append(time.process_time() - cpu)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def harvest(arguments: argparse.Namespace, folder: Path) -> Path:
    """Activations of the subject on the embedded text, as the stages cache them."""
    subject = load_subject(arguments.subject)
    text = load_corpus(
        ("embedded/wikipedia",),
        subject.tokenizer,
        row_tokens=128,
        shares={"train": 0.99, "evaluate": 0.01},
        seed=0,
        bos=subject.bos,
    )
    place, tokens = subject.hookpoint(arguments.hookpoint), wanted(arguments)
    Harvest.collect(subject, place, text.rows("train"), tokens=tokens + 127, folder=folder)
    return folder


def wanted(arguments: argparse.Namespace) -> int:
    """Tokens that the steps and the held-out FVU need."""
    return -(-arguments.steps // arguments.epochs) * arguments.batch + HELD_OUT


def activations(folder: Path | None, d: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Cached (x, y), or a made-up sparse task of the same size."""
    if folder is not None:
        sides = (np.load(folder / f"{side}.npy", mmap_mode="r") for side in ("inputs", "outputs"))
        x, y = (torch.from_numpy(side[:tokens].copy()) for side in sides)
        return x, y
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, d, generator=generator)
    hidden = torch.relu(x @ torch.randn(d, 1024, generator=generator) / d**0.5 - 2)
    return x, hidden @ torch.randn(1024, d, generator=generator)


def matmul_rate(device: str, repeats: int = 5) -> float:
    """Best measured rate of a square fp32 product, in FLOP per CPU second, or per second there."""
    size, clock = (2048, time.process_time) if device == "cpu" else (8192, time.perf_counter)
    a, b = torch.randn(2, size, size, device=device)
    out = torch.empty(size, size, device=device)

    def seconds() -> float:
        synchronize()
        start = clock()
        torch.mm(a, b, out=out)
        synchronize()
        return clock() - start

    return 2 * size**3 / min(seconds() for _ in range(repeats))


def dense_flops(config: CoderConfig, batch: int) -> int:
    """Products no exact method avoids: the encoder forward; the skip forward and its gradient."""
    skip = 4 * config.d_in * config.d_out if config.skip_connection else 0
    return batch * (2 * config.d_in * config.num_latents + skip)


def setup(
    arguments: argparse.Namespace,
) -> tuple[CoderConfig, TensorBatches, tuple[Tensor, Tensor]]:
    torch.set_float32_matmul_precision(arguments.precision)
    found = activations(arguments.activations, arguments.d, wanted(arguments))
    x, y = (side.to(arguments.device) for side in found)
    config = CoderConfig(
        d_in=x.shape[1], num_latents=arguments.latents, k=arguments.k, skip_connection=True
    )
    kept = {"batch": arguments.batch, "epochs": arguments.epochs}
    batches = TensorBatches(x[HELD_OUT:], y[HELD_OUT:], **kept)
    return config, batches, (x[:HELD_OUT], y[:HELD_OUT])


def peak_memory(arguments: argparse.Namespace, kind: str) -> float:
    """Peak memory in MB of one trainer alone above its start: resident, or the GPU's."""
    cached = ["--activations", str(arguments.activations)] if arguments.activations else []
    command = [sys.executable, *sys.argv, *cached, "--alone", kind]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(out.splitlines()[-1])


def alone(arguments: argparse.Namespace) -> float:
    config, batches, _ = setup(arguments)
    on_gpu = arguments.device != "cpu"
    before = torch.cuda.memory_allocated() / 2**20 if on_gpu else resident("VmRSS")
    trainer = KINDS[arguments.alone](config, batches, arguments.lr)
    for step in range(5):
        trainer.step(step)
    return (torch.cuda.max_memory_allocated() / 2**20 if on_gpu else resident("VmHWM")) - before


def resident(field: str) -> float:
    """Resident memory in MB, now (VmRSS) or at most (VmHWM); ru_maxrss would count the parent's."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


def compare(arguments: argparse.Namespace) -> dict:
    config, batches, (x, y) = setup(arguments)
    trainers = {name: kind(config, batches, arguments.lr) for name, kind in KINDS.items()}
    times = {name: Times([], []) for name in KINDS}
    rate = 0.0
    for start in tqdm(range(0, len(batches), TURN), desc="turns"):
        if start // TURN % 10 == 0:
            rate = max(rate, matmul_rate(arguments.device))
        steps = range(start, min(start + TURN, len(batches)))
        for name, trainer in trainers.items():
            timed(trainer, steps, times[name])
    result: dict = {"device": arguments.device, "matmul GFLOP/s": rate / 1e9}
    for name, trainer in trainers.items():
        wall, cpu = (torch.tensor(part).double() for part in times[name])
        with torch.no_grad():
            error = float(fvu(y, trainer.outputs(x)))
        result[name] = {
            "tokens/s": arguments.batch / float(wall.median()),
            "tokens/s (best step)": arguments.batch / float(wall.min()),
            "tokens/CPU s": arguments.batch / float(cpu.median()),
            "share of matmul rate": dense_flops(config, arguments.batch)
            / float((cpu if arguments.device == "cpu" else wall).median())
            / rate,
            "held-out FVU": error,
            "peak MB": peak_memory(arguments, name),
        }
    for key in ("tokens/s", "tokens/s (best step)", "tokens/CPU s", "peak MB"):
        result[f"ratio, {key}"] = result["ours"][key] / result["sparsify"][key]
    result["ratio, all timed steps"] = whole_ratio(times)
    return result


def whole_ratio(times: dict[str, Times]) -> dict[str, float]:
    """Sparsify's wall time over ours, all timed steps, with a 95 % bootstrap over turns."""
    turns = np.array([np.add.reduceat(t.wall, range(0, len(t.wall), TURN)) for t in times.values()])
    draw = np.random.default_rng(0).integers(turns.shape[1], size=(2000, turns.shape[1]))
    means = turns[:, draw].mean(2)
    low, high = np.quantile(means[1] / means[0], [0.025, 0.975])
    ratio = turns[1].sum() / turns[0].sum()
    return {"value": ratio, "low": low, "high": high, "steps": len(times["ours"].wall)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d", type=int, default=768, help="width of made-up activations")
    parser.add_argument("--latents", type=int, default=16384)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2048, help="tokens a step")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="highest", help="of fp32 products on a GPU (high)")
    parser.add_argument("--epochs", type=int, default=1, help="passes over the activations")
    parser.add_argument("--subject", default="", help="model to harvest activations from")
    parser.add_argument("--hookpoint", default="layers.0.mlp")
    parser.add_argument("--activations", type=Path, help="a harvest's folder")
    parser.add_argument("--alone", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.subject and not arguments.activations:
            arguments.activations = harvest(arguments, Path(folder))
        result = alone(arguments) if arguments.alone else compare(arguments)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""Every part that computes, on the GPU against the CPU: `make check-gpu`, some minutes.

Models of both architectures are made on the spot with random weights, so nothing is fetched. Prints
one line a part: the largest ‖GPU − CPU‖ / ‖CPU‖ of what it gives, in float32 on both, how large it
may be, and the seconds of a second run. Then how fast a coder of the paper's size trains. Exits 1
where a part disagrees, 2 where there is no GPU.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy import ndarray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from rewrite_utils.coder.harvest import Harvest
from rewrite_utils.coder.sparse import CoderConfig, SparseCoder, random_coder
from rewrite_utils.coder.training import TensorBatches, TrainingSettings, train
from rewrite_utils.coder.training.loss import CoderLoss
from rewrite_utils.latents.cache import cache_latents
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import Prompt
from rewrite_utils.llm.transformers import TransformersEngine
from rewrite_utils.llm.vllm import VLLMEngine
from rewrite_utils.runs import machine
from rewrite_utils.simulate.readers.passes import Passes
from rewrite_utils.simulate.readers.text import Text
from rewrite_utils.subject.model import Hookpoint, Subject, load_subject
from rewrite_utils.subject.splice import (
    GivenOutput,
    Source,
    TrueLatents,
    arm_losses,
    mean_latents,
    zero_latents,
)

Found = Mapping[str, ndarray | torch.Tensor]
"""What a part gives, by name."""
Run = Callable[[], Found]
"""One run of a part whose models stand on their device."""

ARCHITECTURES = ("llama", "neox")
EXACT, CHOOSING, SHORT = 1e-3, 1e-2, 5e-2
"""Differences allowed: products in float32; where a tie may give another one of the k largest
latents; where the GPU computes in TF32 or bfloat16."""
DIGITS = tuple(range(20, 30))
NO_GPU = (
    "torch {version} sees no GPU here: on a machine where nvidia-smi answers run `make env`, which "
    "then installs from requirements/lock-cuda.txt, and `make check-gpu` again"
)


class Sizes(NamedTuple):
    """How much is computed."""

    width: int = 512
    layers: int = 6
    vocabulary: int = 16384
    rows: int = 256
    length: int = 128
    latents: int = 8192
    k: int = 32
    steps: int = 12
    batch: int = 2048


class Part(NamedTuple):
    """A part that computes."""

    name: str
    make: Callable[[str], Run]
    """Puts its models on a device."""
    allowed: float = EXACT


class Line(NamedTuple):
    """A part, measured."""

    name: str
    difference: float
    allowed: float
    cpu: float
    """Seconds."""
    there: float
    """Seconds."""


# ── what is made on the spot ──────────────────────────────────────────────────────────────────


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and a BOS."""
    pieces = ["<bos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<bos>",
        eos_token="<bos>",
        clean_up_tokenization_spaces=False,
    )


def write_model(architecture: str, sizes: Sizes, folder: Path) -> None:
    """A model folder with random weights, every part of which matters to the logits."""
    common: dict[str, Any] = {
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.width,
        "intermediate_size": 4 * sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": max(sizes.width // 64, 2),
        "initializer_range": sizes.width**-0.5,
        "max_position_embeddings": 2048,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
    config = (
        LlamaConfig(**common, num_key_value_heads=max(sizes.width // 128, 1))
        if architecture == "llama"
        else GPTNeoXConfig(**common, use_parallel_residual=True, rope_parameters=rope)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def token_rows(sizes: Sizes) -> torch.Tensor:
    """Rows of random tokens, BOS first."""
    rows = torch.randint(1, sizes.vocabulary, (sizes.rows, sizes.length), generator=dice(1))
    rows[:, 0] = 0
    return rows


def coder_for(sizes: Sizes, place: Hookpoint) -> SparseCoder:
    """A random transcoder with a skip."""
    config = CoderConfig(
        d_in=sizes.width,
        num_latents=sizes.latents,
        k=sizes.k,
        transcode=True,
        skip_connection=True,
        hookpoint=place.name,
    )
    return random_coder(config, dice(2))


def pair(sizes: Sizes, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs, and outputs that can be learnt from them."""
    x = torch.randn(tokens, sizes.width, generator=dice(3))
    mixing = torch.randn(sizes.width, sizes.width, generator=dice(4)) / sizes.width**0.5
    return x, torch.relu(x @ mixing - 1)


def dice(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ── the parts ─────────────────────────────────────────────────────────────────────────────────


def parts(sizes: Sizes, folder: Path) -> Iterator[Part]:
    """Everything that computes, in the paper's order."""
    place, rows = Hookpoint(sizes.layers // 2, "mlp"), token_rows(sizes)
    for name in ARCHITECTURES:
        write_model(name, sizes, folder / name)

        def on(device: str, name: str = name) -> Subject:
            return load_subject(str(folder / name), device=device)

        yield Part(f"logits, {name}", lambda device, on=on: logits(on(device), rows[:16]))
        yield Part(
            f"splice, {name}",
            lambda device, on=on: splice(on(device), sizes, place, rows),
            CHOOSING,
        )
        yield Part(f"harvest, {name}", lambda device, on=on: harvest(on(device), place, rows))
        yield Part(
            f"latent cache, {name}",
            lambda device, on=on: cache(on(device), sizes, place, rows),
            CHOOSING,
        )
    yield Part("coder's gradients", lambda device: gradients(sizes, place, device), CHOOSING)
    yield Part("coder training", lambda device: training(sizes, place, device), SHORT)
    model = str(folder / "llama")
    yield Part("transformers engine", lambda device: answers(opened(model, device), sizes))
    yield Part("readers' LLM passes", lambda device: reading(model, sizes, device))
    if find_spec("vllm") and torch.cuda.is_available():
        yield Part(
            "vLLM bfloat16", lambda device: answers(vllm_on(model, device), sizes, False), SHORT
        )


def logits(subject: Subject, rows: torch.Tensor) -> Run:
    @torch.no_grad()
    def run() -> Found:
        return {"logits": subject.bridge(rows.to(subject.device))}

    return run


def splice(subject: Subject, sizes: Sizes, place: Hookpoint, rows: torch.Tensor) -> Run:
    """Arms of every kind at a few positions of some rows."""
    coder = coder_for(sizes, place).to(subject.device)
    sources: list[Source] = [
        TrueLatents(),
        zero_latents(sizes.latents),
        mean_latents(torch.rand(sizes.latents, generator=dice(5))),
        GivenOutput(torch.zeros(sizes.width)),
    ]
    some = rows[:16]
    mask = torch.zeros(some.shape, dtype=torch.bool)
    mask[:, 2 : sizes.length - 1 : 5] = True

    def run() -> Found:
        found = arm_losses(subject, coder, place, sources, some, mask)
        return found.losses._asdict() | {"squared error": found.squared_error}

    return run


def harvest(subject: Subject, place: Hookpoint, rows: torch.Tensor) -> Run:
    def run() -> Found:
        with tempfile.TemporaryDirectory() as folder:
            made = Harvest.collect(subject, place, rows, tokens=rows.numel(), folder=Path(folder))
            batches = made.batches(batch=64, epochs=1, seed=0, device=subject.device)
            return {"inputs": batches.x.cpu().clone(), "outputs": batches.y.cpu().clone()}

    return run


def cache(subject: Subject, sizes: Sizes, place: Hookpoint, rows: torch.Tensor) -> Run:
    coder = coder_for(sizes, place).to(subject.device)

    def run() -> Found:
        with tempfile.TemporaryDirectory() as folder:
            found, moments = cache_latents(
                subject, place, coder, rows, folder=Path(folder), name="check"
            )
        told = {"rate": found.rate, "mean": found.mean, "maximum": found.maximum}
        return told | {"output": moments.mean, "variance": moments.variance}

    return run


def gradients(sizes: Sizes, place: Hookpoint, device: str) -> Run:
    """One backward pass of the loss, with AuxK for a quarter of the latents."""
    loss = CoderLoss(coder_for(sizes, place).to(device), auxk_alpha=0.1, processes=1)
    x, y = (side.to(device) for side in pair(sizes, sizes.batch))
    dead = (torch.arange(sizes.latents) % 4 == 0).to(device)

    def run() -> Found:
        loss.zero_grad()
        out = loss(x, y, y.var(0).sum() * len(y), dead)
        out.loss.backward()
        named = loss.coder.named_parameters()
        return {"loss": out.loss} | {name: one.grad for name, one in named if one.grad is not None}

    return run


def training(sizes: Sizes, place: Hookpoint, device: str) -> Run:
    x, y = (side.to(device) for side in pair(sizes, 4 * sizes.batch))
    settings = TrainingSettings(warmup_steps=1, record_every=1)
    config = coder_for(sizes, place).config
    batches = TensorBatches(x, y, batch=sizes.batch, epochs=-(-sizes.steps // 4))

    def run() -> Found:
        found = train(config, batches, settings=settings)
        curve = np.array([[record.fvu, record.l0] for record in found.records])
        return {"curve": curve, "outputs": found.coder(x[: sizes.batch])}

    return run


def opened(folder: str, device: str) -> Engine:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    return TransformersEngine(model, AutoTokenizer.from_pretrained(folder))


def vllm_on(folder: str, device: str) -> Engine:
    """vLLM on the GPU; the CPU's numbers are the transformers engine's."""
    if device == "cpu":
        return opened(folder, device)
    return VLLMEngine.load(folder, dtype="bfloat16", max_tokens=512, threads=None, memory_gb=2)


def answers(engine: Engine, sizes: Sizes, inside: bool = True) -> Run:
    """Digits and yes or no behind prompts that share their beginnings; digits inside them."""
    ids = torch.randint(1, sizes.vocabulary, (8, 200), generator=dice(6)).tolist()
    own = torch.randint(1, sizes.vocabulary, (32, 40), generator=dice(7)).tolist()
    asked = [
        Prompt(tuple(one), tuple(other[: 20 + number % 20]))
        for one in ids
        for number, other in enumerate(own)
    ]

    def run() -> Found:
        digits = engine.choices(asked, options=DIGITS)
        told = {"digits": digits.probabilities, "mass": digits.mass}
        told["yes or no"] = engine.choices(asked, options=DIGITS[:2]).probabilities
        if inside:
            places = [[3, 9, 15]] * len(asked)
            told["inside"] = engine.choices_inside(asked, at=places, options=DIGITS).probabilities
        return told

    return run


def reading(folder: str, sizes: Sizes, device: str) -> Run:
    """States and next words at every place of a text."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    spelt = torch.randint(0, 1000, (32, 64), generator=dice(8)).numpy()

    def run() -> Found:
        text = Text.of(spelt, lambda kinds: [f" w{kind}" for kind in kinds])
        with tempfile.TemporaryDirectory() as kept:
            passes = Passes(lambda: model, AutoTokenizer.from_pretrained(folder), Path(kept))
            return {"states": passes.states(text), "chances": passes.chances(text, ["a", "b", "c"])}

    return run


# ── comparing ─────────────────────────────────────────────────────────────────────────────────


def compare(part: Part, device: str) -> Line:
    """A part on the CPU and on a device, each run twice and the second one timed."""
    here, seconds = timed(part.make("cpu"))
    there, spent = timed(part.make(device))
    worst = max(difference(there[name], here[name]) for name in here)
    return Line(part.name, worst, part.allowed, seconds, spent)


def timed(run: Run) -> tuple[dict[str, torch.Tensor], float]:
    """What the second run gives, on the CPU, and its seconds."""
    run()
    synchronize()
    started = time.perf_counter()
    found = run()
    synchronize()
    spent = time.perf_counter() - started
    return {
        name: torch.as_tensor(one).detach().cpu().double() for name, one in found.items()
    }, spent


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def difference(there: torch.Tensor, here: torch.Tensor) -> float:
    """‖there − here‖ / ‖here‖; infinite for another shape or a NaN."""
    if there.shape != here.shape or not there.isfinite().all():
        return float("inf")
    return float((there - here).norm() / here.norm().clamp_min(1e-12))


def told(lines: list[Line], name: str) -> str:
    """The table."""
    rows = [("part", "difference", "allowed", "CPU s", "GPU s", "ratio", "")]
    rows += [
        (
            line.name,
            f"{line.difference:.1e}",
            f"{line.allowed:.0e}",
            f"{line.cpu:.3f}",
            f"{line.there:.3f}",
            f"{line.cpu / line.there:.1f}",
            "" if line.difference <= line.allowed else "DISAGREES",
        )
        for line in lines
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = [
        "  ".join(
            cell.ljust(w) if not n else cell.rjust(w)
            for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([f"{name}, torch {torch.__version__}, {os.cpu_count()} cores", "", *table])


def speed(device: str, *, steps: int = 250, untimed: int = 50) -> str:
    """A transcoder of the paper's size, and its share of what one large product reaches."""
    sizes = Sizes(width=768, latents=32768, k=32, batch=4096)
    torch.set_float32_matmul_precision("high")  # as in training
    machine.product_rates.cache_clear()
    rate = machine.product_rates(device)["float32"]
    x, y = (side.to(device) for side in pair(sizes, 8 * sizes.batch))
    ticks: list[float] = []
    train(
        coder_for(sizes, Hookpoint(0, "mlp")).config,
        TensorBatches(x, y, batch=sizes.batch, epochs=-(-steps // 8)),
        settings=TrainingSettings(warmup_steps=1),
        on_step=lambda _: ticks.append(time.perf_counter()),
    )
    seconds = (ticks[-1] - ticks[untimed]) / (len(ticks) - 1 - untimed)
    products = sizes.batch * (2 * 768 * 32768 + 4 * 768 * 768) / seconds
    return (
        f"coder training, d 768, 32768 latents, k 32, batch 4096, TF32: {1 / seconds:.0f} steps/s, "
        f"{sizes.batch / seconds:,.0f} tokens/s; its dense products {products / 1e12:.0f} TFLOP/s, "
        f"{products / rate:.0%} of the {rate / 1e12:.0f} that one of 4096³ reaches"
    )


def main() -> int:
    """0 where all agree, 1 where a part does not, 2 without a GPU."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write(NO_GPU.format(version=torch.__version__) + "\n")
        return 2
    device = machine.device("auto")
    with tempfile.TemporaryDirectory() as folder:
        lines = [compare(part, device) for part in parts(Sizes(), Path(folder))]
    print(told(lines, torch.cuda.get_device_name(device)))
    print("" if find_spec("vllm") else "vLLM cannot be imported here: not checked\n")
    print(speed(device))
    return int(any(not line.difference <= line.allowed for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())

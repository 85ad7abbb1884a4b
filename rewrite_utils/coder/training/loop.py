"""The training loop: one process or several (torchrun), stopped and continued exactly.

In: configuration, batches, settings, perhaps a folder. Out: the coder and its records.
Paper: method §1.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam
from tqdm.auto import tqdm

from rewrite_utils.coder.config import CoderConfig
from rewrite_utils.coder.fvu import total_variance
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.coder.training.batches import Batches, Pair
from rewrite_utils.coder.training.checkpoint import Checkpoint, TrainingFolder
from rewrite_utils.coder.training.loss import CoderLoss, StepOutput
from rewrite_utils.coder.training.settings import TrainingRecord, TrainingSettings, learning_rate
from rewrite_utils.coder.training.signum import ScheduleFreeSignum


class TrainingResult(NamedTuple):
    """What `train` returns."""

    coder: SparseCoder
    """The trained coder (with Signum: the averaged weights)."""
    records: list[TrainingRecord]
    """One record every `record_every` steps, and one at the end."""


def train(
    config: CoderConfig,
    batches: Batches,
    *,
    settings: TrainingSettings,
    folder: str | Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> TrainingResult:
    """Train a coder; with a folder: checkpoint there, continue from there, save the coder there.

    A continued run ends in the same weights, bit for bit, as one that was never stopped. Under
    `torch.distributed` the gradients are the joint batch's; `batches` is this process' share.
    `on_step(steps made)` is called after each step. Raises ValueError for settings or activations
    that do not fit; RuntimeError, with step and learning rate, for activations that are not finite
    and for a diverging loss.
    """
    steps = len(batches)
    _check(config, settings, steps)
    saved = None if folder is None else TrainingFolder(Path(folder), config, settings, steps)
    if saved is not None and (finished := saved.finished()) is not None:
        return TrainingResult(*finished)
    run = _Run(config, batches, settings)
    if saved is not None and (stopped := saved.newest()) is not None:
        run.resume(stopped)
    else:
        run.centre()
    bar = tqdm(total=steps, initial=run.step, desc="training", disable=_rank() > 0)
    with bar, _tf32(run.silent.device):
        while run.step < steps:
            run.advance()
            bar.set_postfix(run.progress(), refresh=False)
            bar.update()
            if saved is not None and run.step % settings.save_every == 0:
                saved.write(run.coder, run.state())
            if on_step is not None:
                on_step(run.step)
    coder = run.finish()
    if saved is not None:
        saved.finish(coder, run.records)
    return TrainingResult(coder, run.records)


@contextlib.contextmanager
def _tf32(device: torch.device) -> Iterator[None]:
    """While open, float32 products on a GPU are TF32 ones, as in sparsify's trainer: a step takes
    half the time and the coder is as good (EXPERIMENTS.md, 27 November 2026)."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _check(config: CoderConfig, settings: TrainingSettings, steps: int) -> None:
    if settings.optimizer == "adam" and settings.warmup_steps >= steps:
        raise ValueError(
            f"warmup_steps = {settings.warmup_steps}, but the batches make {steps} steps; "
            "lower it, give more tokens, or make batches smaller"
        )
    if config.k is None:
        raise ValueError("coders are trained as TopK: give the configuration a k")
    if settings.optimizer == "signum" and config.normalize_decoder:
        raise ValueError("normalize_decoder needs optimizer 'adam': Signum averages the weights")


class _Run:
    """Everything that changes while a coder is trained; what of it is saved, `state` says."""

    def __init__(self, config: CoderConfig, batches: Batches, settings: TrainingSettings) -> None:
        self.batches, self.settings, self.steps = batches, settings, len(batches)
        device = batches[0][0].device
        generator = torch.Generator().manual_seed(settings.seed)
        self.coder = SparseCoder(config, generator=generator).to(device)
        loss = CoderLoss(self.coder, auxk_alpha=settings.auxk_alpha, processes=_processes())
        self.loss: nn.Module = DistributedDataParallel(loss) if _processes() > 1 else loss
        rate = learning_rate(settings, num_latents=config.num_latents, step=0, steps=self.steps)
        self.optimizer = (
            Adam(self.coder.parameters(), lr=rate, fused=True)
            if settings.optimizer == "adam"
            else ScheduleFreeSignum(self.coder.parameters(), lr=rate)
        )
        self.step = self.tokens = 0
        self.rate = rate
        self.silent = torch.zeros(config.num_latents, dtype=torch.long, device=device)
        self.records: list[TrainingRecord] = []
        self.window = _Window()

    def centre(self) -> None:
        """Set the biases from the first batches' means (and the decoder's norms, if kept)."""
        total = torch.zeros(1 + self.coder.config.d_in + self.coder.config.d_out)
        total = total.to(self.silent.device, torch.float64)
        for step in range(min(self.settings.mean_batches, self.steps)):
            x, y = self._batch(step)
            sums = torch.cat([x.new_tensor([len(x)]), x.sum(0), y.sum(0)])
            total += sums.double()
        means = _sum(total)[1:] / total[0]
        if not means.isfinite().all():
            raise RuntimeError(self._stop("the activations of the first batches are not finite"))
        x_mean, y_mean = means.float().split([self.coder.config.d_in, means.shape[0] - x.shape[1]])
        self.coder.centre(x_mean, y_mean)
        self._normalise()

    def advance(self) -> None:
        """One step: forward, backward, clip, move, keep the books."""
        x, y = self._batch(self.step)
        variance, tokens = _joint_variance(y)
        dead = self.silent >= self.settings.dead_after
        output: StepOutput = self.loss(x, y, variance, dead)
        output.loss.backward()
        self._move()
        # Read once all is under way: a GPU that is waited for in the middle of a step stands still.
        told = torch.stack([output.fvu.double(), (output.latents.values > 0).sum().double()])
        fvu, active = _sum(told).tolist()
        if not fvu <= self.settings.diverged_fvu:
            raise RuntimeError(self._stop(_reason(x, y, float(variance), fvu)))
        self._book(output, fvu, active, tokens)

    def _batch(self, step: int) -> Pair:
        x, y = self.batches[step]
        self.coder.config.require_widths(x.shape[-1], y.shape[-1])
        return x, y

    def _move(self) -> None:
        if self.coder.config.normalize_decoder:
            _remove_radial(self.coder)
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self.coder.parameters(), self.settings.clip)
        latents = self.coder.config.num_latents
        self.rate = learning_rate(
            self.settings, num_latents=latents, step=self.step, steps=self.steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._normalise()

    @torch.no_grad()
    def _normalise(self) -> None:
        if self.coder.config.normalize_decoder:
            self.coder.W_dec.div_(self.coder.W_dec.norm(dim=1, keepdim=True))

    def _book(self, output: StepOutput, fvu: float, active: float, tokens: int) -> None:
        on, indices = (output.latents.values > 0).flatten(), output.latents.indices.flatten()
        fired = torch.zeros_like(self.silent).index_add_(0, indices, on.long())
        self.silent = (self.silent + tokens) * (_sum(fired) == 0)
        self.step += 1
        self.tokens += tokens
        self.window.add(tokens, fvu, active)
        if self.step % self.settings.record_every == 0 or self.step == self.steps:
            self.records.append(self._record())
            self.window = _Window()

    def _record(self) -> TrainingRecord:
        window, dead = self.window, (self.silent >= self.settings.dead_after).float().mean()
        fvu, l0 = window.fvu / window.steps, window.active / window.tokens
        rates = (self.rate, window.tokens_per_second())
        return TrainingRecord(self.step, self.tokens, fvu, float(dead), l0, *rates)

    def progress(self) -> dict[str, str]:
        """What the progress bar shows: the latest record."""
        if not self.records:
            return {}
        last = self.records[-1]
        speed = f"{last.tokens_per_second:,.0f}"
        return {"FVU": f"{last.fvu:.3f}", "dead": f"{last.dead:.1%}", "tokens/s": speed}

    def finish(self) -> SparseCoder:
        """The trained coder, without gradients."""
        if isinstance(self.optimizer, ScheduleFreeSignum):
            self.optimizer.averaged()
        return self.coder.requires_grad_(False)

    def state(self) -> dict[str, Any]:
        """All that a continued run needs beside the coder's weights."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "silent": self.silent,
            "records": [tuple(record) for record in self.records],
            "window": self.window.sums(),
            "optimizer": self.optimizer.state_dict(),
        }

    def resume(self, stopped: Checkpoint) -> None:
        """Continue from what `state` gave."""
        weights, state = stopped
        self.coder.load_state_dict(weights)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.tokens = state["step"], state["tokens"]
        self.silent = state["silent"].to(self.silent.device)
        self.records = [TrainingRecord(*record) for record in state["records"]]
        self.window = _Window(*state["window"])

    def _stop(self, reason: str) -> str:
        return f"training stopped at step {self.step} (learning rate {self.rate:.3g}): {reason}"


class _Window:
    """Sums since the last record; a continued run times only its own steps."""

    def __init__(
        self, steps: int = 0, tokens: int = 0, fvu: float = 0.0, active: float = 0.0
    ) -> None:
        self.steps, self.tokens, self.fvu, self.active = steps, tokens, fvu, active
        self._untimed, self._started = tokens, time.perf_counter()

    def add(self, tokens: int, fvu: float, active: float) -> None:
        self.steps, self.tokens = self.steps + 1, self.tokens + tokens
        self.fvu, self.active = self.fvu + fvu, self.active + active

    def sums(self) -> tuple[int, int, float, float]:
        return self.steps, self.tokens, self.fvu, self.active

    def tokens_per_second(self) -> float:
        return (self.tokens - self._untimed) / (time.perf_counter() - self._started)


def _reason(x: Tensor, y: Tensor, variance: float, fvu: float) -> str:
    if not (x.isfinite().all() and y.isfinite().all()):
        return "the activations are not finite; look at the subject, or at its dtype"
    if variance == 0:
        return "the target does not vary, so there is nothing to learn"
    return f"the loss diverged (FVU {fvu:.3g}); lower the learning rate"


def _remove_radial(coder: SparseCoder) -> None:
    """Take out of the decoder's gradient what would only change the rows' norms."""
    gradient, rows = coder.W_dec.grad, coder.W_dec.detach()
    assert gradient is not None
    gradient -= (gradient * rows).sum(1, keepdim=True) * rows


def _joint_variance(y: Tensor) -> tuple[Tensor, int]:
    """`Σ|y − ȳ|²` and the token count, over all processes."""
    sums = _sum(torch.cat([y.new_tensor([len(y)]), y.sum(0)]))
    tokens = int(sums[0]) if _processes() > 1 else len(y)  # to read it is to wait for a GPU
    return _sum(total_variance(y, mean=sums[1:] / sums[0])), tokens


def _processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _sum(tensor: Tensor) -> Tensor:
    """The sum over processes, in place."""
    if _processes() > 1:
        dist.all_reduce(tensor)
    return tensor

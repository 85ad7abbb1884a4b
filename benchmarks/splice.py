"""Seconds a (position, arm): one row a position, against both fast paths, on the embedded subject.

`python benchmarks/splice.py`; one thread, CPU seconds, so that busy neighbours count for little.
The baseline is the naive way at its best: rows cut at the position, all arms in one batch, logits
of the last token only.
"""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rewrite_utils.assets import documents
from rewrite_utils.subject.model import Hookpoint, Subject, load_subject
from rewrite_utils.subject.splice import (
    GivenOutput,
    arm_losses,
    at_positions,
    hooked,
    spliced,
)

SUBJECT, TEXT = "embedded/smollm2-135m-instruct", "embedded/wikipedia"
HOOKPOINTS = ("layers.0.mlp", "layers.24.mlp")
N_ROWS, LENGTH, ARMS, ROUNDS = 2, 128, 16, 3
TARGET = 10


class Timed(NamedTuple):
    """One way of measuring, timed."""

    seconds: float
    """CPU seconds a (position, arm)."""
    losses: Tensor
    """[row arm] at the row's one compared position."""


def rows_of(subject: Subject) -> Tensor:
    """Rows of text, BOS first."""
    text = "\n\n".join(documents(TEXT)[:200])
    ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
    body = torch.tensor(ids[: N_ROWS * (LENGTH - 1)]).view(N_ROWS, LENGTH - 1)
    return torch.cat([torch.full((N_ROWS, 1), subject.bos), body], dim=1)


def timed(n: int, run: Callable[[], Tensor]) -> Timed:
    start = time.process_time()
    losses = run()
    return Timed((time.process_time() - start) / n, losses)


@torch.no_grad()
def one_row_a_position(
    subject: Subject, hookpoint: Hookpoint, rows: Tensor, positions: Tensor, outputs: Tensor
) -> Tensor:
    """The plain splice: every arm runs the whole row up to the position."""
    losses = []
    for row, position, arms in zip(rows, positions.tolist(), outputs, strict=True):
        cut = row[: position + 1].expand(len(arms), -1)
        with spliced(subject, None, hookpoint, GivenOutput(arms), positions="last"):
            logits = subject.bridge(cut, logits_to_keep=1)[:, -1]
        losses.append(-logits.log_softmax(-1)[:, row[position + 1]])
    return torch.stack(losses)


def measure(subject: Subject, name: str, rows: Tensor) -> list[list[Timed]]:
    """Rounds × (one row a position, one position a row, every position)."""
    hookpoint = subject.hookpoint(name)
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(LENGTH // 2, LENGTH - 1, (N_ROWS,), generator=generator)
    true = hooked(subject, rows, hookpoint).outputs
    scale = true[:, 1:].std()
    noise = torch.randn(*rows.shape, ARMS, subject.d_model, generator=generator)
    everywhere = true[:, :, None] + scale * noise
    here = torch.arange(N_ROWS), positions
    mask = torch.zeros(rows.shape, dtype=torch.bool)
    mask[:, 1:-1] = True

    def losses(outputs: Tensor, where: Tensor) -> Tensor:
        sources = [GivenOutput(arm) for arm in outputs.unbind(-2)]
        return arm_losses(subject, None, hookpoint, sources, rows, where).losses.loss

    def every_position() -> Tensor:
        return losses(everywhere, mask)[at_positions(rows, positions)[mask]]

    def one_position() -> Tensor:
        return losses(everywhere[here], at_positions(rows, positions))

    def naive() -> Tensor:
        return one_row_a_position(subject, hookpoint, rows, positions, everywhere[here])

    pairs = N_ROWS * ARMS
    ways = [(pairs, naive), (pairs, one_position), (int(mask.sum()) * ARMS, every_position)]
    return [[timed(*way) for way in ways] for _ in range(ROUNDS)]


def main() -> None:
    torch.set_num_threads(1)
    subject = load_subject(SUBJECT)
    rows = rows_of(subject)
    print(f"{SUBJECT}, {N_ROWS} rows of {LENGTH} tokens, {ARMS} arms, median of {ROUNDS} rounds")
    print(f"{'hookpoint':14} {'way':22} {'ms/(position·arm)':>18} {'ratio':>7} {'max |Δloss|':>12}")
    for name in HOOKPOINTS:
        rounds = measure(subject, name, rows)
        naive, *fast = zip(*rounds, strict=True)
        labels = ("one row a position", "arm_losses, one a row", "arm_losses, all")
        for label, runs in zip(labels, (naive, *fast), strict=True):
            ratios = [a.seconds / b.seconds for a, b in zip(naive, runs, strict=True)]
            seconds = statistics.median(run.seconds for run in runs)
            apart = (runs[0].losses - naive[0].losses).abs().max().item()
            ratio = statistics.median(ratios)
            print(f"{name:14} {label:22} {1000 * seconds:18.2f} {ratio:7.1f} {apart:12.1e}")
            if runs is not naive and ratio < TARGET:
                print(f"{'':14} below the target of {TARGET}×")


if __name__ == "__main__":
    main()

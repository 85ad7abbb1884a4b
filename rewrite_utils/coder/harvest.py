"""The coder's training data: inputs and outputs of the hooked module, without control tokens.

In: a subject, a hookpoint, rows of tokens. Out: `Batches` whose memory does not grow with the
corpus: a `Harvest` on disk (memory-mapped; one array for the residual stream, which is both sides;
a killed one goes on behind its last finished batch), or `Streamed`, computed when a step asks.
"""

import dataclasses
import json
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from rewrite_utils.coder.training import Pair, TensorBatches, order_of
from rewrite_utils.runs.machine import memory
from rewrite_utils.runs.run import require_space, write_json
from rewrite_utils.runs.whole import read_or_none
from rewrite_utils.subject.masking import counted
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice import hooked

ON_GPU = 1 / 3
"""Share of a GPU's free memory that a harvest may take, so that steps need not copy it there."""


@dataclasses.dataclass(frozen=True)
class Harvest:
    """Activations of ``tokens`` tokens in a folder."""

    folder: Path
    """Holds inputs.npy and, for an MLP, outputs.npy, float32 [token d_model]."""
    tokens: int
    """Tokens in them."""

    @classmethod
    def collect(
        cls,
        subject: Subject,
        hookpoint: Hookpoint,
        rows: Int[Tensor, "row pos"],
        *,
        tokens: int,
        folder: Path,
        batch: int | None = None,
        masked: Collection[int] = (),
    ) -> "Harvest":
        """Run the subject up to the hookpoint over as many rows as ``tokens`` need (all, if
        fewer), ``batch`` at once (None: by the device); the ``masked`` tokens in them are left
        out."""
        folder.mkdir(parents=True, exist_ok=True)
        batch = batch or subject.rows_at_once(rows.shape[1])
        rows = rows[: max(1, tokens // (rows.shape[1] - 1))]
        ends = [0, *counted(rows, masked).sum(1).cumsum(0).tolist()]
        shape = ends[-1], subject.d_model
        sides = ("inputs", "outputs") if hookpoint.kind == "mlp" else ("inputs",)
        require_space(folder, needed=4 * len(sides) * shape[0] * shape[1])
        progress = folder / "progress.json"
        arrays = _arrays([folder / f"{side}.npy" for side in sides], shape, progress)
        done = read_or_none(progress, lambda file: json.loads(file.read_text())["rows"]) or 0
        bar = tqdm(total=shape[0], initial=ends[done], desc="activations", unit="token")
        for start in range(done, len(rows), batch):
            part = rows[start : start + batch]
            where = slice(ends[start], ends[start + len(part)])
            found = next(pairs(subject, hookpoint, part, batch=batch, masked=masked))
            for array, values in zip(arrays, found, strict=False):
                array[where] = values.cpu().numpy()
            if start // batch % 16 == 15:
                for array in arrays:
                    array.flush()
                write_json(progress, {"rows": start + len(part)})
            bar.update(where.stop - where.start)
        bar.close()
        return cls(folder, shape[0])

    def batches(
        self, *, batch: int, epochs: int, seed: int, device: torch.device | None = None
    ) -> TensorBatches:
        """The activations by training step, shuffled anew in every epoch; on ``device``."""
        files = [self.folder / f"{side}.npy" for side in ("inputs", "outputs")]
        sides = [torch.from_numpy(np.load(f, mmap_mode="c")) for f in files if f.exists()]
        if device and sum(side.nbytes for side in sides) < ON_GPU * memory(device):
            sides = [side.to(device) for side in sides]
        return TensorBatches(
            sides[0], sides[-1], batch=batch, epochs=epochs, seed=seed, device=device
        )


class Streamed:
    """Activations computed when a step asks for them, whole rows a step: nothing is stored."""

    def __init__(
        self,
        subject: Subject,
        hookpoint: Hookpoint,
        rows: Int[Tensor, "row pos"],
        *,
        batch: int,
        epochs: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
        masked: Collection[int] = (),
    ) -> None:
        """``batch``: tokens in a joint step, the ``masked`` ones among them, which are left out;
        ``share``: this process and how many there are."""
        self.subject, self.hookpoint, self.rows = subject, hookpoint, rows
        self.masked = masked
        self.epochs, self.seed, self.share = epochs, seed, share
        self.rows_a_step = batch // (rows.shape[1] - 1)
        if not share[1] <= self.rows_a_step <= len(rows):
            raise ValueError(
                f"a batch of {batch} tokens is {self.rows_a_step} rows, but there are {len(rows)} "
                f"rows and {share[1]} processes: raise or lower the batch"
            )

    def __len__(self) -> int:
        """Steps in all epochs."""
        return len(self.rows) // self.rows_a_step * self.epochs

    def __getitem__(self, step: int, /) -> Pair:
        """This process' rows of the step, run through the subject now."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} is not in 0 … {len(self) - 1}")
        epoch, place = divmod(step, len(self.rows) // self.rows_a_step)
        order = order_of(len(self.rows), seed=self.seed, epoch=epoch)
        chosen = order[place * self.rows_a_step : (place + 1) * self.rows_a_step]
        process, processes = self.share
        own = self.rows[chosen[process::processes]]
        parts = pairs(self.subject, self.hookpoint, own, masked=self.masked)
        x, y = (torch.cat(side) for side in zip(*parts, strict=True))
        return x, x if self.hookpoint.kind == "resid" else y


def pairs(
    subject: Subject,
    hookpoint: Hookpoint,
    rows: Int[Tensor, "row pos"],
    *,
    batch: int | None = None,
    masked: Collection[int] = (),
) -> Iterator[Pair]:
    """(input, output) of the hooked module at every token of the rows but the BOS and ``masked``
    ones."""
    for part in rows.split(batch or subject.rows_at_once(rows.shape[1])):
        acts, where = hooked(subject, part, hookpoint), counted(part, masked)
        yield acts.inputs[where], acts.outputs[where]


def _arrays(files: list[Path], shape: tuple[int, int], progress: Path) -> list[np.ndarray]:
    """The memory-mapped files; new ones, without progress, unless all have ``shape`` already."""
    if all(read_or_none(file, _shape) == shape for file in files):
        return [np.lib.format.open_memmap(file, mode="r+") for file in files]
    progress.unlink(missing_ok=True)
    return [
        np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape) for file in files
    ]


def _shape(file: Path) -> tuple[int, ...]:
    """The shape of an array on disk; numpy's errors where not all of it is there."""
    return np.load(file, mmap_mode="r").shape

"""The coder's training data: inputs and outputs of the hooked module, on disk, read by step.

In: a subject, a hookpoint, rows of tokens. Out: memory-mapped arrays, so memory does not grow with
the corpus: inputs and outputs of an MLP, one array for the residual stream, which is both. A killed
harvest goes on behind its last finished batch. BOS positions are left out.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from rewrite_utils.models import Hookpoint, Subject
from rewrite_utils.runs import require_space, write_json
from rewrite_utils.splice import hooked
from rewrite_utils.training import TensorBatches


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
        batch: int = 16,
    ) -> "Harvest":
        """Run the subject up to the hookpoint over as many rows as ``tokens`` need (all, if
        fewer)."""
        folder.mkdir(parents=True, exist_ok=True)
        a_row = rows.shape[1] - 1
        rows = rows[: max(1, tokens // a_row)]
        shape = len(rows) * a_row, subject.d_model
        sides = ("inputs", "outputs") if hookpoint.kind == "mlp" else ("inputs",)
        require_space(folder, needed=4 * len(sides) * shape[0] * shape[1])
        progress = folder / "progress.json"
        arrays = _arrays([folder / f"{side}.npy" for side in sides], shape, progress)
        done = json.loads(progress.read_text())["rows"] if progress.exists() else 0
        bar = tqdm(total=shape[0], initial=done * a_row, desc="activations", unit="token")
        for start in range(done, len(rows), batch):
            part = rows[start : start + batch]
            acts = hooked(subject, part, hookpoint)
            where = slice(start * a_row, (start + len(part)) * a_row)
            for array, values in zip(arrays, acts, strict=False):
                array[where] = values[:, 1:].flatten(0, 1).float().cpu().numpy()
            if start // batch % 16 == 15:
                for array in arrays:
                    array.flush()
                write_json(progress, {"rows": start + len(part)})
            bar.update(len(part) * a_row)
        bar.close()
        return cls(folder, shape[0])

    def batches(self, *, batch: int, epochs: int, seed: int) -> TensorBatches:
        """The activations by training step, shuffled anew in every epoch."""
        files = [self.folder / f"{side}.npy" for side in ("inputs", "outputs")]
        sides = [torch.from_numpy(np.load(f, mmap_mode="c")) for f in files if f.exists()]
        return TensorBatches(sides[0], sides[-1], batch=batch, epochs=epochs, seed=seed)

    def delete(self) -> None:
        """Remove the arrays: the trained coder no longer needs them."""
        shutil.rmtree(self.folder)


def _arrays(files: list[Path], shape: tuple[int, int], progress: Path) -> list[np.ndarray]:
    """The memory-mapped files; new ones, without progress, unless all have ``shape`` already."""
    if all(file.exists() and np.load(file, mmap_mode="r").shape == shape for file in files):
        return [np.lib.format.open_memmap(file, mode="r+") for file in files]
    progress.unlink(missing_ok=True)
    return [
        np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape) for file in files
    ]

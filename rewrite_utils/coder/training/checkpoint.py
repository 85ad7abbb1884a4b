"""A training's folder: checkpoints while it runs, the coder and its records when it is done.

`checkpoint-<step>/` holds the coder as `sae.safetensors` and the rest as `training.pt`. It is
written under another name and renamed, so a kill leaves no half checkpoint. At the end: `cfg.json`,
`sae.safetensors`, `training.json`. Another training's folder is an error; a damaged checkpoint is
named in a warning and not used.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from rewrite_utils.coder.config import CoderConfig
from rewrite_utils.coder.sparse import WEIGHTS, SparseCoder
from rewrite_utils.coder.training.settings import TrainingRecord, TrainingSettings
from rewrite_utils.runs.whole import read_or_none, whole

_FREE = {"record_every", "save_every"}  # settings that do not change the weights


class Checkpoint(NamedTuple):
    """A training that has been stopped."""

    weights: dict[str, Tensor]
    """The coder's."""
    state: dict[str, Any]
    """All else that a continued training needs."""


class TrainingFolder:
    """The folder of one training, known by its configuration, settings and number of steps."""

    def __init__(
        self, folder: Path, config: CoderConfig, settings: TrainingSettings, steps: int
    ) -> None:
        """Raises ValueError if the folder already holds another training."""
        self.folder = folder
        self.what = {
            "coder": config.model_dump(),
            "settings": settings.model_dump(exclude=_FREE),
            "steps": steps,
        }
        folder.mkdir(parents=True, exist_ok=True)

    def finished(self) -> tuple[SparseCoder, list[TrainingRecord]] | None:
        """The coder and records, if this training has been done here."""
        file = self.folder / "training.json"
        done = read_or_none(file, lambda file: dict(json.loads(file.read_text())))
        if done is None:
            return None
        self._same(done, file)
        coder = read_or_none(self.folder, SparseCoder.load)
        if coder is None:
            return None
        return coder.requires_grad_(False), [TrainingRecord(*record) for record in done["records"]]

    def write(self, coder: SparseCoder, state: dict[str, Any]) -> None:
        """Save a checkpoint of ``state["step"]`` steps, then remove the older ones."""
        if _first_process():
            temporary = self.folder / ".checkpoint"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            weights = {k: v.detach().contiguous() for k, v in coder.state_dict().items()}
            save_file(weights, temporary / WEIGHTS)
            torch.save({"what": self.what, **state}, temporary / "training.pt")
            older, new = self._checkpoints(), self.folder / f"checkpoint-{state['step']:08d}"
            if new in older:  # a damaged one
                shutil.rmtree(new)
                older.remove(new)
            temporary.replace(new)
            for path in older:
                shutil.rmtree(path)
        _wait()

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that can be read; None if there is none."""
        for path in reversed(self._checkpoints()):
            if (found := read_or_none(path, _read)) is not None:
                self._same(found.state.pop("what"), path)
                return found
        return None

    def finish(self, coder: SparseCoder, records: list[TrainingRecord]) -> None:
        """Save the coder and its records; remove the checkpoints."""
        if _first_process():
            coder.save(self.folder)
            with whole(self.folder / "training.json") as file:
                file.write_text(json.dumps({**self.what, "records": records}, indent=1) + "\n")
            for path in self._checkpoints():
                shutil.rmtree(path)
        _wait()

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*"))

    def _same(self, other: dict[str, Any], where: Path) -> None:
        for part, mine in self.what.items():
            if other.get(part) != mine:
                raise ValueError(
                    f"{where} belongs to another training ({part}: {other.get(part)} there, {mine} "
                    "here); choose another folder"
                )


def _read(folder: Path) -> Checkpoint:
    # It may go on where there is no GPU; the optimiser brings its own to the weights' device.
    state = torch.load(folder / "training.pt", weights_only=True, map_location="cpu")
    return Checkpoint(load_file(folder / WEIGHTS), state)


def _first_process() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _wait() -> None:
    if dist.is_initialized():
        dist.barrier()

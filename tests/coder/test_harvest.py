"""The coder's training data: exact, without the BOS, and the same bytes after a kill."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rewrite_utils.coder import harvest as harvesting
from rewrite_utils.coder.harvest import Harvest, Streamed
from rewrite_utils.coder.training import order_of
from rewrite_utils.subject.model import Hookpoint
from rewrite_utils.subject.splice import hooked

A_ROW = 11
SIDES = ("inputs", "outputs")


@pytest.fixture
def many(rows) -> torch.Tensor:
    """40 different rows: enough for two checkpoints at one row a batch."""
    generator = torch.Generator().manual_seed(2)
    shuffled = [rows[:, 1:][:, torch.randperm(A_ROW, generator=generator)] for _ in range(10)]
    body = torch.cat(shuffled)
    return torch.cat([torch.zeros(40, 1, dtype=torch.int64), body], dim=1)


def collect(subject, hookpoint, rows, folder, *, tokens=10**6, batch=1) -> Harvest:
    return Harvest.collect(subject, hookpoint, rows, tokens=tokens, folder=folder, batch=batch)


def files(folder) -> list[Path]:
    return [file for side in SIDES if (file := folder / f"{side}.npy").exists()]


def arrays(folder) -> list[np.ndarray]:
    return [np.load(file) for file in files(folder)]


def bytes_of(folder) -> list[bytes]:
    return [file.read_bytes() for file in files(folder)]


class Killed(Exception):
    """Stands for the end of the process."""


class Counted:
    """``hooked``, counting its calls, killed after some."""

    def __init__(self, after: int | None = None) -> None:
        self.calls, self.after = 0, after

    def __call__(self, *arguments):
        if self.calls == self.after:
            raise Killed
        self.calls += 1
        return hooked(*arguments)


def test_it_holds_what_the_hookpoint_reads_and_writes_without_the_bos(
    subject, hookpoint, rows, tmp_path
):
    found = collect(subject, hookpoint, rows, tmp_path, batch=3)
    acts = hooked(subject, rows, hookpoint)
    assert found.tokens == 4 * A_ROW
    kept = acts if hookpoint.kind == "mlp" else acts[:1]  # a residual stream is stored once
    for array, expected in zip(arrays(tmp_path), kept, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected[:, 1:].flatten(0, 1), atol=1e-5)


def test_only_as_many_whole_rows_as_the_tokens_need(subject, rows, tmp_path):
    place = Hookpoint(0, "mlp")
    assert collect(subject, place, rows, tmp_path / "two", tokens=3 * A_ROW - 1).tokens == 2 * A_ROW
    assert collect(subject, place, rows, tmp_path / "one", tokens=5).tokens == A_ROW
    assert len(arrays(tmp_path / "two")[0]) == 2 * A_ROW


def test_a_killed_harvest_goes_on_behind_its_checkpoint_and_gives_the_same_bytes(
    subject, many, tmp_path, monkeypatch
):
    place = Hookpoint(1, "resid")
    collect(subject, place, many, tmp_path / "whole")
    monkeypatch.setattr(harvesting, "hooked", Counted(after=37))
    with pytest.raises(Killed):
        collect(subject, place, many, tmp_path / "killed")
    rest = Counted()
    monkeypatch.setattr(harvesting, "hooked", rest)
    collect(subject, place, many, tmp_path / "killed")
    assert rest.calls == 40 - 32
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_progress_of_other_rows_is_not_believed(subject, many, tmp_path, monkeypatch):
    place = Hookpoint(0, "mlp")
    monkeypatch.setattr(harvesting, "hooked", Counted(after=20))
    with pytest.raises(Killed):
        collect(subject, place, many, tmp_path / "killed")
    monkeypatch.setattr(harvesting, "hooked", hooked)
    collect(subject, place, many[:30], tmp_path / "killed")
    collect(subject, place, many[:30], tmp_path / "whole")
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_progress_without_its_array_is_not_believed(subject, many, tmp_path, monkeypatch):
    place = Hookpoint(0, "mlp")
    monkeypatch.setattr(harvesting, "hooked", Counted(after=20))
    with pytest.raises(Killed):
        collect(subject, place, many, tmp_path / "killed")
    (tmp_path / "killed" / "outputs.npy").unlink()
    monkeypatch.setattr(harvesting, "hooked", hooked)
    collect(subject, place, many, tmp_path / "killed")
    collect(subject, place, many, tmp_path / "whole")
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


@pytest.mark.filterwarnings("ignore:.*is damaged")
@pytest.mark.parametrize("file", ["outputs.npy", "progress.json"])
@pytest.mark.parametrize("left", [0, 500])
def test_progress_with_a_truncated_file_is_not_believed(
    subject, many, tmp_path, monkeypatch, left, file
):
    place = Hookpoint(0, "mlp")
    monkeypatch.setattr(harvesting, "hooked", Counted(after=20))
    with pytest.raises(Killed):
        collect(subject, place, many, tmp_path / "killed")
    path = tmp_path / "killed" / file
    path.write_bytes(path.read_bytes()[: min(left, path.stat().st_size - 3)])
    monkeypatch.setattr(harvesting, "hooked", hooked)
    collect(subject, place, many, tmp_path / "killed")
    collect(subject, place, many, tmp_path / "whole")
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_the_batches_of_every_epoch_hold_all_tokens_in_pairs(subject, rows, tmp_path):
    place = Hookpoint(0, "mlp")
    found = collect(subject, place, rows, tmp_path)
    batches = found.batches(batch=A_ROW, epochs=2, seed=3)
    assert len(batches) == 8
    x, y = (torch.from_numpy(array) for array in arrays(tmp_path))
    epochs = []
    for epoch in range(2):
        steps = [batches[step] for step in range(4 * epoch, 4 * epoch + 4)]
        got = torch.cat([step[0] for step in steps]), torch.cat([step[1] for step in steps])
        order = torch.cdist(got[0], x, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        # Equal tokens at equal places have equal inputs, so compare by content, sorted.
        assert torch.equal(got[1], y[order])
        assert torch.equal(got[0].sort(0).values, x.sort(0).values)
        epochs.append(got[0])
    assert not torch.equal(*epochs)


def test_an_sae_reads_the_one_array_as_input_and_target(subject, rows, tmp_path):
    found = collect(subject, Hookpoint(1, "resid"), rows, tmp_path)
    x, y = found.batches(batch=A_ROW, epochs=1, seed=0)[0]
    assert x is y and x.shape == (A_ROW, subject.d_model)
    assert [file.name for file in files(tmp_path)] == ["inputs.npy"]


# ── computed when asked ───────────────────────────────────────────────────────────────────────


def streamed(subject, place, rows, **changed) -> Streamed:
    asked = {"batch": 10 * A_ROW, "epochs": 2, "seed": 3} | changed
    return Streamed(subject, place, rows, **asked)


def test_streamed_epochs_show_every_row_once_and_a_step_the_same_every_time(
    subject, hookpoint, many
):
    batches = streamed(subject, hookpoint, many)
    assert len(batches) == 8
    everything = hooked(subject, many, hookpoint).inputs[:, 1:].flatten(0, 1)
    for epoch in range(2):
        steps = [batches[step] for step in range(4 * epoch, 4 * epoch + 4)]
        seen = torch.cat([x for x, _ in steps])
        torch.testing.assert_close(seen.sum(0), everything.sum(0), atol=1e-3, rtol=1e-4)
        assert len(seen) == 40 * A_ROW
    again, other = batches[5], batches[1]
    assert torch.equal(batches[5][1], again[1]) and not torch.equal(other[0], again[0])
    with pytest.raises(IndexError, match="step 8 is not in 0 … 7"):
        batches[8]


def test_streamed_pairs_are_what_the_hookpoint_reads_and_writes(subject, hookpoint, many):
    x, y = streamed(subject, hookpoint, many, batch=40 * A_ROW)[0]
    order = order_of(40, seed=3, epoch=0)
    acts = hooked(subject, many[order], hookpoint)
    torch.testing.assert_close(x, acts.inputs[:, 1:].flatten(0, 1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(y, acts.outputs[:, 1:].flatten(0, 1), atol=1e-5, rtol=1e-5)
    assert (x is y) == (hookpoint.kind == "resid")


def test_the_shares_of_all_processes_are_the_joint_step(subject, many):
    place = Hookpoint(1, "mlp")
    joint = streamed(subject, place, many)[2]
    shares = [streamed(subject, place, many, share=(rank, 3))[2] for rank in range(3)]
    assert [len(x) // A_ROW for x, _ in shares] == [4, 3, 3]
    for whole, side in ((joint[0], 0), (joint[1], 1)):
        together = torch.cat([share[side] for share in shares])
        torch.testing.assert_close(together.sum(0), whole.sum(0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("wrong", [{"batch": A_ROW - 1}, {"batch": 41 * A_ROW}, {"share": (0, 11)}])
def test_a_step_without_rows_for_every_process_is_an_error(subject, many, wrong):
    with pytest.raises(ValueError, match=r"is \d+ rows, but there are 40 rows and \d+ processes"):
        streamed(subject, Hookpoint(0, "mlp"), many, **wrong)

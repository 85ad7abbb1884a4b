"""Stages: reused only on equal hash, never half there, never used when damaged, built once."""

import json
import multiprocessing
import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from rewrite_utils.params import parse
from rewrite_utils.runs import run as runs
from rewrite_utils.runs.run import DamagedStageWarning, Run, damage, require_space, write_json

NAME = "02_latents.early"
PARAMS = parse({"name": "test", "sites": {"a": {"hookpoint": "layers.0", "latents": 4}}})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(PARAMS, tmp_path / "runs" / "test")


class Builder:
    """Writes two files and counts its calls."""

    def __init__(self, content: str = "ten") -> None:
        self.calls, self.content = 0, content

    def __call__(self, folder: Path) -> dict[str, int]:
        self.calls += 1
        (folder / "data.bin").write_bytes(self.content.encode() * 1000)
        (folder / "inner").mkdir(exist_ok=True)
        (folder / "inner" / "more.txt").write_text(self.content)
        return {"rows": 10}


def folders(run: Run) -> list[str]:
    return sorted(path.name for path in (run.folder / "stages").iterdir() if path.is_dir())


def test_equal_parameters_reuse_and_the_journal_says_so(run):
    build = Builder()
    first = run.stage(NAME, build, parameters={"k": 4, "lr": 0.1})
    again = run.stage(NAME, build, parameters={"lr": 0.1, "k": 4})
    assert build.calls == 1 and again.folder == first.folder and again.hash == first.hash
    assert [event["made"] for event in run.journal] == [True, False]
    assert (first / "inner/more.txt").read_text() == "ten"


def test_the_manifest_says_what_made_it(run):
    source = run.stage("01_coder.early", Builder(), parameters={})
    stage = run.stage(NAME, Builder(), parameters={"k": 4}, inputs=[source], version=3)
    manifest = json.loads((stage.folder / "manifest.json").read_text())
    assert manifest["parameters"] == {"k": 4} and manifest["version"] == 3
    assert manifest["inputs"] == {"01_coder.early": source.hash}
    assert manifest["facts"] == {"rows": 10}
    assert manifest["files"]["data.bin"]["bytes"] == 3000
    assert set(manifest["files"]) == {"data.bin", "inner/more.txt"}
    assert manifest["packages"]["numpy"] and manifest["seconds"] >= 0 and manifest["code"]
    assert stage.folder.name == f"{NAME}-{stage.hash}"


def change_parameter(run: Run, build: Builder) -> None:
    run.stage(NAME, build, parameters={"k": 5})


def change_version(run: Run, build: Builder) -> None:
    run.stage(NAME, build, parameters={"k": 4}, version=2)


def change_input(run: Run, build: Builder) -> None:
    other = run.stage("01_coder.early", Builder(), parameters={"seed": 1})
    run.stage(NAME, build, parameters={"k": 4}, inputs=[other])


@pytest.mark.parametrize("change", [change_parameter, change_version, change_input])
def test_a_difference_makes_another_stage_and_overwrites_nothing(run, change):
    first = run.stage(NAME, Builder("old"), parameters={"k": 4})
    before = (first / "data.bin").read_bytes()
    build = Builder("new")
    change(run, build)
    assert build.calls == 1
    assert len([name for name in folders(run) if name.startswith(NAME)]) == 2
    assert (first / "data.bin").read_bytes() == before and damage(first.folder) is None


def test_the_inputs_hash_goes_through_to_what_depends_on_it(run):
    def chain(seed: int) -> str:
        coder = run.stage("01_coder.early", Builder(), parameters={"seed": seed})
        latents = run.stage(NAME, Builder(), parameters={}, inputs=[coder])
        return run.stage("03_explanations", Builder(), parameters={}, inputs=[latents]).hash

    assert chain(1) == chain(1) != chain(2)


def truncate(folder: Path) -> str:
    with (folder / "data.bin").open("r+b") as file:
        file.truncate(10)
    return "data.bin has 10 bytes instead of 3000"


def alter(folder: Path) -> str:
    with (folder / "data.bin").open("r+b") as file:
        file.seek(1500)
        file.write(b"X")
    return "data.bin has other content"


def remove(folder: Path) -> str:
    (folder / "inner" / "more.txt").unlink()
    return "more.txt is missing"


def break_manifest(folder: Path) -> str:
    (folder / "manifest.json").write_text('{"hash": "')
    return "manifest.json cannot be read"


def other_manifest(folder: Path) -> str:
    (folder / "manifest.json").write_text("[]")
    return "manifest.json cannot be read"


def poor_manifest(folder: Path) -> str:
    (folder / "manifest.json").write_text('{"hash": "1", "files": {"data.bin": 3}}')
    return "manifest.json cannot be read"


def remove_manifest(folder: Path) -> str:
    (folder / "manifest.json").unlink()
    return "manifest.json cannot be read"


@pytest.mark.parametrize(
    "harm",
    [truncate, alter, remove, break_manifest, remove_manifest, other_manifest, poor_manifest],
)
def test_a_damaged_stage_is_named_and_rebuilt(run, harm: Callable[[Path], str]):
    build = Builder()
    stage = run.stage(NAME, build, parameters={})
    says = harm(stage.folder)
    with pytest.warns(DamagedStageWarning, match=says) as caught:
        again = run.stage(NAME, build, parameters={})
    assert f"{NAME} is rebuilt" in str(caught[0].message)
    assert build.calls == 2 and damage(again.folder) is None
    assert (again / "data.bin").read_bytes() == b"ten" * 1000
    assert run.journal[-1]["made"] is True


def test_a_whole_stage_gives_no_warning(run):
    run.stage(NAME, Builder(), parameters={})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.stage(NAME, Builder(), parameters={})


def test_an_error_inside_a_build_leaves_no_stage_and_keeps_its_checkpoints(run):
    def fails(folder: Path) -> None:
        (folder / "chunk-0").write_text("done")
        raise RuntimeError("out of luck")

    def goes_on(folder: Path) -> dict[str, bool]:
        return {"found": (folder / "chunk-0").exists()}

    with pytest.raises(RuntimeError, match="out of luck"):
        run.stage(NAME, fails, parameters={})
    assert [name for name in folders(run) if not name.endswith(".partial")] == []
    stage = run.stage(NAME, goes_on, parameters={})
    assert stage.manifest["facts"] == {"found": True}
    assert set(stage.manifest["files"]) == {"chunk-0"}
    assert not [name for name in folders(run) if name.endswith(".partial")]


def die_in_build(folder: Path) -> None:
    """What kill -9 does, after the first of two chunks."""

    def build(partial: Path) -> None:
        (partial / "chunk-0").write_text("done")
        os.kill(os.getpid(), 9)

    Run(PARAMS, folder).stage(NAME, build, parameters={})


def test_a_kill_inside_a_build_leaves_no_stage_and_is_continued(run):
    process = multiprocessing.get_context("spawn").Process(target=die_in_build, args=(run.folder,))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    assert all(name.endswith(".partial") for name in folders(run)) and len(folders(run)) == 1

    def goes_on(partial: Path) -> None:
        assert (partial / "chunk-0").read_text() == "done"
        (partial / "chunk-1").write_text("done too")

    stage = run.stage(NAME, goes_on, parameters={})
    assert set(stage.manifest["files"]) == {"chunk-0", "chunk-1"}


def test_a_kill_between_manifest_and_rename_leaves_a_whole_stage(run):
    stage = run.stage(NAME, Builder(), parameters={})
    stage.folder.rename(stage.folder.with_name(stage.folder.name + ".partial"))
    again = run.stage(NAME, Builder(), parameters={})
    assert damage(again.folder) is None and "manifest.json" not in again.manifest["files"]


def test_a_journal_line_that_a_full_disk_has_cut_is_left_out_and_nothing_else(run):
    run.stage(NAME, Builder(), parameters={})
    with (run.folder / "journal.jsonl").open("a") as file:
        file.write('{"stage": "02_lat')
    assert len(run.journal) == 1
    run.stage(NAME, Builder(), parameters={})
    assert [event["made"] for event in run.journal] == [True, False]


@pytest.mark.parametrize("listing", ['{"fi', "[]", "{}"])
def test_a_damaged_listing_of_what_is_published_is_named_and_nothing_of_it_used(run, listing):
    published = run.folder.parent / "published"
    published.mkdir(parents=True)
    (published / "manifest.json").write_text(listing)
    other = Run(PARAMS, run.folder, published)
    name = run.stage(NAME, Builder(), parameters={}).folder.name
    shutil.rmtree(run.folder / "stages" / name)
    (published / f"{name}.tar.xz").write_bytes(b"packed")
    with pytest.warns(DamagedStageWarning, match="manifest.json cannot be read .* is made anew"):
        assert other.stage(NAME, Builder(), parameters={}).folder.name == name
    assert other.headlines == {}


def build_slowly(folder: Path, log: Path) -> None:
    """Build the stage, and leave a line a build; the second process must wait and then reuse."""

    def build(partial: Path) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        (partial / "data.bin").write_bytes(b"x")

    Run(PARAMS, folder).stage(NAME, build, parameters={})


def test_two_processes_that_ask_for_one_stage_build_it_once(run, tmp_path):
    log, context = tmp_path / "log", multiprocessing.get_context("spawn")
    both = [context.Process(target=build_slowly, args=(run.folder, log)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(log.read_text().splitlines()) == 1
    assert sorted(event["made"] for event in run.journal) == [False, True]


def test_json_is_the_old_file_or_the_whole_new_one(tmp_path):
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"é": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": 1}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": 1}
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_a_disk_that_is_full_while_json_is_written_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"new": 1})
    monkeypatch.undo()
    assert json.loads(path.read_text()) == {"old": 1}


def test_too_little_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(runs.shutil, "disk_usage", lambda _: usage)
    require_space(tmp_path, needed=10**9)
    with pytest.raises(OSError, match=r"needs 2\.0 GB and has 1\.0 GB free: make room or lower"):
        require_space(tmp_path, needed=2 * 10**9)


def test_headlines_are_kept_by_notebook(run):
    run.headline("07_rewrite", {"text": "-0.1 nat", "value": -0.1})
    run.headline("07_rewrite", {"text": "-0.2 nat", "value": -0.2})
    assert run.headlines == {"07_rewrite": {"text": "-0.2 nat", "value": -0.2}}


def test_a_run_lies_in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    opened = runs.open_run("pythia-160m", {"seed": 5})
    assert opened.folder == tmp_path / "runs" / "pythia-160m" and opened.folder.is_dir()
    assert opened.params.seed == 5 and opened.journal == [] and opened.headlines == {}


def test_a_headline_goes_with_the_stages_it_rests_on(run):
    def stage(seed):
        return run.stage("01_words", lambda folder: None, parameters={"seed": seed})

    stage(1)
    run.headline("01_words", {"text": "of seed 1"})
    stage(1)
    assert run.headlines == {"01_words": {"text": "of seed 1"}}
    stage(2)
    assert run.headlines == {}
    stage(1)
    assert run.headlines == {"01_words": {"text": "of seed 1"}}

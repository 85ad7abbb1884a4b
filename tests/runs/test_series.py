"""The runner: which notebooks, strict names, a failure that stops and shows its cell, the table."""

import subprocess
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
import pytest

from rewrite_utils import series
from rewrite_utils.params import ROOT, names
from rewrite_utils.runs import kernel
from rewrite_utils.runs import run as runs
from rewrite_utils.runs.run import Run, open_run
from rewrite_utils.series import TOUR, Executed, SeriesError, choose, execute, main, table

RUN = """\
name: tiny
figures: pictures
sites:
  early: {hookpoint: layers.0.mlp, latents: 8, k: 2}
"""
HEAD = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

"""
HEAD += '# %% tags=["parameters"]\nparams_file: str = "none"\noverrides: dict = {}\n\n# %%\n'
DONE = Executed("05_notebook", 60.0, 1, 2, "n = 3")
WORKS = "print(params_file, overrides)\n"
FAILS = "shown = 6 * 7\nprint('so far', shown)\n\n# %%\nwrong = shown / 0\n\n# %%\nprint('never')\n"


@pytest.fixture
def world(tmp_path, monkeypatch) -> Path:
    """A folder with parameters; runs go below it, notebooks are read from it."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "tiny.yaml").write_text(RUN)
    for module in (runs, series):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(series, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path


def write(world: Path, name: str, body: str, *, head: str = HEAD) -> Path:
    """Both halves of a notebook."""
    path = world / "notebooks" / f"{name}.py"
    path.write_text(head + body)
    jupytext.write(jupytext.read(path), path.with_suffix(".ipynb"))
    return path


@pytest.fixture
def ten(world) -> Path:
    for number in range(10):
        name = TOUR if number == 0 else f"{number:02}_notebook"
        (world / "notebooks" / f"{name}.py").write_text("")
    return world


@pytest.fixture
def executed(monkeypatch) -> list[str]:
    """The notebooks that would have been run, none of them is."""
    seen: list[str] = []

    def record(run, notebook, params_file, overrides, *, again):
        seen.append(notebook.stem)
        return Executed(notebook.stem, 60.0, 1, 2, "n = 3")

    monkeypatch.setattr(series, "execute", record)
    return seen


# ── which notebooks ───────────────────────────────────────────────────────────────────────────


def numbers(only: str) -> list[str]:
    return [path.stem[:2] for path in choose(only)]


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("05", ["05"]),
        ("05-07", ["05", "06", "07"]),
        ("00,09", ["09", "00"]),
        ("08, 02-03", ["02", "03", "08"]),
        ("05,04-06", ["04", "05", "06"]),
        ("", ["01", "02", "03", "04", "05", "06", "07", "08", "09", "00"]),
    ],
)
def test_only_chooses_and_the_tour_comes_last(ten, only, expected):
    assert numbers(only) == expected


@pytest.mark.parametrize("only", ["10", "5", "07-05", "05,x", "rewrite", "05,"])
def test_a_part_that_names_no_notebook_is_an_error_that_lists_them(ten, only):
    with pytest.raises(ValueError, match=r"names no notebook; there are 00, 01, 02, .*, 09"):
        choose(only)


def test_the_real_series_is_found_and_ends_with_the_tour():
    found = [path.stem for path in choose("")]
    assert found[0].startswith("01_") and found[-1] == TOUR and len(found) == 14


# ── mistakes on the command line ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-p", "sites.early.latens", "8"], "did you mean 'sites.early.latents'?"),
        (["-p", "seeed", "8"], "did you mean 'seed'?"),
        (["-p", "sites.early.k", "many"], "sites.early.k = 'many'"),
        (["-p", "sites.early.k", "9"], "k = 9 is more than the coder's 8 latents"),
        (["-p", "rewrite.fractions", "[0.1"], "rewrite.fractions"),
        (["--only", "77"], "--only '77' names no notebook"),
        (
            ["-p", "rewrite.calibrators", "[izotonic]", "-p", "rewrite.headline", "izotonic"],
            "rewrite.calibrators: no calibrator 'izotonic'",
        ),
    ],
)
def test_a_mistake_is_one_clear_line_and_nothing_runs(ten, executed, capsys, arguments, says):
    assert main([str(ten / "tiny.yaml"), *arguments]) == 1
    shown = capsys.readouterr()
    assert says in shown.err and "Traceback" not in shown.err
    assert executed == [] and shown.out == ""


def test_a_parameter_file_that_is_not_there_names_those_that_are(ten, executed, capsys):
    assert main(["no/such.yaml"]) == 1
    said = capsys.readouterr().err
    assert "no parameter file 'no/such.yaml'; params/ holds " in said and " embedded, " in said
    assert executed == []


# ── a run ─────────────────────────────────────────────────────────────────────────────────────


def test_every_chosen_notebook_runs_in_order_and_the_table_closes(ten, executed, capsys):
    page = ten / "pictures" / "report.md"
    assert main([str(ten / "tiny.yaml"), "--only", "00,03-04"]) == 0
    assert executed == ["03_notebook", "04_notebook", TOUR]
    shown = capsys.readouterr().out
    assert "[2/3] 04_notebook …" in shown and "1 made, 2 reused" in shown
    assert f"Open next: {page.parent}\n" in shown
    page.parent.mkdir(exist_ok=True)
    page.write_text("")
    assert main([str(ten / "tiny.yaml"), "--only", "00,03-04"]) == 0
    assert f"Open next: {page}\n" in capsys.readouterr().out


@pytest.mark.parametrize(("reader", "more"), [("", []), (", reader: c", ["13_rewritten"])])
def test_whole_layers_are_read_where_a_site_has_a_reader(ten, executed, capsys, reader, more):
    write(ten, "13_rewritten", WORKS)
    (ten / "tiny.yaml").write_text(RUN.replace("k: 2", f"k: 2{reader}"))
    assert main([str(ten / "tiny.yaml")]) == 0
    assert executed[9:] == [*more, TOUR]
    assert ("13_rewritten is left out" in capsys.readouterr().out) is not bool(more)
    assert main([str(ten / "tiny.yaml"), "--only", "13"]) == 0
    assert executed[-1] == "13_rewritten", "asked for, it says itself what it lacks"


def test_a_notebook_gets_the_parameters_and_is_kept_executed(world):
    path = write(world, "01_works", WORKS)
    run = open_run(world / "tiny.yaml", {"seed": 5})
    done = execute(run, path, Path("given.yaml"), {"seed": 5})
    kept = nbformat.read(run.folder / "01_works.ipynb", 4)
    shown = "".join(o["text"] for c in kept.cells for o in c.get("outputs", []) if "text" in o)
    assert shown == "given.yaml {'seed': 5}\n"
    assert (done.notebook, done.made, done.reused, done.headline) == ("01_works", 0, 0, "")
    committed = nbformat.read(path.with_suffix(".ipynb"), 4)
    assert not [cell for cell in committed.cells if cell.get("outputs")]


def test_a_failing_cell_stops_the_series_shows_itself_and_keeps_the_notebook(world, capsys):
    write(world, "01_fails", FAILS)
    write(world, "02_works", WORKS)
    assert main([str(world / "tiny.yaml")]) == 1
    shown = capsys.readouterr()
    assert "01_fails failed in cell" in shown.err and "    wrong = shown / 0" in shown.err
    assert "ZeroDivisionError: division by zero" in shown.err
    folder = world / "runs" / "tiny"
    assert str(folder / "01_fails.ipynb") in shown.err
    kept = nbformat.read(folder / "01_fails.ipynb", 4)
    texts = [o.get("text", "") for cell in kept.cells for o in cell.get("outputs", [])]
    assert "so far 42\n" in texts and "never\n" not in texts
    assert "02_works" not in shown.out and not (folder / "02_works.ipynb").exists()


def test_a_kernel_that_dies_is_one_clear_error_and_no_traceback(world, capsys):
    write(world, "01_dies", "import os\n\nos._exit(1)\n")
    assert main([str(world / "tiny.yaml")]) == 1
    said = capsys.readouterr().err
    assert "01_dies was cut off" in said and "run the same again" in said


def test_a_cell_over_its_time_is_not_said_to_lack_memory(world, capsys, monkeypatch):
    monkeypatch.setattr(series, "CELL_SECONDS", 1)
    write(world, "01_waits", "import time\n\ntime.sleep(60)\n")
    assert main([str(world / "tiny.yaml")]) == 1
    said = capsys.readouterr().err
    assert "01_waits was cut off" in said and "timed out" in said and "memory" not in said


def test_a_kernel_starts_where_temporary_folders_have_long_paths(world, tmp_path, monkeypatch):
    long = tmp_path / ("a" * 60) / ("b" * 60)
    long.mkdir(parents=True)
    assert not kernel.takes_sockets(str(long))
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with kernel.sockets() as config:
        assert config.KernelManager.ip.startswith("/tmp/")
    path = write(world, "01_works", WORKS)
    assert execute(open_run(world / "tiny.yaml"), path, Path("given.yaml"), {}).made == 0


def test_where_no_folder_takes_a_socket_ports_are_used(monkeypatch):
    monkeypatch.setattr(kernel, "takes_sockets", lambda folder: False)
    with kernel.sockets() as config:
        assert "KernelManager" not in config


def test_a_notebook_reads_the_very_file_that_was_named(ten, executed, monkeypatch):
    """Relative to where the command was typed, not to where notebooks run."""
    files = []
    monkeypatch.setattr(
        series, "execute", lambda run, path, file, *_, **__: files.append(file) or DONE
    )
    (ten / "elsewhere").mkdir()
    (ten / "elsewhere" / "my own.yaml").write_text(RUN)
    monkeypatch.chdir(ten / "elsewhere")
    assert main(["my own.yaml", "--only", "05"]) == 0
    assert files == [ten / "elsewhere" / "my own.yaml"]


def played(monkeypatch, run: Run, stages: list[str]) -> None:
    """papermill as a notebook that uses these stages and leaves a headline."""

    def notebook(*arguments, **settings) -> None:
        for stage in stages:
            run.stage(stage, lambda folder: None, parameters={})
        run.headline("01_works", {"text": "half of it"})

    monkeypatch.setattr(series.papermill, "execute_notebook", notebook)


def test_stages_are_counted_once_each_as_made_or_reused(world, monkeypatch):
    """Two sites share the corpus: made for the first, found by the second, it was made."""
    path, run = write(world, "01_works", WORKS), open_run(world / "tiny.yaml")
    played(monkeypatch, run, ["00_corpus", "01_coder.a", "00_corpus", "01_coder.b"])
    done = execute(run, path, world / "tiny.yaml", {})
    assert (done.made, done.reused, done.headline) == (3, 0, "half of it")
    again = execute(run, path, world / "tiny.yaml", {}, again=True)
    assert (again.made, again.reused) == (0, 3)


# ── what need not run again ───────────────────────────────────────────────────────────────────


@pytest.fixture
def finished(world, monkeypatch):
    """A notebook that ran, with a stage and a figure; from now on running it is an error."""
    path, run = write(world, "01_works", WORKS), open_run(world / "tiny.yaml")
    played(monkeypatch, run, ["01_coder.a"])
    inner = series.papermill.execute_notebook

    def notebook(source, output, **settings):
        inner(source, output, **settings)
        Path(output).write_text("{}")
        (world / "pictures").mkdir(exist_ok=True)
        (world / "pictures" / "01.png").write_text("a picture")

    monkeypatch.setattr(series.papermill, "execute_notebook", notebook)
    first = execute(run, path, world / "tiny.yaml", {})
    assert (first.made, first.reused) == (1, 0)
    monkeypatch.setattr(series.papermill, "execute_notebook", lambda *_, **__: pytest.fail("ran"))
    return run, path


def test_a_notebook_whose_code_parameters_and_stages_are_as_before_is_found(finished, world):
    run, path = finished
    found = execute(run, path, world / "tiny.yaml", {})
    assert (found.made, found.reused, found.headline) == (0, 1, "half of it")


@pytest.mark.parametrize(
    "change", ["notebook", "another", "params", "stage", "figure", "output", "record"]
)
def test_it_runs_again_when_anything_is_not_as_before(finished, world, change):
    run, path = finished
    stage = next((run.folder / "stages").glob("01_coder.a-*/manifest.json"))
    if change == "notebook":
        path.write_text(path.read_text() + "# more\n")
    elif change == "another":
        write(world, "02_more", WORKS)
    elif change == "params":
        (world / "tiny.yaml").write_text(RUN + "seed: 5\n")
        run = open_run(world / "tiny.yaml")
    elif change == "stage":
        stage.unlink()
    elif change == "record":
        (run.folder / "executed" / "01_works.json").write_text('{"made_fr')
    elif change == "figure":
        (world / "pictures" / "01.png").unlink()
    else:
        (run.folder / "01_works.ipynb").unlink()
    with pytest.raises(pytest.fail.Exception, match="ran"):
        execute(run, path, world / "tiny.yaml", {})


def test_a_notebook_that_failed_is_not_found(finished, world):
    run, path = finished
    path.write_text(path.read_text() + "# more\n")
    with pytest.raises(pytest.fail.Exception, match="ran"):
        execute(run, path, world / "tiny.yaml", {})
    path.write_text(path.read_text().removesuffix("# more\n"))
    with pytest.raises(pytest.fail.Exception, match="ran"):  # its output is now of no run
        execute(run, path, world / "tiny.yaml", {})


def test_a_parameter_that_the_notebook_lacks_is_refused_before_it_runs(world, monkeypatch):
    head = HEAD.replace("overrides", "overides")
    path, run = write(world, "01_old", WORKS, head=head), open_run(world / "tiny.yaml")
    monkeypatch.setattr(series.papermill, "execute_notebook", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(SeriesError, match=r"01_old.py has no parameter overrides .* params_"):
        execute(run, path, world / "tiny.yaml", {})


def test_the_closing_table_lines_up_and_sums_the_minutes():
    done = [
        Executed("01_coder", 90.0, 3, 0, "FVU 0.2"),
        Executed("07_rewrite_long", 600.0, 0, 12, ""),
    ]
    lines = table(done).splitlines()
    assert lines[0].split() == ["notebook", "minutes", "stages", "headline"]
    assert lines[1] == "01_coder             1.5  3 made, 0 reused  FVU 0.2"
    assert lines[2].rstrip() == "07_rewrite_long     10.0  0 made, 12 reused"
    assert lines[3].split() == ["all", "11.5"]


# ── what runs nothing ─────────────────────────────────────────────────────────────────────────


def test_parameters_lists_every_one_with_its_meaning(executed, capsys):
    assert main(["--parameters"]) == 0
    shown = capsys.readouterr().out
    for name, default, meaning in names():
        assert f"{name} = {default!r}\n    {meaning}" in shown
    assert executed == [] and "sites.<site>.hookpoint = '(required)'" in shown


def test_plan_says_what_a_run_would_cost_and_runs_nothing(world, executed, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(series, "plan_of", lambda params, *_: asked.append(params) or "the plan")
    assert main([str(world / "tiny.yaml"), "--plan", "-p", "seed", "9"]) == 0
    assert capsys.readouterr().out == "the plan\n" and executed == []
    assert [params.seed for params in asked] == [9] and not (world / "runs").exists()


def test_help_and_an_unknown_option_from_the_shell():
    command = [sys.executable, "-m", "rewrite_utils.series"]
    found = subprocess.run(
        [*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0 and found.stderr == ""
    for option in ("--only", "-p", "--plan", "--parameters", "params_file"):
        assert option in found.stdout

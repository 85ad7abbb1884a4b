"""papermill over the whole series of notebooks, strictly: ``python -m rewrite_utils.series
params/x.yaml``.

Parameter names are checked before anything runs; each executed notebook is kept in runs/<name>/;
the first failure stops the series and its cell is shown. Ends with a table of what was made or
reused.
"""

import argparse
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jupytext
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from rewrite_utils.explorer.stage import ALONE
from rewrite_utils.llm import kept, spending
from rewrite_utils.params import ROOT, find, load, names
from rewrite_utils.params.command import add_parameters, overrides_of
from rewrite_utils.runs import executed
from rewrite_utils.runs.kernel import socket_folder, sockets
from rewrite_utils.runs.machine import device, gpu, this_machine
from rewrite_utils.runs.run import Run, open_run
from rewrite_utils.site import costs, plan_of, require_calibrators

NOTEBOOKS = ROOT / "notebooks"
TOUR, READING = "00_tour", "13_rewritten"
CELL_SECONDS = 6 * 3600
ROOMY = 12e9
"""Bytes of memory from which on the LLM of one notebook is kept for the next."""


class Executed(NamedTuple):
    """One notebook of the series, as the closing table shows it."""

    notebook: str
    """Name without ending."""
    seconds: float
    """Wall time."""
    made: int
    """Stages it made."""
    reused: int
    """Stages it found ready."""
    headline: str
    """Its headline number with interval, or an empty text."""


class SeriesError(RuntimeError):
    """A notebook of the series failed; the message shows the cell."""


def series() -> list[Path]:
    """The notebooks in the order they run: the tour last, since it walks through the finished
    run."""
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))
    return [path for path in found if path.stem != TOUR] + [
        path for path in found if path.stem == TOUR
    ]


def choose(only: str) -> list[Path]:
    """The notebooks that ``only`` names: "05", "05-07", "00,05-07"; all of them when empty.

    Raises ValueError when a part names no notebook.
    """
    everything = series()
    if not only:
        return everything
    chosen: set[Path] = set()
    for part in only.split(","):
        first, _, last = part.strip().partition("-")
        inside = [path for path in everything if first <= path.stem[:2] <= (last or first)]
        if not inside:
            numbers = ", ".join(sorted(path.stem[:2] for path in everything))
            raise ValueError(f"--only {part!r} names no notebook; there are {numbers}")
        chosen |= set(inside)
    return [path for path in everything if path in chosen]


def of_run(run: Run) -> list[Path]:
    """All notebooks that a run has something for: whole layers are read where a site names a
    reader."""
    if any(site.reader for site in run.params.sites.values()):
        return series()
    _say(
        f"{READING} is left out: no site of {run.params.name!r} has a sites.<site>.reader (c, say)"
    )
    return [path for path in series() if path.stem != READING]


def execute(
    run: Run,
    notebook: Path,
    params_file: Path,
    overrides: Mapping[str, Any],
    *,
    again: bool = False,
) -> Executed:
    """Execute one notebook into the run's folder, or find it there, made from the same (``again``:
    execute it in any case).

    Raises SeriesError with the failing cell; the half-executed notebook stays in the run's folder.
    """
    output = run.folder / f"{notebook.stem}.ipynb"
    given = {"params_file": str(params_file), "overrides": dict(overrides)}
    _check_names(notebook, given)
    events, started, began = len(run.journal), time.monotonic(), time.time()
    made_from = executed.fingerprint(run, series())
    reused = None if again else executed.unchanged(run, output, made_from)
    made = 0
    if reused is None:
        executed.forget(run, output)
        _papermill(notebook, output, given)
        used = run.journal[events:]
        executed.keep(run, output, made_from, used, _written(run, since=began))
        built = {event["stage"] for event in used if event["made"]}
        made, reused = len(built), len({event["stage"] for event in used} - built)
    headline = run.headlines.get(notebook.stem, {}).get("text", "")
    return Executed(notebook.stem, time.monotonic() - started, made, reused, headline)


def _papermill(notebook: Path, output: Path, given: Mapping[str, Any]) -> None:
    try:
        with sockets() as config:
            papermill.execute_notebook(
                jupytext.read(notebook),
                str(output),
                parameters=given,
                kernel_name="python3",
                cwd=str(NOTEBOOKS),
                progress_bar=sys.stderr.isatty(),
                execution_timeout=CELL_SECONDS,
                config=config,
            )
    except PapermillExecutionError as error:
        raise SeriesError(_failure(notebook, output, error)) from None
    except (DeadKernelError, CellTimeoutError) as error:
        why = " (out of memory?)" if isinstance(error, DeadKernelError) else ""
        raise SeriesError(
            f"{notebook.stem} was cut off: {' '.join(str(error).split())}{why}\n"
            "What was made so far is kept and will be reused: run the same again."
        ) from None
    except RuntimeError as error:
        raise SeriesError(f"{notebook.stem}: its kernel did not start: {error}") from None


def _written(run: Run, *, since: float) -> list[Path]:
    """The files in the run's figures folder that are not older than ``since``."""
    found = (ROOT / run.params.figures).glob("*")
    return sorted(path for path in found if path.is_file() and path.stat().st_mtime >= since)


def table(done: Sequence[Executed]) -> str:
    """The closing table: notebook, minutes, stages made or reused, headline."""
    width = max(len(item.notebook) for item in done)
    lines = [f"{'notebook':{width}}  minutes  stages           headline"]
    for item in done:
        stages = f"{item.made} made, {item.reused} reused"
        lines += [
            f"{item.notebook:{width}}  {item.seconds / 60:7.1f}  {stages:15}  {item.headline}"
        ]
    total = sum(item.seconds for item in done) / 60
    return "\n".join([*lines, f"{'all':{width}}  {total:7.1f}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.parameters:
            return _say(_all_parameters())
        overrides, chosen = overrides_of(asked.set), choose(asked.only)
        file = find(asked.params_file).resolve()  # notebooks run in a folder of their own
        if asked.plan:
            params = load(file, overrides)
            here = "cpu" if asked.gpu else device(params.subject.device)
            machine = gpu(asked.gpu) if asked.gpu else this_machine(here, ROOT)
            return _say(plan_of(params, machine, (ALONE,), _numbers(asked.only)))
        run = open_run(file, overrides)
        require_calibrators(run.params)
        chosen = chosen if asked.only else of_run(run)
        llms = run.params.explainer, run.params.simulator
        here = this_machine(device(run.params.subject.device))
        _say(here.said() + spending.ahead(llms, lambda: costs(run.params)))
        done, before = [], len(run.journal)
        with socket_folder("rewrite-llm-") as folder, kept.keeping(folder if _roomy() else ""):
            for number, notebook in enumerate(chosen, 1):
                _say(f"[{number}/{len(chosen)}] {notebook.stem} …")
                done.append(execute(run, notebook, file, overrides, again=asked.again))
                _say(f"        {done[-1].seconds / 60:.1f} minutes. {done[-1].headline}")
        spent = spending.spent(run.folder, run.journal[before:])
        return _say(f"\n{table(done)}\n{spent}\n{_next_steps(run)}")
    except (SeriesError, ValueError, OSError) as error:
        sys.stderr.write(f"\n{error}\n")
        return 1


def _roomy() -> bool:
    """Whether an LLM may stay in memory between notebooks: not on a GPU, of which vLLM takes nearly
    all."""
    return device() == "cpu" and this_machine().memory >= ROOMY


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rewrite_utils.series",
        description="Execute the notebooks of the series with one parameter file.",
        epilog="What exists already is reused, a killed run goes on where it stopped.",
    )
    add_parameters(parser)
    parser.add_argument(
        "--only", default="", metavar="05-07", help="some notebooks: 05, 05-07, 00,09"
    )
    parser.add_argument(
        "--plan", action="store_true", help="print the plan and its cost, run nothing"
    )
    parser.add_argument(
        "--gpu", default="", metavar="a40", help="plan for such a GPU, by its published numbers"
    )
    parser.add_argument(
        "--again", action="store_true", help="execute also what is there from the same code"
    )
    parser.add_argument("--parameters", action="store_true", help="list every parameter and stop")
    return parser


def _numbers(only: str) -> set[str]:
    """The numbers of the notebooks that ``only`` names: as their stages' names begin."""
    return {path.stem[:2] for path in choose(only)}


def _check_names(notebook: Path, given: Mapping[str, Any]) -> None:
    """papermill would accept a parameter that the notebook does not have, and ignore it."""
    with tempfile.TemporaryDirectory() as folder:  # the paired .ipynb may be older than the .py
        read = Path(folder) / f"{notebook.stem}.ipynb"
        jupytext.write(jupytext.read(notebook), read)
        known = papermill.inspect_notebook(str(read))
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise SeriesError(
            f"{notebook.name} has no parameter {', '.join(unknown)} in the cell tagged parameters; "
            f"it has {', '.join(known)}"
        )


def _failure(notebook: Path, output: Path, error: PapermillExecutionError) -> str:
    source = textwrap.indent(str(error.source).strip(), "    ")
    return (
        f"{notebook.stem} failed in cell {error.exec_count}:\n\n{source}\n\n"
        f"{error.ename}: {error.evalue}\n\n"
        f"The notebook as far as it got: {output}\nWhat was made so far is kept and will be reused."
    )


def _next_steps(run: Run) -> str:
    """What there is to look at: the report if it was made, else the figures."""
    figures = ROOT / run.params.figures
    page, notebook = figures / "report.md", run.folder / "09_report.ipynb"
    steps = [str(page if page.is_file() else figures)]
    if notebook.is_file():
        steps.append(f"{notebook} (every claim, the paper's number and ours)")
    steps.append(".venv/bin/jupyter lab notebooks/00_tour.ipynb")
    return "Open next: " + "\n           ".join(steps)


def _all_parameters() -> str:
    rows = [f"{name} = {default!r}\n    {text}" for name, default, text in names()]
    return "\n".join(rows)


def _say(text: str) -> int:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

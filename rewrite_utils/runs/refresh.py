"""The committed notebooks: execute each .py again and write its .ipynb, byte for byte reproducible.

``python -m rewrite_utils.runs.refresh [--only 05-07] [--sync]``. In: notebooks/NN_name.py, at the
parameters written in it. Out: NN_name.ipynb with results. Times, widget states, progress bars and
random cell ids are left out, so that an unchanged result gives no diff.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from rewrite_utils.runs.kernel import sockets
from rewrite_utils.runs.whole import whole
from rewrite_utils.series import NOTEBOOKS, choose

LIMIT = 3600
"""Seconds that one notebook may take."""
WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}
"""What the committed notebooks say of themselves: nothing that depends on the machine."""


class RefreshError(RuntimeError):
    """A notebook could not be refreshed; the committed one is as it was."""


def refresh(source: Path, *, limit: int = LIMIT) -> None:
    """Execute ``source`` (.py) in a process of its own and write the .ipynb beside it.

    Raises RefreshError when a cell fails or ``limit`` seconds are over.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(source, limit, sender))
    process.start()
    sender.close()
    try:
        complaint = receiver.recv() if receiver.poll(limit) else f"took more than {limit} s"
    except EOFError:
        complaint = "its process ended without a word (out of memory?)"
    finally:
        process.kill()  # its kernel ends when it sees that its parent is gone
        process.join()
    if complaint:
        raise RefreshError(f"{source.name} is not refreshed: {complaint}")


def execute(source: Path, *, limit: int = LIMIT) -> NotebookNode:
    """The executed, stripped notebook of ``source``; CellExecutionError where a cell fails."""
    notebook = jupytext.read(source)
    with sockets() as config:
        NotebookClient(
            notebook,
            timeout=limit,
            kernel_name="python3",
            config=config,
            record_timing=False,
            store_widget_state=False,
            resources={"metadata": {"path": str(source.parent)}},
        ).execute()
    return stripped(notebook, name=source.stem)


def sync(source: Path) -> None:
    """Bring the .ipynb's cells up to ``source`` without executing; unchanged cells keep results."""
    target, notebook = source.with_suffix(".ipynb"), jupytext.read(source)
    if target.exists():
        _keep_results(notebook, nbformat.read(target, as_version=4))
    write(stripped(notebook, name=source.stem), target)


def stripped(notebook: NotebookNode, *, name: str) -> NotebookNode:
    """The notebook without anything that differs from one execution to the next."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{name}-{number:03d}".replace(".", "-")[-64:]
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_bar(output)]
            for output in cell.outputs:  # without the live widget, whose id is random
                output.get("data", {}).pop(WIDGET, None)
    return notebook


def write(notebook: NotebookNode, target: Path) -> None:
    """Write a valid notebook so that the file is either the old or the whole new one."""
    nbformat.validate(notebook)
    with whole(target) as part:
        part.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def _keep_results(notebook: NotebookNode, old: NotebookNode) -> None:
    """Give each code cell the results of the old cell with exactly its source, each used once."""
    results = [cell for cell in old.cells if cell.cell_type == "code"]
    for cell in notebook.cells:
        found = next((one for one in results if one.source == cell.source), None)
        if cell.cell_type == "code" and found is not None:
            cell.outputs, cell.execution_count = found.outputs, found.execution_count
            results.remove(found)


def _is_bar(output: NotebookNode) -> bool:
    """A progress bar: tqdm's on stderr, or a widget without a static face."""
    if output.output_type == "stream":
        return output.name == "stderr" and ("it/s" in output.text or "%|" in output.text)
    data = output.get("data", {})
    return WIDGET in data and "text/html" not in data


def _child(source: Path, limit: int, sender) -> None:
    """In the child process: execute, write, and send None or what went wrong."""
    try:
        write(execute(source, limit=limit), source.with_suffix(".ipynb"))
        sender.send(None)
    except Exception as error:
        sender.send(str(error) if isinstance(error, CellExecutionError) else repr(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when every notebook asked for is refreshed."""
    parser = argparse.ArgumentParser(
        prog="python -m rewrite_utils.runs.refresh", description=__doc__
    )
    parser.add_argument("--only", default="", metavar="05-07", help="some notebooks: 05, 00,09")
    parser.add_argument("--sync", action="store_true", help="update the cells, execute nothing")
    asked = parser.parse_args(arguments)
    try:
        for source in choose(asked.only):
            sys.stdout.write(f"{source.name} …\n")
            sys.stdout.flush()
            sync(source) if asked.sync else refresh(source)
    except (RefreshError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"Open next: {NOTEBOOKS / '00_tour.ipynb'}, and git diff --stat notebooks\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

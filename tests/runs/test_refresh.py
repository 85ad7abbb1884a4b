"""Refreshing committed notebooks: the same bytes twice, unchanged results kept, honest failure."""

from pathlib import Path

import jupytext
import nbformat
import pytest

from rewrite_utils.runs.refresh import METADATA, RefreshError, refresh, stripped, sync

HEAD = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A title

# %% tags=["parameters"]
number: int = 3  # How many
"""
SOURCE = (
    HEAD
    + """
# %%
import ipywidgets
from IPython.display import HTML, display
from tqdm.auto import tqdm
for _ in tqdm(range(number), desc="work"):
    pass
display(ipywidgets.IntSlider())
print("said", number)

# %%
HTML(f"<b>{number}</b>")
"""
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "05_test.py"
    path.write_text(SOURCE)
    return path


def test_executing_twice_gives_the_same_bytes(source):
    refresh(source, limit=120)
    first = source.with_suffix(".ipynb").read_bytes()
    refresh(source, limit=120)
    assert source.with_suffix(".ipynb").read_bytes() == first
    notebook = nbformat.reads(first.decode(), as_version=4)
    assert notebook.metadata == METADATA
    assert notebook.cells[1].metadata == {"tags": ["parameters"]}
    kinds = [output.output_type for output in notebook.cells[2].outputs]
    assert kinds == ["stream"] and notebook.cells[2].outputs[0].text == "said 3\n"
    assert notebook.cells[3].outputs[0].data["text/html"] == "<b>3</b>"
    assert [path.name for path in source.parent.glob("*.tmp")] == []


def test_a_failing_cell_is_shown_and_the_old_notebook_stays(source):
    source.with_suffix(".ipynb").write_text("old")
    source.write_text(HEAD + "\n# %%\nraise ValueError('no luck')\n")
    with pytest.raises(RefreshError, match=r"(?s)05_test\.py is not refreshed.*no luck"):
        refresh(source, limit=120)
    assert source.with_suffix(".ipynb").read_text() == "old"


def test_a_notebook_that_hangs_is_stopped(source):
    source.write_text(HEAD + "\n# %%\nimport time\ntime.sleep(600)\n")
    with pytest.raises(RefreshError, match=r"took more than 12 s|[Tt]imed out|TimeoutError"):
        refresh(source, limit=12)


def test_sync_keeps_results_of_unchanged_cells_and_executes_nothing(source):
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells[1:], 1):
        cell.execution_count = number
        cell.outputs = [nbformat.v4.new_output("stream", text=f"result {number}")]
    nbformat.write(stripped(notebook, name="05_test"), source.with_suffix(".ipynb"))
    source.write_text(SOURCE.replace("<b>", "<i>"))
    sync(source)
    synced = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert synced.cells[2].outputs[0].text == "result 2"
    assert synced.cells[3].outputs == [] and "<i>" in synced.cells[3].source


def test_progress_bars_go_and_messages_stay():
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "7"}}
    outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="100%|###| 3/3 [00:00, 9.1it/s]"),
        nbformat.v4.new_output("stream", name="stderr", text="UserWarning: look here"),
        nbformat.v4.new_output("display_data", data=widget | {"text/plain": "work: 100%"}),
        nbformat.v4.new_output("display_data", data=widget | {"text/html": "<p>card</p>"}),
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)])
    kept = stripped(notebook, name="n").cells[0].outputs
    assert [output.get("text") or dict(output.data) for output in kept] == [
        "UserWarning: look here",
        {"text/html": "<p>card</p>"},
    ]

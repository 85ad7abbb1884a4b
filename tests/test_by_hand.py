"""What the notebooks work out by hand is what the package gives, on both tiny models and sites."""

import re

import jupytext
import matplotlib.pyplot as plt
import pytest
import torch

from rewrite_utils.coder.sparse import random_coder
from rewrite_utils.params import ROOT

NOTEBOOKS = [next((ROOT / "notebooks").glob(f"{n:02}_*.py")) for n in range(1, 8)]
READ = ROOT / "notebooks/13_rewritten.py"
"""Its sites have readers: `test_reader_stages` works it out."""
LONGEST = 12
"""Lines of a cell that a reader may want to copy."""
each_notebook = pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda file: file.stem)


def by_hand(source):
    """The cells of the section By hand, in order."""
    cells = jupytext.read(source).cells
    begin = next(n for n, cell in enumerate(cells) if cell.source.startswith("## By hand"))
    heads = [n for n, cell in enumerate(cells) if cell.source.startswith("## ") and n > begin]
    return cells[begin : heads[0]]


def worked(source, site, world):
    """The section's cells, executed on one site of a run."""
    names = {"run": world.run, "sites": {site.name: site}}
    for cell in by_hand(source):
        if cell.cell_type == "code":
            exec(compile(cell.source, source.name, "exec"), names)


@pytest.fixture
def quiet(drawing, monkeypatch):
    monkeypatch.setattr(plt, "show", plt.close)


@pytest.mark.parametrize("source", [*NOTEBOOKS, READ], ids=lambda file: file.stem)
def test_cells_are_short_and_the_last_one_asserts(source):
    *_, last = cells = by_hand(source)
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert [cell for cell in code if len(re.findall(r"\S.*", cell)) > LONGEST] == []
    assert re.search(r"^ *assert ", last.source, re.MULTILINE)


@each_notebook
def test_by_hand_equals_the_package_and_asks_no_llm(source, site, world, quiet):
    asked = len(world.llm.texts)
    worked(source, site, world)
    assert len(world.llm.texts) == asked


@pytest.mark.parametrize("stage", ["scores", "simulation"])
def test_the_prompt_shown_was_asked(stage, site, world, quiet, capsys):
    worked(next(file for file in NOTEBOOKS if stage in file.stem), site, world)
    shown = capsys.readouterr().out.rpartition("── user\n")[2].partition("── assistant")[0]
    assert any(shown.strip() in text for text in world.llm.texts)


@pytest.mark.parametrize("kind", [{"skip_connection": True}, {"k": None}], ids=["skip", "bar"])
def test_every_kind_of_coder_by_hand(kind, world, quiet, monkeypatch):
    site, generator = world.sites["mlp"], torch.Generator().manual_seed(0)
    coder = random_coder(site.coder.config.model_copy(update=kind), generator)
    own = coder.threshold if coder.W_skip is None else coder.W_skip
    own.data.uniform_(0.1, 1.0, generator=generator)
    monkeypatch.setitem(vars(site), "coder", coder)
    worked(NOTEBOOKS[0], site, world)

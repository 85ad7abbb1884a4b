"""Figures: what is drawn is what is in the table, and the files repeat byte for byte."""

import io
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rewrite_utils.params import ROOT, Params, parse
from rewrite_utils.report import curves, figures, forests, spreads
from rewrite_utils.report.figures import Provenance

FILES = ("a.png", "a.pdf", "a.csv", "a.json")


pytestmark = pytest.mark.usefixtures("drawing")


STAGES = {"01_coder.a": "0123456789ab"}


@pytest.fixture
def params(tmp_path) -> Params:
    raw = {"name": "test", "seed": 7, "figures": str(tmp_path / "figures")}
    return parse(raw | {"sites": {"a": {"hookpoint": "layers.0", "latents": 4}}})


@pytest.fixture
def made(params) -> Provenance:
    return Provenance.of(params, STAGES)


@pytest.fixture
def axes() -> plt.Axes:
    return figures.panels(1)[1][0]


def legend_of(axes: plt.Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def line(axes: plt.Axes, named: str) -> tuple[np.ndarray, np.ndarray]:
    [found] = [line for line in axes.lines if line.get_label() == named]
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


# ── files ─────────────────────────────────────────────────────────────────────────────────────


def saved(made: Provenance) -> dict[str, bytes]:
    figures.use_style()
    figure, [axes] = figures.panels(1)
    forests.forest(axes, verdict().tail(2), value="over_coder", xlabel="nats", title="Δ")
    path = figures.save(made, "a", figure, verdict(), unit="window", n=12)
    plt.close(figure)
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(FILES)
    return {name: (path.parent / name).read_bytes() for name in FILES}


def test_a_figure_is_saved_with_its_data_and_where_it_comes_from(made):
    files = saved(made)
    assert files["a.png"].startswith(b"\x89PNG") and files["a.pdf"].startswith(b"%PDF")
    lines = files["a.csv"].decode().splitlines()
    assert (
        lines[0] == "source,count,order,over_coder,over_coder_low,over_coder_high"
        and len(lines) == 7
    )
    assert lines[1] == "coder,0,all,0.123457,0.1,0.2"  # six digits
    about = json.loads(files["a.json"])
    assert about == {"run": "test", "seed": 7, "n": 12, "unit": "window", "stages": STAGES}


def test_stages_that_are_used_later_are_named_too(params):
    opened = dict(STAGES)
    made = Provenance.of(params, opened)
    opened["02_latents.a"] = "ba9876543210"
    figure, _ = figures.panels(1)
    path = figures.save(made, "a", figure, verdict(), unit="window", n=1)
    assert json.loads(path.with_suffix(".json").read_text())["stages"] == opened


def test_a_faithful_runs_figures_say_that_nothing_was_held_out(params):
    """params/place.py promises it; for long no figure did."""
    corpus = params.corpus.model_copy(update={"faithful": True})
    faithful = params.model_copy(update={"corpus": corpus})
    for one, said in ((params, None), (faithful, figures.FAITHFUL)):
        figure, _ = figures.panels(1)
        made = Provenance.of(one, STAGES)
        path = figures.save(made, "b", figure, verdict(), unit="window", n=1)
        about = json.loads(path.with_suffix(".json").read_text())
        assert about.get("held_out", True) == (said is None)
        assert (figure.get_suptitle() or None) == said
        plt.close(figure)


def test_drawing_it_again_gives_the_same_bytes(made):
    files = saved(made)
    assert files == saved(made)
    assert b"CreationDate" not in files["a.pdf"]  # two calls may fall into one second


def test_the_picture_on_the_page_is_small_and_the_same_each_time(made):
    figures.use_style()
    pictures = []
    for _ in range(2):
        figure, [axes] = figures.panels(1)
        forests.forest(axes, verdict().tail(2), value="over_coder", xlabel="nats", title="Δ")
        pictures.append(figures.page(figure))
    file = figures.save(made, "a", figure, verdict(), unit="window", n=1)
    assert pictures[0] == pictures[1] and len(pictures[0]) < file.stat().st_size / 2
    small, large = (Image.open(one).size[0] for one in (io.BytesIO(pictures[0]), file))
    assert small / large == pytest.approx(figures.PAGE_DPI / 160, rel=0.05)


def test_figures_of_a_relative_folder_lie_below_the_repository(params, monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    made = Provenance.of(params.model_copy(update={"figures": "pictures"}), STAGES)
    path = figures.save(made, "b", plt.figure(), verdict(), unit="window", n=1)
    assert path == tmp_path / "pictures" / "b.png" and path.is_file()
    assert figures.ROOT != ROOT


def test_a_kept_figure_is_closed(made):
    figure, _ = figures.panels(1)
    figures.keep(made, "a", figure, verdict(), unit="window", n=1)
    assert not plt.get_fignums() and Path(made.folder / "a.png").is_file()


# ── colours ───────────────────────────────────────────────────────────────────────────────────


def test_arms_that_stand_in_one_panel_have_their_own_colours():
    told = ["coder", "zero", "mean", "token table", "word list", "raw+topk", "isotonic"]
    told += ["quantile:type7+topk", "quantile:type8", "centred+isotonic_pooled"]
    assert len({figures.colour(source) for source in told}) == len(told)


def test_every_named_arm_has_a_colour_and_others_share_one():
    named = {shade for shade, _ in figures.ARMS.values()}
    assert figures.colour("new") == figures.colour("newer") not in named
    assert figures.label("new") == "new" and figures.label("coder") == "coder as it is"
    assert figures.calibration("isotonic") == "isotonic a latent"


# ── what is drawn ─────────────────────────────────────────────────────────────────────────────


def verdict() -> pd.DataFrame:
    columns = ["source", "count", "order", "over_coder", "over_coder_low", "over_coder_high"]
    rows = [
        ("coder", 0, "all", 0.123456789, 0.1, 0.2),
        ("mean", 8, "all", 0.9, 0.7, 1.1),
        ("mean", 2, "top", 0.3, 0.2, 0.4),
        ("mean", 2, "random", 0.5, 0.4, 0.6),
        ("raw", 2, "top", 0.4, 0.3, 0.5),
        ("raw", 8, "all", 1.0, 0.8, 1.2),
    ]
    return pd.DataFrame(rows, columns=columns)


def test_fraction_curves_show_one_order_and_the_whole(axes):
    curves.fractions(axes, verdict(), orders=["top"], described=8, title="t")
    x, y = line(axes, figures.label("mean"))
    assert x.tolist() == [0.25, 1] and y.tolist() == [0.3, 0.9]
    assert line(axes, "raw")[1].tolist() == [0.4, 1.0]
    assert set(line(axes, "coder as it is")[1]) == {0}
    assert set(line(axes, "paper: all latents at zero")[1]) == {0.29}
    low, high = np.sort(axes.collections[0].get_paths()[0].vertices[:, 1])[[0, -1]]
    assert (low, high) == (0.2, 1.1)


def test_the_forest_lists_arms_from_the_top_with_their_intervals(axes):
    rows = verdict().iloc[[1, 5]]
    forests.forest(axes, rows, value="over_coder", xlabel="nats", title="t")
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["raw", figures.label("mean")]
    found = [np.asarray(drawn.get_xdata()).tolist() for drawn in axes.lines[:4]]
    assert found == [[0.8, 1.2], [1.0], [0.7, 1.1], [0.9]]


def test_firing_rates_are_ranked(axes):
    curves.firing_rates(axes, np.array([0.1, 0.4, 0.01]), title="t")
    assert axes.lines[0].get_ydata().tolist() == [0.4, 0.1, 0.01]
    assert legend_of(axes) == ["mean 0.170"]


def test_the_training_curve_is_over_thousands_of_tokens(axes):
    records = pd.DataFrame({"tokens": [1000, 5000], "fvu": [0.9, 0.3], "dead": [0.0, 0.1]})
    curves.training(axes, records, title="t")
    x, y = line(axes, "FVU")
    assert x.tolist() == [1, 5] and y.tolist() == [0.9, 0.3]


def test_rating_densities_tell_firing_from_silent(axes):
    true = np.array([[0.0, 0.0, 2.0, 1.0]])
    expected = np.array([[0.1, 0.2, 8.9, 8.8]], np.float16)
    data = spreads.ratings(axes, expected, true, title="t")
    assert legend_of(axes) == ["silent (n = 2)", "fires (n = 2)"]
    for name, where in (("silent", 0.0), ("fires", 8.75)):
        part = data[data["latent"] == name].set_index("rating")["density"]
        assert part.idxmax() == where and part.sum() * 0.25 == pytest.approx(1)


def test_ratings_of_a_site_that_never_fires_are_drawn(axes):
    data = spreads.ratings(axes, np.ones((2, 2)), np.zeros((2, 2)), title="t")
    assert set(data["latent"]) == {"silent"}


def test_an_odd_number_of_panels_leaves_no_empty_one():
    figure, axes = figures.panels(3)
    assert len(axes) == len(figure.axes) == 3


def test_one_legend_below_serves_all_panels():
    figure, both = figures.places({"a": 1, "b": 2})
    assert [(name, part) for _, name, part in both] == [("a", 1), ("b", 2)]
    for (axes,), _, _ in both:
        curves.fractions(axes, verdict(), orders=["top"], described=8, title="t")
    figures.shared_legend(figure)
    [legend] = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown[:2] == [figures.label("mean"), "raw"] and len(shown) == len(set(shown)) == 4


def test_scores_without_a_number_are_left_out_of_the_histogram(axes):
    scores = pd.DataFrame({"f1": [0.95, 0.5, np.nan], "auroc": [0.95, 0.55, 0.1]})
    spreads.scores(axes, scores, title="t")
    f1, auroc = ([bar.get_height() for bar in bars] for bars in axes.containers)
    assert sum(f1) == sum(auroc) == 2 and f1[9] == auroc[9] == 1 and auroc[1] == 0

"""Figures: what is drawn is what is in the table, and the files repeat byte for byte."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from rewrite_utils.params import ROOT, parse
from rewrite_utils.report import plots
from rewrite_utils.runs.run import Run

FILES = ("a.png", "a.pdf", "a.csv", "a.json")


pytestmark = pytest.mark.usefixtures("drawing")


@pytest.fixture
def run(tmp_path) -> Run:
    raw = {"name": "test", "seed": 7, "figures": str(tmp_path / "figures")}
    params = parse(raw | {"sites": {"a": {"hookpoint": "layers.0", "latents": 4}}})
    run = Run(params, tmp_path / "run")
    run.stage("01_coder.a", lambda folder: None, parameters={})
    return run


@pytest.fixture
def axes() -> plt.Axes:
    return plots.panels(1)[1][0]


def legend_of(axes: plt.Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def line(axes: plt.Axes, named: str) -> tuple[np.ndarray, np.ndarray]:
    [found] = [line for line in axes.lines if line.get_label() == named]
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


# ── files ─────────────────────────────────────────────────────────────────────────────────────


def saved(run: Run) -> dict[str, bytes]:
    plots.use_style()
    figure, [axes] = plots.panels(1)
    plots.forest(axes, verdict().tail(2), value="over_coder", xlabel="nats", title="Δ")
    path = plots.save_figure(run, "a", figure, verdict(), unit="window", n=12)
    plt.close(figure)
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(FILES)
    return {name: (path.parent / name).read_bytes() for name in FILES}


def test_a_figure_is_saved_with_its_data_and_where_it_comes_from(run):
    files = saved(run)
    assert files["a.png"].startswith(b"\x89PNG") and files["a.pdf"].startswith(b"%PDF")
    lines = files["a.csv"].decode().splitlines()
    assert (
        lines[0] == "source,count,order,over_coder,over_coder_low,over_coder_high"
        and len(lines) == 7
    )
    assert lines[1] == "coder,0,all,0.123457,0.1,0.2"  # six digits
    about = json.loads(files["a.json"])
    [event] = run.journal
    stages = {"01_coder.a": event["hash"]}
    assert about == {"run": "test", "seed": 7, "n": 12, "unit": "window", "stages": stages}


def test_a_faithful_runs_figures_say_that_nothing_was_held_out(run):
    """params/place.py promises it; for long no figure did."""
    corpus = run.params.corpus.model_copy(update={"faithful": True})
    faithful = Run(run.params.model_copy(update={"corpus": corpus}), run.folder)
    for one, said in ((run, None), (faithful, plots.FAITHFUL)):
        figure, _ = plots.panels(1)
        path = plots.save_figure(one, "b", figure, verdict(), unit="window", n=1)
        about = json.loads(path.with_suffix(".json").read_text())
        assert about.get("held_out", True) == (said is None)
        assert (figure.get_suptitle() or None) == said
        plt.close(figure)


def test_drawing_it_again_gives_the_same_bytes(run):
    files = saved(run)
    assert files == saved(run)
    assert b"CreationDate" not in files["a.pdf"]  # two calls may fall into one second


def test_figures_of_a_relative_folder_lie_below_the_repository(run, monkeypatch, tmp_path):
    monkeypatch.setattr(plots, "ROOT", tmp_path)
    relative = Run(run.params.model_copy(update={"figures": "pictures"}), run.folder)
    path = plots.save_figure(relative, "b", plt.figure(), verdict(), unit="window", n=1)
    assert path == tmp_path / "pictures" / "b.png" and path.is_file()
    assert plots.ROOT != ROOT


# ── colours ───────────────────────────────────────────────────────────────────────────────────


def test_arms_that_stand_in_one_panel_have_their_own_colours():
    told = ["coder", "zero", "mean", "token table", "word list", "raw+topk", "isotonic"]
    told += ["quantile:type7+topk", "quantile:type8", "centred+isotonic_pooled"]
    assert len({plots.colour(source) for source in told}) == len(told)


def test_every_named_arm_has_a_colour_and_others_share_one():
    assert set(plots.LABELS) <= set(plots.COLOURS)
    assert plots.colour("new") == plots.colour("newer") not in plots.COLOURS.values()
    assert plots.label("new") == "new" and plots.label("coder") == "coder as it is"


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
    plots.fraction_curves(axes, verdict(), order="top", described=8, title="t")
    x, y = line(axes, plots.label("mean"))
    assert x.tolist() == [0.25, 1] and y.tolist() == [0.3, 0.9]
    assert line(axes, "raw")[1].tolist() == [0.4, 1.0]
    assert set(line(axes, "coder as it is")[1]) == {0}
    assert set(line(axes, "paper: all latents at zero, Pythia")[1]) == {0.29}
    low, high = np.sort(axes.collections[0].get_paths()[0].vertices[:, 1])[[0, -1]]
    assert (low, high) == (0.2, 1.1)


def test_the_forest_lists_arms_from_the_top_with_their_intervals(axes):
    rows = verdict().iloc[[1, 5]]
    plots.forest(axes, rows, value="over_coder", xlabel="nats", title="t")
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["raw", plots.label("mean")]
    found = [np.asarray(drawn.get_xdata()).tolist() for drawn in axes.lines[:4]]
    assert found == [[0.8, 1.2], [1.0], [0.7, 1.1], [0.9]]


def test_distributions_are_survival_functions(axes):
    true = np.array([[0.0, 0.0], [1.0, 3.0]])
    data = plots.distributions(axes, {"true": true, "raw": true / 2}, title="t")
    assert data[data["source"] == "true"]["activation"].tolist() == [0, 0, 1, 3]
    assert data[data["source"] == "true"]["share"].tolist() == [0.75, 0.5, 0.25, 0]
    assert legend_of(axes) == ["true", "raw"]


def test_firing_rates_are_ranked(axes):
    plots.firing_rates(axes, np.array([0.1, 0.4, 0.01]), title="t")
    assert axes.lines[0].get_ydata().tolist() == [0.4, 0.1, 0.01]
    assert legend_of(axes) == ["mean 0.170"]


def test_the_training_curve_is_over_thousands_of_tokens(axes):
    records = pd.DataFrame({"tokens": [1000, 5000], "fvu": [0.9, 0.3], "dead": [0.0, 0.1]})
    plots.training_curve(axes, records, title="t")
    x, y = line(axes, "FVU")
    assert x.tolist() == [1, 5] and y.tolist() == [0.9, 0.3]


def test_rating_densities_tell_firing_from_silent(axes):
    true = np.array([[0.0, 0.0, 2.0, 1.0]])
    expected = np.array([[0.1, 0.2, 8.9, 8.8]], np.float16)
    data = plots.rating_histogram(axes, expected, true, title="t")
    assert legend_of(axes) == ["silent (n = 2)", "fires (n = 2)"]
    for name, where in (("silent", 0.0), ("fires", 8.75)):
        part = data[data["latent"] == name].set_index("rating")["density"]
        assert part.idxmax() == where and part.sum() * 0.25 == pytest.approx(1)


def test_ratings_of_a_site_that_never_fires_are_drawn(axes):
    data = plots.rating_histogram(axes, np.ones((2, 2)), np.zeros((2, 2)), title="t")
    assert set(data["latent"]) == {"silent"}


def test_an_odd_number_of_panels_leaves_no_empty_one():
    figure, axes = plots.panels(3)
    assert len(axes) == len(figure.axes) == 3


def test_one_legend_below_serves_all_panels():
    figure, both = plots.panels(2)
    for axes in both:
        plots.fraction_curves(axes, verdict(), order="top", described=8, title="t")
    plots.shared_legend(figure)
    [legend] = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown[:2] == [plots.label("mean"), "raw"] and len(shown) == len(set(shown)) == 4


def test_scores_without_a_number_are_left_out_of_the_histogram(axes):
    scores = pd.DataFrame({"f1": [0.95, 0.5, np.nan], "auroc": [0.95, 0.55, 0.1]})
    plots.score_distribution(axes, scores, title="t")
    f1, auroc = ([bar.get_height() for bar in bars] for bars in axes.containers)
    assert sum(f1) == sum(auroc) == 2 and f1[9] == auroc[9] == 1 and auroc[1] == 0


def test_the_pipeline_names_every_step():
    figure = plots.pipeline()
    shown = [text.get_text() for text in figure.axes[0].texts]
    steps = ["MLP", "coder", "explainer", "simulator", "calibration", "decoder"]
    assert [text for text in shown if text in steps] == steps

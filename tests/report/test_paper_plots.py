"""The paper's figures: drawn is what is in the table, the paper's value is a dashed line."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from rewrite_utils import report
from rewrite_utils.report import paper_plots, plots
from rewrite_utils.report.paper import DRAWN, PAPER_COST
from rewrite_utils.report.paper_plots import LEAST, PAPER_UNNORMALISED, binned, edges
from rewrite_utils.site import open_sites

ONE = pytest.mark.parametrize("architecture", ["neox"], indirect=True, scope="session")
pytestmark = [pytest.mark.usefixtures("drawing", "architecture"), ONE]
RAW = "raw+topk"


def lines_of(axes: plt.Axes) -> dict[str, plt.Line2D]:
    return {str(line.get_label()): line for line in axes.lines}


def verdict() -> pd.DataFrame:
    rows = [
        ("coder", 0, "all", 0.0),
        ("zero", 1, "top", 0.1),
        ("zero", 1, "random", 0.15),
        ("zero", 4, "all", 0.8),
        ("mean", 1, "top", 0.05),
        ("mean", 4, "all", 0.6),
        (RAW, 1, "top", 0.3),
        (RAW, 1, "random", 0.4),
        (RAW, 4, "all", 2.0),
    ]
    table = pd.DataFrame(rows, columns=["source", "count", "order", "over_coder"])
    low, high = table["over_coder"] - 0.01, table["over_coder"] + 0.01
    return table.assign(over_coder_low=low, over_coder_high=high)


# ── figure 3 ──────────────────────────────────────────────────────────────────────────────────


def test_every_order_of_a_source_is_a_line_that_ends_where_all_are_replaced():
    axes = plots.panels(1)[1][0]
    paper_plots.by_fraction(axes, verdict(), sources=[RAW], described=4, title="t")
    drawn = lines_of(axes)
    top, random = (drawn[f"{plots.label(RAW)}, {paper_plots.NAMED[o]}"] for o in ("top", "random"))
    assert np.asarray(top.get_xdata()).tolist() == [0.25, 1.0]
    assert np.asarray(top.get_ydata()).tolist() == [0.3, 2.0]
    assert np.asarray(random.get_ydata()).tolist() == [0.4, 2.0]
    assert top.get_linestyle() != random.get_linestyle() and top.get_color() == random.get_color()
    assert not [name for name in drawn if "useful" in name]
    paper = drawn["paper: all latents at zero"]
    assert paper.get_linestyle() == "--" and set(paper.get_ydata()) == {0.29}


def test_where_all_latents_are_one_arm_there_is_one_line():
    table = verdict()
    axes = plots.panels(1)[1][0]
    whole = table[table["order"] == "all"]
    paper_plots.by_fraction(axes, whole, sources=[RAW], described=4, title="t")
    assert [name for name in lines_of(axes) if name.startswith(plots.label(RAW))] == [
        plots.label(RAW)
    ]


def test_the_papers_curve_is_dashed_and_named():
    axes = plots.panels(1)[1][0]
    paper_plots.by_fraction(
        axes, verdict(), sources=[RAW], described=4, title="t", paper=PAPER_UNNORMALISED
    )
    paper = lines_of(axes)["paper"]
    assert paper.get_linestyle() == "--" and paper.get_linewidth() < 1
    assert dict(zip(paper.get_xdata(), paper.get_ydata(), strict=True)) == PAPER_UNNORMALISED
    assert PAPER_UNNORMALISED[1.0] == pytest.approx(3.4 - 0.026, abs=0.005)


# ── figure 4 ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("n", "bins"), [(1, 1), (6, 1), (15, 1), (16, 2), (33, 4), (500, 10)])
def test_bins_adapt_to_the_number_of_latents(n, bins):
    score = np.linspace(0, 1, n)
    found = np.split(score, edges(score, most=10))
    assert len(found) == bins and min(map(len, found)) >= min(LEAST, n)


def test_equal_scores_stay_in_one_bin():
    score = np.array([0.0] * 13 + [0.5] * 11)
    assert [len(part) for part in np.split(score, edges(score, most=10))] == [13, 11]
    assert len(edges(np.zeros(40), most=10)) == 0
    assert len(edges(np.array([0.0] * 13 + [0.5] * 3), most=10)) == 0  # three are too few


def test_a_bin_is_the_mean_of_its_latents_with_an_interval_over_them():
    score = np.repeat([0.2, 0.8], 10)
    rate = np.concatenate([np.linspace(0, 0.4, 10), np.full(10, 0.9)])
    shuffled = np.random.default_rng(0).permutation(20)
    table = binned(score[shuffled], rate[shuffled], seed=0)
    assert table["latents"].tolist() == [10, 10]
    np.testing.assert_allclose(table[["score", "value"]], [[0.2, 0.2], [0.8, 0.9]])
    assert table["low"][0] < 0.2 < table["high"][0] and table["low"][1] == table["high"][1] == 0.9


def rates(n: int) -> pd.DataFrame:
    score = np.linspace(0, 1, n)
    table = pd.DataFrame({"site": "a", "source": "raw", "latent": np.arange(n), "score": score})
    return table.assign(specificity=score**2, sensitivity=np.where(score > 0.5, score, np.nan))


def test_any_score_can_be_the_axis_and_silent_latents_are_left_out_of_sensitivity():
    axes = plots.panels(2)[1]
    drawn = paper_plots.against_score(axes, rates(40), named="fuzzing F1", title="t", seed=0)
    assert [axis.get_xlabel() for axis in axes] == ["fuzzing F1"] * 2
    assert set(drawn["score_of"]) == {"fuzzing F1"}
    assert drawn[drawn["rate"] == "specificity"]["latents"].sum() == 40
    assert drawn[drawn["rate"] == "sensitivity"]["latents"].sum() == 20
    paper = lines_of(axes[0])["paper: specificity before ≈ 80 %"]
    assert paper.get_linestyle() == "--" and set(paper.get_ydata()) == {0.8}


def test_rates_are_not_said_to_be_of_the_k_largest():
    """Figure 4 once showed a specificity of .09 as that of "raw ratings, top k", 2 of 32."""
    axes = plots.panels(2)[1]
    table = rates(40).assign(source="raw+topk")
    drawn = paper_plots.against_score(axes, table, named="F1", title="t", seed=0)
    assert set(drawn["source"]) == {"raw"}
    assert "sentences, raw ratings" in lines_of(axes[0])
    assert not any("top k" in name for name in lines_of(axes[0]))


def test_too_few_latents_for_bins_are_said_to_be():
    axes = plots.panels(2)[1]
    drawn = paper_plots.against_score(axes, rates(6), named="F1", title="late", seed=0)
    assert "6 latents, too few for bins" in axes[0].get_title()
    specific = drawn[drawn["rate"] == "specificity"]
    assert len(specific) == 1
    assert specific["value"].item() == pytest.approx(rates(6)["specificity"].mean())
    paper_plots.against_score(axes, rates(40), named="F1", title="early", seed=0)
    assert "too few" not in axes[0].get_title()


def test_a_score_of_any_table_is_joined_by_site_and_latent(world):
    found = report.sensitivity_specificity(world.sites)
    scores = {name: pd.Series({site.simulated[0]: 0.25}) for name, site in world.sites.items()}
    joined = report.scored(found, scores)
    first = {name: site.simulated[0] for name, site in world.sites.items()}
    mine = joined["latent"] == joined["site"].map(first)
    assert set(joined["score"][mine]) == {0.25} and joined["score"][~mine].isna().all()
    [(named, detection)] = report.score_tables(world.sites).items()
    assert named == "detection F1"
    assert report.scored(found, detection)["score"].equals(found["f1"])


def test_fuzzing_is_a_second_score_where_the_run_asks_for_it(world):
    """The score decides where a latent stands, the rates stay."""
    sites = open_sites(world.again(score__fuzzing=3))
    tables = report.score_tables(sites)
    assert list(tables) == ["detection F1", "fuzzing F1"]
    for name, site in sites.items():
        expected = site.scores_of("fuzzing").set_index("latent")["f1"]
        assert tables["fuzzing F1"][name].equals(expected)


# ── v2's bars ─────────────────────────────────────────────────────────────────────────────────


def test_bars_are_v2s_statistic_of_every_whole_rewrite(world):
    for site in world.sites.values():
        table = report.bars(site)
        assert table["source"].tolist()[:3] == ["coder", "zero", "mean"]
        assert set(table["source"]) == {"coder", *site.estimates}
        rows = site.losses[(site.losses["source"] == "coder") & (site.losses["window"] < 5)]
        kept = rows[rows["base_loss"] >= 0.1]
        delta = kept["loss"] - kept["base_loss"]
        assert table["v2_mean"][0] == pytest.approx(delta.mean(), abs=1e-5)
        assert table["v2_se"][0] == pytest.approx(delta.sem(), abs=1e-5)
        share = PAPER_COST[site.hookpoint.kind]
        assert report.paper_cost(site) == pytest.approx(share * kept["base_loss"].mean(), abs=1e-5)
        assert share == (0.1 if site.name == "mlp" else 0.33)


def test_bars_are_drawn_from_the_top_with_the_papers_coder_dashed():
    axes = plots.panels(1)[1][0]
    arms = pd.DataFrame({"source": ["coder", RAW], "v2_mean": [0.3, 2.0], "v2_se": [0.1, 0.2]})
    paper_plots.bars(axes, arms, paper=0.32, title="t")
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == [plots.label(RAW), plots.label("coder")]
    assert [bar.get_width() for bar in axes.containers[1]] == [2.0, 0.3]
    ends = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()]
    assert ends == [pytest.approx([1.8, 2.2]), pytest.approx([0.2, 0.4])]
    dashed = lines_of(axes)["paper: the coder, same share of the base loss"]
    assert set(dashed.get_xdata()) == {0.32} and dashed.get_linestyle() == "--"


# ── where they are ────────────────────────────────────────────────────────────────────────────


def test_the_figures_of_a_run_are_kept_with_their_data_and_found_by_the_map(world):
    before = report.figures(world.run).set_index("paper")["our file"]
    assert before["v1 A3 (inferred)"] == "not in this run (07_unnormalised.png)"
    paper = PAPER_UNNORMALISED
    report.paper_fractions(world.run, "07_unnormalised", world.sites, sources=[RAW], paper=paper)
    found = report.sensitivity_specificity(world.sites)
    for score, by_site in report.score_tables(world.sites).items():
        assert score == "detection F1"
        report.against_score(world.run, report.scored(found, by_site), "fuzzing F1")
    after = report.figures(world.run).set_index("paper")["our file"]
    assert after["v1 A3 (inferred)"] == "07_unnormalised.png"
    assert after["v1 A4 (inferred), v2"] == "08_fuzzing.png"
    folder = world.run.folder / world.run.params.figures
    assert set(pd.read_csv(folder / "07_unnormalised.csv")["source"]) == {
        "coder",
        "zero",
        "mean",
        RAW,
    }
    assert set(pd.read_csv(folder / "08_fuzzing.csv")["rate"]) == {"specificity", "sensitivity"}


def test_without_a_source_there_is_no_figure(world, tmp_path):
    report.paper_fractions(world.run, "99_none", world.sites, sources=[])
    assert not (world.run.folder / world.run.params.figures / "99_none.png").exists()


def test_every_figure_of_the_paper_is_named_once():
    assert len({drawn.paper for drawn in DRAWN}) == len(DRAWN)
    told = " ".join(drawn.paper for drawn in DRAWN)
    assert all(f"v1 {number}" in told for number in ("1", "2", "3", "4", "A1", "A2"))

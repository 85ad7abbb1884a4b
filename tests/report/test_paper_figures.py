"""The paper's figures: drawn is what is in the table, the paper's value is a dashed line."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from report_cases import rates_of

from rewrite_utils.report import curves, figures, forests, paper, spreads, verdicts
from rewrite_utils.report.curves import PAPER_UNNORMALISED
from rewrite_utils.report.paper import DRAWN
from rewrite_utils.report.spreads import LEAST, binned, edges
from rewrite_utils.report.verdicts import PAPER_COST
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
    axes = figures.panels(1)[1][0]
    curves.fractions(axes, verdict(), sources=[RAW], described=4, title="t")
    drawn = lines_of(axes)
    top, random = (drawn[f"{figures.label(RAW)}, {curves.ORDERS[o][0]}"] for o in ("top", "random"))
    assert np.asarray(top.get_xdata()).tolist() == [0.25, 1.0]
    assert np.asarray(top.get_ydata()).tolist() == [0.3, 2.0]
    assert np.asarray(random.get_ydata()).tolist() == [0.4, 2.0]
    assert top.get_linestyle() != random.get_linestyle() and top.get_color() == random.get_color()
    assert not [name for name in drawn if "useful" in name]
    paper = drawn["paper: all latents at zero"]
    assert paper.get_linestyle() == "--" and set(paper.get_ydata()) == {0.29}


def test_where_all_latents_are_one_arm_there_is_one_line():
    table = verdict()
    axes = figures.panels(1)[1][0]
    whole = table[table["order"] == "all"]
    curves.fractions(axes, whole, sources=[RAW], described=4, title="t")
    assert [name for name in lines_of(axes) if name.startswith(figures.label(RAW))] == [
        figures.label(RAW)
    ]


def test_the_papers_curve_is_dashed_and_named():
    axes = figures.panels(1)[1][0]
    curves.fractions(
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
    assert (
        table["low"][0] < 0.2 < table["high"][0] and table["low"][1:].isna().all()
    )  # all the same: no interval


def rates(n: int) -> pd.DataFrame:
    score = np.linspace(0, 1, n)
    table = pd.DataFrame({"site": "a", "source": "raw", "latent": np.arange(n), "score": score})
    return table.assign(specificity=score**2, sensitivity=np.where(score > 0.5, score, np.nan))


def test_any_score_can_be_the_axis_and_silent_latents_are_left_out_of_sensitivity():
    axes = figures.panels(2)[1]
    drawn = spreads.against_score(axes, rates(40), named="fuzzing F1", title="t", seed=0)
    assert [axis.get_xlabel() for axis in axes] == ["fuzzing F1"] * 2
    assert set(drawn["score_of"]) == {"fuzzing F1"}
    assert drawn[drawn["rate"] == "specificity"]["latents"].sum() == 40
    assert drawn[drawn["rate"] == "sensitivity"]["latents"].sum() == 20
    paper = lines_of(axes[0])["paper: specificity before ≈ 80 %"]
    assert paper.get_linestyle() == "--" and set(paper.get_ydata()) == {0.8}


def test_rates_are_not_said_to_be_of_the_k_largest():
    """Figure 4 once showed a specificity of .09 as that of "raw ratings, top k", 2 of 32."""
    axes = figures.panels(2)[1]
    table = rates(40).assign(source="raw+topk")
    drawn = spreads.against_score(axes, table, named="F1", title="t", seed=0)
    assert set(drawn["source"]) == {"raw"}
    assert "sentences, raw ratings" in lines_of(axes[0])
    assert not any("top k" in name for name in lines_of(axes[0]))


def test_too_few_latents_for_bins_are_said_to_be():
    axes = figures.panels(2)[1]
    drawn = spreads.against_score(axes, rates(6), named="F1", title="late", seed=0)
    assert "6 latents, too few for bins" in axes[0].get_title()
    specific = drawn[drawn["rate"] == "specificity"]
    assert len(specific) == 1
    assert specific["value"].item() == pytest.approx(rates(6)["specificity"].mean())
    spreads.against_score(axes, rates(40), named="F1", title="early", seed=0)
    assert "too few" not in axes[0].get_title()


def test_fuzzing_is_a_second_score_where_the_run_asks_for_it(world):
    """The score decides where a latent stands, the rates stay."""
    assert set(paper.SCORE_FILES) == {"detection", "fuzzing"}
    for name, site in open_sites(world.again(score__fuzzing=3)).items():
        assert set(paper.SCORE_FILES) <= set(site.score_kinds)
        assert "fuzzing" not in world.sites[name].score_kinds
        rates = rates_of(site)
        found = rates["latent"].map(site.scores_of("detection").set_index("latent")["f1"])
        assert rates["f1"].equals(found.rename("f1"))


# ── v2's bars ─────────────────────────────────────────────────────────────────────────────────


def test_bars_are_v2s_statistic_of_every_whole_rewrite(world):
    for site in world.sites.values():
        table = verdicts.bars(site.verdict, list(site.estimates))
        assert table["source"].tolist()[:3] == ["coder", "zero", "mean"]
        assert set(table["source"]) == {"coder", *site.estimates}
        rows = site.losses[(site.losses["source"] == "coder") & (site.losses["window"] < 5)]
        kept = rows[rows["base_loss"] >= 0.1]
        delta = kept["loss"] - kept["base_loss"]
        assert table["v2_mean"][0] == pytest.approx(delta.mean(), abs=1e-5)
        assert table["v2_se"][0] == pytest.approx(delta.sem(), abs=1e-5)
        share = PAPER_COST[site.hookpoint.kind]
        found = verdicts.paper_cost(rows, site.hookpoint.kind)
        assert found == pytest.approx(share * kept["base_loss"].mean(), abs=1e-5)
        assert share == (0.1 if site.name == "mlp" else 0.33)


def test_bars_are_drawn_from_the_top_with_the_papers_coder_dashed():
    axes = figures.panels(1)[1][0]
    arms = pd.DataFrame({"source": ["coder", RAW], "v2_mean": [0.3, 2.0], "v2_se": [0.1, 0.2]})
    forests.bars(axes, arms, paper=0.32, title="t")
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == [figures.label(RAW), figures.label("coder")]
    assert [bar.get_width() for bar in axes.containers[1]] == [2.0, 0.3]
    ends = [segment[:, 0].tolist() for segment in axes.collections[0].get_segments()]
    assert ends == [pytest.approx([1.8, 2.2]), pytest.approx([0.2, 0.4])]
    dashed = lines_of(axes)["paper: the coder, same share of the base loss"]
    assert set(dashed.get_xdata()) == {0.32} and dashed.get_linestyle() == "--"


# ── where they are ────────────────────────────────────────────────────────────────────────────


def test_the_figures_of_a_run_are_found_by_the_map(world):
    made = figures.Provenance.of(world.run.params, world.run.opened)
    before = paper.figures(made.folder).set_index("paper")["our file"]
    assert before["v1 A3 (inferred)"] == "not in this run (07_unnormalised.png)"
    for name in ("07_unnormalised", paper.SCORE_FILES["fuzzing"]):
        figures.keep(made, name, figures.panels(1)[0], verdict(), unit="window", n=5)
    after = paper.figures(made.folder).set_index("paper")["our file"]
    assert after["v1 A3 (inferred)"] == "07_unnormalised.png"
    assert after["v1 A4 (inferred), v2"] == "08_fuzzing.png"


def test_every_figure_of_the_paper_is_named_once():
    assert len({drawn.paper for drawn in DRAWN}) == len(DRAWN)
    told = " ".join(drawn.paper for drawn in DRAWN)
    assert all(f"v1 {number}" in told for number in ("1", "2", "3", "4", "A1", "A2"))

"""Figures about calibration: what is drawn is what is in the table, with n and unit on it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from rewrite_utils.report import curves, figures, forests, spreads
from rewrite_utils.stats import Estimate

pytestmark = pytest.mark.usefixtures("drawing")


@pytest.fixture
def axes() -> plt.Axes:
    return figures.panels(1)[1][0]


def legend_of(axes: plt.Axes) -> str:
    return " | ".join(text.get_text() for text in axes.get_legend().get_texts())


def ablations() -> list[dict]:
    """What every study's table begins with."""
    zero = {"source": "zero", "minus_mean": 0.3, "over_coder": 1.3}
    return [zero, {"source": "mean", "minus_mean": 0.0, "over_coder": 1.0}]


def test_survival_is_the_share_at_or_above_an_activation(axes):
    true = np.array([[0.0, 2.0], [0.0, 3.0]])
    data = spreads.survival(axes, {"true": true, "raw": true + 1}, title="t")
    rows = data[data["source"] == "true"]
    assert rows["activation"].tolist() == [2.0, 3.0] and rows["share"].tolist() == [0.5, 0.25]
    assert data[data["source"] == "raw"]["share"].max() == 1.0
    assert "true (50% above 0)" in legend_of(axes)


def test_before_stands_left_and_all_others_right():
    _, [left, right] = figures.panels(2)
    values = np.array([[0.0, 2.0], [1.0, 3.0]])
    shown = {"true": values, "raw+topk": values, "quantile:type8": values}
    data = spreads.before_after((left, right), shown, before="raw+topk", title="early")
    assert set(data["source"]) == {"true", "raw", "quantile:type8"} and len(data) == 3 * 3
    assert len(left.lines) == len(right.lines) == 2
    assert left.get_title() == "early: before" and right.get_title() == "early: after"


def test_estimates_are_not_said_to_be_cut_to_the_k_largest(axes):
    """The k largest are kept in the splice; what is drawn here is read before that."""
    shown = dict.fromkeys(("raw+topk", "same_windows+quantile:type7+topk"), np.ones((2, 2)))
    data = spreads.survival(axes, shown, title="t")
    assert set(data["source"]) == {"raw", "same_windows+quantile:type7"}
    assert "top k" not in legend_of(axes) and "rated windows (v2)" in legend_of(axes)
    assert axes.lines[0].get_color() == figures.colour("raw+topk")


def test_the_condition_marks_every_latent_and_says_on_how_many_windows(axes):
    latents = pd.DataFrame(
        {
            "what": ["simulator"] * 3 + ["oracle of AUROC 0.7"] * 2,
            "rho": [0.1, 0.6, 0.2, 0.4, 0.9],
            "loss": [2.0, 0.7, 55.0, 1.1, 0.2],
            "windows": [32] * 3 + [2000] * 2,
        }
    )
    spreads.condition(axes, latents, title="early")
    drawn = [len(points.get_offsets()) for points in axes.collections]
    assert drawn == [3, 2]
    assert "simulator (3 latents, 32 windows)" in legend_of(axes)
    assert axes.get_xlim() == (-0.35, 1)


def test_the_condition_hides_no_latent(axes):
    """One lay left of the axis; one without ρ has no place, and is counted."""
    latents = pd.DataFrame(
        {"what": "simulator", "rho": [-0.49, 0.6, np.nan], "loss": [2.0, 0.7, 1.1], "windows": 32}
    )
    spreads.condition(axes, latents, title="late")
    assert axes.get_xlim()[0] < -0.49
    assert "simulator (2 of 3 latents, 32 windows)" in legend_of(axes)
    spreads.condition(axes, latents.tail(1), title="late")
    assert axes.get_xlim()[0] == -0.35 and "simulator (0 of 1 latents" in legend_of(axes)


def test_the_forest_has_a_mark_for_every_place_of_every_calibration(axes):
    places = ["evaluate", "evaluate, top k", "calibrate, held out", "calibrate, in-sample"]
    rows = [
        {"source": source, "where": where, "windows": 9, "difference": 0.1,
         "difference_low": -0.1, "difference_high": 0.4}
        for source in ("raw", "isotonic") for where in places
    ]  # fmt: skip
    forests.losses(axes, pd.DataFrame(rows), title="early")
    points = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert len(points) == 2 * 3  # in-sample is in the table alone
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["isotonic a latent", "raw: rating / 9 × maximum"]
    assert "n = 9 windows" in legend_of(axes)


def test_estimators_are_means_over_draws_and_say_that_it_is_an_oracle():
    _, pair = figures.panels(2)
    common = {"auroc": 0.7, "latents": 6}
    rows = [
        {"draw": draw, "n": n, "type": 7.0, "target": target, "wasserstein": 1.0 / n + draw,
         "spurious": 0.1, "firings": 0.05 * n} | common
        for draw in (0, 1) for n in (10, 100) for target in ("all tokens", "same windows")
    ]  # fmt: skip
    rows.append({"draw": 0, "n": 0, "target": "true quantiles", "wasserstein": 0.01} | common)
    curves.estimators(pair, pd.DataFrame(rows), title="early")
    [line] = [line for line in pair[0].lines if line.get_label() == "type 7"]
    np.testing.assert_allclose(line.get_ydata(), [0.6, 0.51])
    assert "oracle of AUROC 0.7, 6 latents, mean of 2 draws" in pair[1].get_title()
    assert "fires in 5.0% of them" in pair[0].get_xlabel()


def interval(value: float) -> dict[str, float]:
    return {"minus_mean": value, "minus_mean_low": value - 1, "minus_mean_high": value + 1}


def test_the_oracle_is_named_and_few_windows_are_hollow(axes):
    told = [
        {"source": "o", "auroc": auroc, "n": n, "calibrator": name, **interval(-auroc)}
        for auroc in (0.7, 0.9) for n in (10.0, 1000.0) for name in ("quantile:type8", "isotonic")
    ]  # fmt: skip
    forests.oracle(axes, pd.DataFrame(ablations() + told), title="early")
    points = [line for line in axes.lines if len(line.get_xdata()) == 1]
    hollow = [line for line in points if line.get_markerfacecolor() == "white"]
    assert len(points) == 8 and len(hollow) == 4
    assert "not the simulator" in axes.get_xlabel()
    handles = " | ".join(axes.get_legend_handles_labels()[1])
    assert "hollow: 10 windows, filled: 1,000" in handles and "sentences" not in handles


def test_few_and_all_windows_of_the_simulator_stand_together(axes):
    told = [
        {"source": "f", "n": n, "calibrator": name, **interval(0.2)}
        for n in (6.0, 24.0) for name in ("quantile:type8", "isotonic")
    ]  # fmt: skip
    forests.fewer(axes, pd.DataFrame(ablations() + told), title="early")
    assert "hollow: 6 windows, filled: 24" in axes.get_xlabel()
    assert len([line for line in axes.lines if len(line.get_xdata()) == 1]) == 4


def test_the_specificity_study_marks_break_even_and_the_papers_levels(axes):
    told = [
        {"source": "s", "specificity": level, "topk": topk, "alarms": 15 * (1 - level),
         **interval(1 - 2 * level)}
        for level in (0.0, 0.9, 0.99) for topk in (False, True)
    ]  # fmt: skip
    even = {False: Estimate(2.0, 1.0, 4.0, 120, "window"), True: Estimate(np.inf, 1, np.inf, 9, "")}
    curves.specificity(axes, pd.DataFrame(ablations() + told), even, title="early")
    notes = {text.get_text() for text in axes.texts}
    assert notes == {"paper at 99 %", "paper at 99.9 %"}
    upright = {line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]}
    assert upright == {2.0, 10.23, 1.023}


def test_the_factor_is_drawn_in_its_order(axes):
    told = [
        {"source": "f", "factor": factor, "calibrator": "isotonic", **interval(factor)}
        for factor in (1.0, 0.0, 0.5)
    ]
    curves.shrink(axes, pd.DataFrame(ablations() + told), title="early")
    [line] = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert list(line.get_xdata()) == [0.0, 0.5, 1.0]


def test_what_screening_costs_the_model_is_drawn_by_share(axes):
    told = [
        {"source": "s", "share": share, "screen": screen, **interval(-share)}
        for share in (0.1, 0.5, 1.0) for screen in ("lexical", "both")
    ]  # fmt: skip
    arms = pd.DataFrame(ablations() + told)
    curves.screening(axes, arms, value="minus_mean", ylabel=curves.COST, title="early")
    lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert [list(line.get_ydata()) for line in lines] == [[-0.1, -0.5, -1.0]] * 2
    axes.figure.canvas.draw()
    assert "10%" in {label.get_text() for label in axes.get_xticklabels()}

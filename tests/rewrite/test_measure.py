"""The verdict on numbers small enough to check by hand; the statistics of the paper's versions."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from rewrite_utils.rewrite.measure import losses_of, v2_mean, verdict

BASE = [1.0, 2.0, 3.0, 4.0]
LOSSES = {
    ("coder", 0, "all"): [1.1, 2.1, 3.1, 4.5],
    ("output zero", 0, "all"): [2.0, 2.0, 5.0, 9.0],
    ("zero", 2, "all"): [2.0, 3.5, 3.0, 6.0],
    ("mean", 2, "all"): [1.5, 2.5, 3.9, 5.5],
    ("zero", 1, "top"): [1.7, 2.2, 3.0, 5.0],
    ("mean", 1, "top"): [1.3, 2.4, 3.2, 5.0],
    ("told", 2, "all"): [1.4, 2.2, 3.6],
    ("told", 1, "top"): [1.2, 2.1, 3.6],
}


def rows_of(arm: tuple[str, int, str], losses: list[float], windows: list[int]) -> pd.DataFrame:
    source, count, order = arm
    loss = np.array(losses)
    base = np.array(BASE)[windows]
    columns = {"window": windows, "source": source, "count": count, "order": order}
    more = {"base_loss": base, "loss": loss, "kl": loss / 10, "squared_error": loss * 2}
    return pd.DataFrame(columns | more)


@pytest.fixture
def table() -> pd.DataFrame:
    parts = [rows_of(arm, losses, list(range(len(losses)))) for arm, losses in LOSSES.items()]
    return pd.concat(parts, ignore_index=True).sample(frac=1, random_state=0)  # order is not given


def row_of(table: pd.DataFrame, source: str, count: int, order: str) -> pd.Series:
    found = verdict(table, variance=8.0, seed=1, resamples=300)
    [row] = [row for _, row in found.iterrows() if tuple(row[:3]) == (source, count, order)]
    return row


def test_losses_are_ordered_by_window(table):
    assert losses_of(table, "mean", 2).tolist() == LOSSES["mean", 2, "all"]
    assert losses_of(table, "coder", column="base_loss").tolist() == BASE


@pytest.mark.parametrize("arm", [("told", 3, "all"), ("tolled", 2, "all"), ("told", 1, "random")])
def test_an_arm_that_was_not_measured_is_an_error_that_names_the_sources(table, arm):
    with pytest.raises(KeyError, match="sources: coder, mean, output zero, told, zero"):
        losses_of(table, *arm)


def test_there_is_one_row_an_arm(table):
    found = verdict(table, variance=8.0, seed=1, resamples=300)
    assert {tuple(row) for row in found[["source", "count", "order"]].to_numpy()} == set(LOSSES)
    assert found["windows"].tolist() == [
        len(LOSSES[tuple(arm)]) for arm in found.iloc[:, :3].to_numpy()
    ]


def test_delta_is_the_mean_increase_over_the_untouched_model(table):
    coder = row_of(table, "coder", 0, "all")
    assert coder["delta"] == pytest.approx((0.1 + 0.1 + 0.1 + 0.5) / 4)
    assert coder["delta_low"] < coder["delta"] < coder["delta_high"]
    assert coder["kl"] == pytest.approx(np.mean(LOSSES["coder", 0, "all"]) / 10)
    assert coder["fvu"] == pytest.approx(np.mean(LOSSES["coder", 0, "all"]) * 2 / 8)
    for name in ("kl", "fvu"):
        assert coder[f"{name}_low"] < coder[name] < coder[f"{name}_high"]


def test_fewer_windows_are_compared_on_just_those(table):
    told = row_of(table, "told", 2, "all")
    assert told["windows"] == 3
    assert told["delta"] == pytest.approx((0.4 + 0.2 + 0.6) / 3)
    assert told["minus_mean"] == pytest.approx((-0.1 - 0.3 - 0.3) / 3)
    assert told["minus_zero"] == pytest.approx((-0.6 - 1.3 + 0.6) / 3)
    half = t.ppf(0.975, 2) * np.std([-0.1, -0.3, -0.3], ddof=1) / 3**0.5  # three windows: t
    assert told["minus_mean_high"] == pytest.approx(told["minus_mean"] + half)
    # ablated − arm: 0.1 0.3 0.3; ablated − coder: 0.4 0.4 0.8
    assert told["recovered"] == pytest.approx(0.7 / 1.6)
    assert told["detectable"] == pytest.approx(2.8 * np.std([-0.1, -0.3, -0.3], ddof=1) / 3**0.5)


def test_an_arm_is_compared_with_the_ablation_of_its_own_latents(table):
    told = row_of(table, "told", 1, "top")
    assert told["minus_mean"] == pytest.approx((-0.1 - 0.3 + 0.4) / 3)
    assert told["minus_zero"] == pytest.approx((-0.5 - 0.1 + 0.6) / 3)


def test_windows_are_paired_by_their_number_not_by_their_place(table):
    others = table[(table["source"] != "told") | (table["window"] > 0)]
    told = row_of(others, "told", 2, "all")
    assert told["windows"] == 2
    assert told["minus_mean"] == pytest.approx((-0.3 - 0.3) / 2)
    assert told["recovered"] == pytest.approx(0.6 / 1.2)


def test_every_arm_is_compared_with_the_coder_at_its_own_windows(table):
    told = row_of(table, "told", 2, "all")
    assert told["over_coder"] == pytest.approx((0.3 + 0.1 + 0.5) / 3)
    assert row_of(table, "coder", 0, "all")["over_coder"] == 0
    assert row_of(table, "output zero", 0, "all")["over_coder"] == pytest.approx(
        (0.9 - 0.1 + 1.9 + 4.5) / 4
    )


def test_mean_ablation_differs_from_itself_by_nothing_and_recovers_nothing(table):
    mean = row_of(table, "mean", 2, "all")
    told = row_of(table, "told", 2, "all")
    assert (mean["method"], told["method"]) == ("constant", "Student's t")
    assert mean["minus_mean"] == mean["recovered"] == 0
    assert mean[["minus_mean_low", "minus_mean_high", "recovered_high"]].isna().all()
    assert mean["minus_zero"] == pytest.approx((-0.5 - 1.0 + 0.9 - 0.5) / 4)


def test_windows_of_one_row_of_text_are_resampled_together():
    """A row counts once, whatever its windows: twice the same windows tell nothing more."""
    parts = [rows_of(arm, losses, list(range(len(losses)))) for arm, losses in LOSSES.items()]
    once = pd.concat(parts)
    twice = pd.concat([once, once.assign(window=once["window"] + 4)])
    options = {"variance": 8.0, "seed": 1, "resamples": 300}
    rows = np.array([10, 20, 30, 40] * 2)
    found, alone = verdict(twice, units=rows, **options), verdict(once, **options)
    assert found["rows"].tolist() == alone["windows"].tolist()
    assert found["windows"].tolist() == (2 * alone["windows"]).tolist()
    same = [column for column in alone if column not in ("windows", "v2_se", "v2_windows")]
    pd.testing.assert_frame_equal(found[same], alone[same])
    apart = verdict(twice, **options)
    assert "rows" not in apart
    seen = alone["detectable"] > 0
    assert (apart["detectable"] < alone["detectable"])[seen].all()


def test_a_loss_that_is_no_number_is_an_error_that_names_the_window(table):
    broken = table.copy()
    broken.loc[(broken["source"] == "told") & (broken["window"] == 1), "loss"] = np.nan
    for table, name in ((broken, 1), (broken[broken["window"] > 0], 1)):
        with pytest.raises(ValueError, match=f"window {name} is nan"):
            verdict(table, variance=8.0, seed=1, resamples=50)
    with pytest.raises(ValueError, match="row 7 is nan"):
        verdict(broken, variance=8.0, seed=1, resamples=50, units=np.array([9, 7, 9, 9]))


def test_whole_outputs_have_no_ablation_of_the_same_latents(table):
    assert np.isnan(row_of(table, "output zero", 0, "all")["minus_mean"])


def v1_of(delta):
    """v1's column of an arm whose losses differ from the base by so much."""
    zero, size = np.zeros(len(delta)), len(delta)
    arm = {"window": range(size), "source": "coder", "count": 0, "order": "all", "kl": zero}
    table = pd.DataFrame(arm | {"base_loss": 9.0, "loss": 9 + delta, "squared_error": zero})
    return verdict(table, variance=1.0, seed=0).iloc[0]


def test_v1_takes_the_median_of_absolute_differences():
    row = v1_of(np.array([-1.0, 0.1, 0.2, -0.3, 5.0]))
    assert row["v1_median"] == pytest.approx(0.3)
    assert 0.1 - 1e-9 <= row["v1_median_low"] <= 0.3 + 1e-9 and row["v1_median_high"] >= 0.3 - 1e-9


def test_v1_is_biased_upward_where_ours_is_not():
    delta = np.random.default_rng(0).normal(size=2000)
    assert v1_of(delta)["v1_median"] > 0.6 and abs(np.median(delta)) < 0.06


def test_v2_leaves_out_windows_that_the_model_already_finds_easy():
    delta, base = np.array([1.0, 3.0, 100.0, 5.0]), np.array([0.1, 2.0, 0.0999, 1.0])
    mean, error = v2_mean(delta, base)
    assert mean == 3.0 and error == pytest.approx(2 / 3**0.5)


def test_v2_says_nan_where_fewer_than_two_windows_are_left():
    assert np.isnan(v2_mean(np.array([1.0, 2.0]), np.array([0.0, 5.0]))).all()

"""Arms: which latents each substitutes, and their losses against one spliced row a window."""

import numpy as np
import pandas as pd
import pytest
import torch
from splice_cases import WIDTH, K, logits_of

from rewrite_utils.latents.cache import Windows
from rewrite_utils.rewrite.arms import ALL, TOPK, Arm, Estimate, masks, plan_arms
from rewrite_utils.rewrite.splicer import Splicer
from rewrite_utils.subject.splice import GivenOutput, hooked

BOTH = ("top", "random")
DESCRIBED = np.array([3, 7, 8, 19, 30, 39])
WINDOWS = Windows(np.array([2, 0, 3, 2, 1]), np.array([4, 10, 1, 7, 6]))  # row 2 is used twice
RANKINGS = {"top": np.array([0.1, 0.9, np.nan, 0.5, 0.9, 0.2])}
FRACTIONS = (0.01, 0.5, 1.0)


def estimate_of(values: np.ndarray, orders: tuple[str, ...] = BOTH) -> Estimate:
    return Estimate(values.astype(np.float32), orders)


def nothing(described: int, orders: tuple[str, ...] = BOTH) -> Estimate:
    return estimate_of(np.zeros((1, described)), orders)


# ── which latents ─────────────────────────────────────────────────────────────────────────────


def test_fractions_that_round_up_to_one_count_are_one_arm():
    arms = plan_arms({"a": nothing(10), "b": nothing(10, ("top",))}, (0.001, 0.1, 0.45, 1.0), 10)
    assert arms == [
        Arm("a", 1, "top"),
        Arm("a", 1, "random"),
        Arm("a", 5, "top"),
        Arm("a", 5, "random"),
        Arm("a", 10, ALL),
        Arm("b", 1, "top"),
        Arm("b", 5, "top"),
        Arm("b", 10, ALL),
    ]


def test_a_fraction_of_nothing_is_no_arm_and_rounding_errors_add_no_latent():
    assert plan_arms({"a": nothing(7)}, (0.0,), 7) == []
    tenths = [place / 10 for place in range(1, 11)]
    arms = plan_arms({"a": nothing(30, ("top",))}, tenths, 30)
    assert [arm.count for arm in arms] == list(range(3, 31, 3))  # 0.1 · 3 · 10 is above 3


def drawn(n_windows: int, seed: int = 4) -> dict:
    estimates = {"a": nothing(6), "b": nothing(6)}
    arms = plan_arms(estimates, (0.3, 0.5, 1.0), 6)
    return masks(arms, RANKINGS, 6, n_windows=n_windows, seed=seed)


def test_one_mask_serves_all_sources():
    assert set(drawn(9)) == {(2, "top"), (2, "random"), (3, "top"), (3, "random"), (6, ALL)}


def test_masks_have_their_count_in_every_window():
    for (count, _), mask in drawn(9).items():
        assert mask.shape == (9, 6) and mask.sum(1).tolist() == [count] * 9


def test_random_latents_are_drawn_anew_for_each_window_and_from_the_seed():
    mask = drawn(200)[2, "random"]
    assert len(mask.unique(dim=0)) == 15  # all pairs of six come up
    assert mask.float().mean(0).sub(1 / 3).abs().max() < 0.12
    assert not torch.equal(mask, drawn(200, seed=5)[2, "random"])


def test_random_latents_of_a_larger_fraction_contain_those_of_a_smaller_one():
    found = drawn(50)
    assert (found[2, "random"] <= found[3, "random"]).all()


@pytest.mark.parametrize("described", [3, 6, 33, 700])
def test_fewer_windows_meet_the_same_latents_in_the_windows_they_share(described):
    """Sentence arms are measured on the first of the controls' windows, in a call of their own."""
    arms = plan_arms({"a": nothing(described)}, (0.4,), described)
    ranking = {"top": np.zeros(described)}
    few, many = (masks(arms, ranking, described, n_windows=n, seed=22) for n in (8, 301))
    for key, mask in few.items():
        assert torch.equal(mask, many[key][:8])
    assert len(many[arms[1].count, "random"].unique(dim=0)) > 2


def test_top_latents_follow_the_ranking_the_lower_index_first_and_nan_last():
    found = drawn(2)
    assert found[2, "top"].tolist() == [[False, True, False, False, True, False]] * 2
    assert found[3, "top"].tolist() == [[False, True, False, True, True, False]] * 2


def test_an_order_without_ranking_is_an_error():
    with pytest.raises(KeyError, match="useful"):
        masks([Arm("a", 1, "useful")], RANKINGS, 6, n_windows=2, seed=0)


# ── losses ────────────────────────────────────────────────────────────────────────────────────


def run(subject, hookpoint, coder, rows, estimates, **changed) -> pd.DataFrame:
    settings = {
        "fractions": FRACTIONS,
        "rankings": RANKINGS,
        "constants": {"output zero": torch.zeros(WIDTH)},
        "seed": 4,
        "batch": 2,
    }
    splicer = Splicer(subject, hookpoint, coder, lambda split: rows.numpy(), "test")
    return splicer.losses(WINDOWS, estimates, DESCRIBED, "all", **(settings | changed))


@torch.no_grad()
def by_hand(subject, hookpoint, coder, row, end, substituted, values, *, topk) -> tuple:
    """Loss, KL and squared error of one window, its row cut behind the patched token."""
    cut = row[None, : end + 1]
    acts = hooked(subject, cut, hookpoint)
    x, y = acts.inputs[0, -1:], acts.outputs[0, -1]
    z = coder.dense(coder.encode(x))[0]
    z[substituted] = values
    if topk:
        z[z.argsort(descending=True)[K:]] = 0
    new = coder.decode_dense(z[None], x)
    log_q = logits_of(subject, coder, hookpoint, GivenOutput(new), cut, "last")[0, -1]
    log_q, log_p = log_q.log_softmax(-1), subject.bridge(cut)[0, -1].log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum()
    target = row[end + 1]
    return -log_p[target], -log_q[target], kl, (y - new[0]).square().sum()


def estimates() -> dict[str, Estimate]:
    values = 3 * np.random.default_rng(1).random((2, 5, 6))
    return {"a": estimate_of(values[0]), "b" + TOPK: estimate_of(values[1])}


def test_every_arm_at_every_window_equals_a_spliced_row(subject, hookpoint, coder, rows):
    table = run(subject, hookpoint, coder, rows, estimates())
    arms = plan_arms(estimates(), FRACTIONS, 6)
    chosen = masks(arms, RANKINGS, 6, n_windows=5, seed=4)
    assert len(table) == 5 * (len(arms) + 2)
    indexed = table.set_index(["source", "count", "order", "window"]).sort_index()
    for arm in arms:
        for window in range(5):
            mask = chosen[arm.count, arm.order][window]
            expected = by_hand(
                subject,
                hookpoint,
                coder,
                rows[WINDOWS.rows[window]],
                WINDOWS.ends[window],
                torch.from_numpy(DESCRIBED)[mask],
                torch.from_numpy(estimates()[arm.source].values[window])[mask],
                topk=arm.source.endswith(TOPK),
            )
            columns = ["base_loss", "loss", "kl", "squared_error"]
            found = indexed.loc[(*arm, window), columns].to_numpy(np.float64)
            np.testing.assert_allclose(found, torch.stack(expected), rtol=1e-3, atol=2e-4)


def test_true_latents_in_place_of_themselves_are_the_coder(subject, hookpoint, coder, rows):
    inputs = hooked(subject, rows, hookpoint).inputs[WINDOWS.rows, WINDOWS.ends]
    true = coder.dense(coder.encode(inputs)).detach().numpy()[:, DESCRIBED]
    same = {"true": estimate_of(true), "true" + TOPK: estimate_of(true)}
    table = run(subject, hookpoint, coder, rows, same)
    coder_loss = table[table["source"] == "coder"].set_index("window")["loss"]
    arms = table[table["count"] > 0]
    np.testing.assert_allclose(arms["loss"], coder_loss[arms["window"]], atol=1e-4)


def test_with_no_latent_substituted_only_the_coder_and_the_constants_are_left(
    subject, hookpoint, coder, rows
):
    table = run(subject, hookpoint, coder, rows, estimates(), fractions=(0.0,))
    assert set(table["source"]) == {"coder", "output zero"} and len(table) == 10
    nobody = torch.zeros(0, dtype=torch.int64)
    found = table[table["source"] == "coder"].sort_values("window")["loss"]
    expected = [
        by_hand(subject, hookpoint, coder, rows[row], end, nobody, torch.zeros(0), topk=False)[1]
        for row, end in zip(*WINDOWS, strict=True)
    ]
    np.testing.assert_allclose(found, torch.stack(expected), atol=2e-4)


def test_a_constant_output_costs_what_its_splice_costs(subject, hookpoint, coder, rows):
    table = run(subject, hookpoint, coder, rows, estimates(), fractions=(0.0,))
    cut = rows[2:3, :5]  # window 0
    source = GivenOutput(torch.zeros(WIDTH))
    logits = logits_of(subject, coder, hookpoint, source, cut, "last")[0, -1]
    found = table[(table["source"] == "output zero") & (table["window"] == 0)]["loss"].item()
    assert found == pytest.approx(-logits.log_softmax(-1)[rows[2, 5]].item(), abs=2e-4)


def test_the_table_does_not_depend_on_the_batch(subject, hookpoint, coder, rows):
    one, two = (run(subject, hookpoint, coder, rows, estimates(), batch=n) for n in (2, 5))
    assert (one["window"].to_numpy() == two["window"].to_numpy()).all()
    np.testing.assert_allclose(one["loss"], two["loss"], atol=1e-4)


def test_a_latent_without_an_estimate_cannot_be_substituted(subject, hookpoint, coder, rows):
    missing = estimates()["a"].values.copy()
    missing[3, 2] = np.nan
    with pytest.raises(ValueError, match="substitute only latents that were simulated"):
        run(subject, hookpoint, coder, rows, {"a": estimate_of(missing)})

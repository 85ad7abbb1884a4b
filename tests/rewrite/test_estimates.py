"""What each source says at the evaluate windows, and that nothing was fitted there."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from latent_cases import all_windows, cache_of, drawn

from rewrite_utils.calibrate import CalibrationError, Target
from rewrite_utils.explain.floor import derangement
from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.controls import strongest_tokens, token_table
from rewrite_utils.rewrite.estimates import (
    KEPT,
    REFITTED,
    Evidence,
    shuffled,
    target_of,
    without_llm,
)
from rewrite_utils.simulate import Ratings

LATENTS = np.array([4, 1, 2])


def ratings_of(expected):
    """Ratings with all probability on the two digits beside ``expected``."""
    distance = np.abs(np.arange(10) - expected[..., None].astype(np.float64))
    digits = np.clip(1 - distance, 0, None)
    fields = (expected, digits / digits.sum(-1, keepdims=True), np.full(expected.shape, 0.9))
    return Ratings(*(field.astype(np.float16) for field in fields))


def rated(seed=0, *, windows=60):
    """(ratings, true): ratings that rise with the truth; activations up to 4, 8 and 16."""
    generator = np.random.default_rng(seed)
    share = np.where(generator.random((windows, 3)) < 0.4, generator.random((windows, 3)), 0)
    expected = np.clip(9 * share + generator.normal(0, 1, share.shape), 0, 9)
    return ratings_of(expected), (share * [4, 8, 16]).astype(np.float32)


def evidence(seed=0):
    ratings, true = rated(seed)
    return Evidence(ratings, true, Target.from_true(true))


# ── orders ────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(2, 50), st.integers(0, 999))
def test_a_derangement_leaves_no_latent_in_its_place(n, seed):
    order = derangement(n, seed)
    assert sorted(order.tolist()) == list(range(n))
    assert (order != np.arange(n)).all()
    np.testing.assert_array_equal(order, derangement(n, seed))


@pytest.mark.parametrize("n", [0, 1])
def test_mistake_one_latent_is_not_its_own_floor(n):
    with pytest.raises(ValueError, match=f"needs 2 latents .* not {n}: raise"):
        derangement(n, 0)


def test_another_seed_is_another_derangement():
    assert len({tuple(derangement(12, seed).tolist()) for seed in range(20)}) == 20


def test_shuffled_ratings_move_whole_latents():
    ratings, _ = rated()
    order = np.array([2, 0, 1])
    moved = shuffled(ratings, order)
    for field, new in zip(ratings, moved, strict=True):
        for column, source in enumerate(order):
            np.testing.assert_array_equal(new[:, column], field[:, source])


def test_shuffled_evidence_keeps_truth_and_target_in_place():
    """Another latent's sentence, calibrated to this latent's activations: the floor."""
    whole, order = evidence(), np.array([2, 0, 1])
    moved = whole.shuffled(order)
    np.testing.assert_array_equal(moved.ratings.expected, whole.ratings.expected[:, order])
    assert moved.true is whole.true and moved.target is whole.target
    other = rated(1)[0]
    found = moved.calibrated("raw", shuffled(other, order))
    top = whole.true.max(0)
    np.testing.assert_allclose(found, other.expected[:, order] / 9 * top, rtol=2e-3)


@pytest.mark.parametrize("name", ["quantile:type8", "isotonic", "prior_shift", "isotonic+topk"])
def test_floors_are_of_several_derangements_by_a_curve_of_their_own_and_by_the_real_one(name):
    whole, new = evidence(), rated(1)[0]
    found = whole.floors(name, new, draws=3, seed=5)
    numbered = {f"{kind}{n}" for kind in (REFITTED, KEPT) for n in ("", " 2", " 3")}
    assert set(found) == numbered and {v.shape for v in found.values()} == {(60, 3)}
    for draw, number in enumerate(("", " 2", " 3")):
        order = derangement(3, 5 + draw)
        refitted = whole.shuffled(order).calibrated(name, shuffled(new, order))
        np.testing.assert_array_equal(found[REFITTED + number], refitted)
        kept = whole.calibrated(name, shuffled(new, order))
        np.testing.assert_array_equal(found[KEPT + number], kept)


def test_a_refitted_floor_is_mean_ablation_and_the_real_curve_costs_more():
    """Sentences of other latents say nothing: refitted, the curve is nearly flat; the real one
    still believes them, and loses to the mean."""
    whole, (new, truth) = evidence(0), rated(1)
    many = rated(0, windows=2000)
    whole = Evidence(*many, Target.from_true(many[1]))
    found = whole.floors("isotonic_pooled", new, draws=4, seed=0)
    mean = whole.target.mean
    ablated = np.square(truth - mean).sum()
    cost = {name: np.square(truth - values).sum() / ablated for name, values in found.items()}
    for number in ("", " 2", " 3", " 4"):
        assert cost[REFITTED + number] == pytest.approx(1, abs=0.1)
        assert cost[KEPT + number] > 1.2
    assert np.square(truth - whole.calibrated("isotonic_pooled", new)).sum() < 0.8 * ablated


# ── calibration ───────────────────────────────────────────────────────────────────────────────


def test_raw_is_the_rating_times_each_latents_own_maximum():
    ratings, _ = rated(1)
    found = evidence(0).calibrated("raw", ratings)
    maxima = evidence(0).true.max(0)
    np.testing.assert_allclose(found, ratings.expected / np.float32(9) * maxima, rtol=2e-3)
    assert found.dtype == np.float32


def test_mistake_a_rating_of_exactly_nine_is_the_maximum_and_not_zero():
    ratings = ratings_of(np.full((1, 3), 9.0))
    maxima = evidence().true.max(0)
    for name in ("raw", "quantile:type7", "quantile:type8", "isotonic"):
        found = evidence().calibrated(name, ratings)[0]
        assert (found > 0.5 * maxima).all(), name
    np.testing.assert_allclose(evidence().calibrated("raw", ratings)[0], maxima, rtol=1e-6)


def test_mistake_a_missing_rating_is_an_error_and_not_the_maximum():
    ratings, _ = rated(1)
    ratings.expected[3, 1] = np.nan
    with pytest.raises(CalibrationError, match="1 of 180 predictions are NaN"):
        evidence().calibrated("isotonic", ratings)


@pytest.mark.parametrize("name", ["raw", "quantile:type8", "centred+isotonic_pooled"])
def test_topk_is_the_splices_affair(name):
    ratings, _ = rated(1)
    plain, topk = (evidence().calibrated(n, ratings) for n in (name, f"{name}+topk"))
    np.testing.assert_array_equal(plain, topk)


@pytest.mark.parametrize("name", ["prior_shift", "temperature"])
def test_calibrators_that_read_the_digits_get_them(name):
    """Equal expected ratings, other digits: only these calibrators see a difference."""
    ratings, _ = rated(1)
    flat = np.full(ratings.digits.shape, 0.1, np.float16)
    same = ratings._replace(digits=flat)
    fitted = evidence()
    assert not np.array_equal(fitted.calibrated(name, ratings), fitted.calibrated(name, same))
    np.testing.assert_array_equal(
        fitted.calibrated("isotonic", ratings), fitted.calibrated("isotonic", same)
    )
    other = dataclasses.replace(fitted, ratings=fitted.ratings._replace(digits=flat))
    assert not np.array_equal(fitted.calibrated(name, ratings), other.calibrated(name, ratings))


def test_the_target_may_know_more_than_the_windows():
    """Maxima come from every token of the calibrate rows."""
    target = Target.from_true(np.array([[40, 0, 0], [0, 80, 160]], np.float32))
    found = dataclasses.replace(evidence(), target=target).calibrated("raw", rated(1)[0])
    np.testing.assert_allclose(
        found,
        evidence().calibrated("raw", rated(1)[0])
        * (np.array([40, 80, 160]) / evidence().true.max(0)),
        rtol=1e-5,
    )


@given(st.integers(0, 999))
def test_target_is_all_activations_of_these_latents_in_their_order(seed):
    dense, tokens = drawn(seed)
    target = target_of(cache_of(dense, tokens), LATENTS)
    flat = dense[:, 1:].reshape(-1, dense.shape[2])[:, LATENTS]
    assert target.total == len(flat) and target.latents == 3
    for column in range(3):
        values = flat[:, column]
        np.testing.assert_array_equal(target.of(column), np.sort(values[values > 0]))
    np.testing.assert_array_equal(target.maximum, flat.max(0))
    np.testing.assert_allclose(target.mean, flat.mean(0), rtol=1e-5)


# ── without an LLM ────────────────────────────────────────────────────────────────────────────


def splits(seed=0):
    """The explain, calibrate and evaluate rows as (activations, tokens)."""
    return [drawn(seed + number, rows=5, length=18) for number in range(3)]


def sources(truths, windows=None):
    explain, calibrate, evaluate = (cache_of(*truth) for truth in truths)
    windows = windows or all_windows(evaluate.tokens)
    return without_llm(explain, calibrate, windows, evaluate, LATENTS)


def test_ablations_are_zero_and_the_calibrate_rows_mean():
    truths = splits()
    found = sources(truths)
    mean = truths[1][0][:, 1:].reshape(-1, 5).mean(0)[LATENTS]
    assert found["zero"].shape == (5 * 17, 3) and not found["zero"].any()
    np.testing.assert_allclose(found["mean"], np.tile(mean, (5 * 17, 1)), rtol=1e-5)
    assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}


def test_the_token_table_is_the_explain_rows_at_the_described_latents():
    truths = splits()
    explain, _, evaluate = (cache_of(*truth) for truth in truths)
    table = token_table(explain, all_windows(evaluate.tokens), evaluate)
    np.testing.assert_array_equal(sources(truths)["token table"], table[:, LATENTS])


@given(st.integers(0, 999))
def test_the_word_list_says_the_mean_on_and_off_its_list(seed):
    truths = splits(seed)
    (dense, tokens), _, (_, asked) = truths
    listed = strongest_tokens(cache_of(dense, tokens), words=8)
    expected = np.zeros((asked[:, 1:].size, 3))
    for column, latent in enumerate(LATENTS):
        on = np.isin(tokens[:, 1:], listed[:, latent])
        values = dense[:, 1:, latent]
        means = [values[~on].mean() if (~on).any() else 0, values[on].mean() if on.any() else 0]
        expected[:, column] = np.take(means, np.isin(asked[:, 1:], listed[:, latent]).ravel())
    np.testing.assert_allclose(sources(truths)["word list"], expected, atol=1e-5)


def test_a_word_list_tells_the_tokens_apart():
    """Token 9 fires at 6, token 8 at 0 … 1: on the list 6; never fires: off the list."""
    tokens = np.array([[0, 9, 9, 9, 8, 8, 8, 7, 7, 7]])
    dense = np.zeros((1, 10, 5), np.float32)
    dense[0, 1:4, :] = 6
    truth = (dense, tokens)
    windows = Windows(np.zeros(3, int), np.array([2, 5, 8]))
    found = sources([truth] * 3, windows)["word list"]
    np.testing.assert_allclose(found, np.array([[6, 6, 6], [0, 0, 0], [0, 0, 0]]))


def test_mistake_nothing_is_fitted_on_the_rows_that_are_evaluated():
    """The original explained, calibrated and evaluated the same rows: other true activations in the
    evaluate rows must not move a single estimate."""
    truths = splits()
    silent = [*truths[:2], (np.zeros_like(truths[2][0]), truths[2][1])]
    before, after = sources(truths), sources(silent)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize(
    ("split", "moved"), [(0, {"token table", "word list"}), (1, {"mean"}), (2, set())]
)
def test_each_source_is_fitted_on_its_own_rows(split, moved):
    truths = splits()
    other = list(truths)
    other[split] = (truths[split][0] * 2, truths[split][1])
    before, after = sources(truths), sources(other)
    assert {n for n in before if not np.array_equal(before[n], after[n])} == moved

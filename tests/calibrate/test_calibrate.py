"""The alternatives to quantile normalisation, the protocol they share, and how they are judged."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from rewrite_utils import calibrate as cal
from rewrite_utils.calibrate.curves import Raw, distinct
from rewrite_utils.calibrate.isotonic import Isotonic, IsotonicPooled, IsotonicShrunk, TwoPart
from rewrite_utils.calibrate.parametric import LogisticPooled, PriorShift, Temperature, true_digits
from rewrite_utils.calibrate.protocol import CalibrationError, Sample, check_ratings
from rewrite_utils.calibrate.steps import Centred, GlobalShrink, Standardised

NAMES = [
    "raw", "mean", "quantile", "quantile:type1", "isotonic", "isotonic_pooled", "isotonic_shrunk",
    "two_part", "logistic_pooled", "global_shrink", "prior_shift", "temperature",
    "centred+isotonic", "centred+standardised+isotonic_pooled", "centred+global_shrink+isotonic",
    "centred+standardised+capped+isotonic_pooled", "capped+quantile:type7",
]  # fmt: skip


def draw(seed=0, *, windows=120, latents=5, lift=2.0, dtype=np.float16):
    """Ratings that drift by window and rise with the activation; rates from 5 to 30 %."""
    generator = np.random.default_rng(seed)
    active = generator.random((windows, latents)) < np.linspace(0.05, 0.3, latents)
    active[:2] = True
    true = np.where(active, generator.gamma(3.0, 1.0, active.shape), 0).astype(np.float32)
    drift = generator.normal(0, 0.7, (windows, 1))
    e = 3 + drift + generator.normal(0, 1, active.shape) + lift * active
    return np.clip(e, 0, 9).astype(dtype), true


def digits_of(predicted, spread=1.5):
    """Ten probabilities whose mode follows the rating."""
    logits = -np.square((np.arange(10) - predicted[..., None].astype(float)) / spread) / 2
    p = np.exp(logits)
    return (p / p.sum(-1, keepdims=True)).astype(np.float32)


def fit(name, predicted, true):
    return cal.calibrator(name).fit(predicted, true, digits=digits_of(predicted))


@pytest.mark.parametrize("name", NAMES)
def test_every_transform_survives_pickling(name):
    predicted, true = draw()
    transform = fit(name, predicted, true)
    expected = transform(predicted, digits=digits_of(predicted))
    assert expected.dtype == np.float32 and expected.shape == true.shape
    assert (expected >= 0).all() and np.isfinite(expected).all()
    out = pickle.loads(pickle.dumps(transform))(predicted, digits=digits_of(predicted))
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", [n for n in NAMES if "centred" not in n])
def test_a_window_is_transformed_alike_alone_and_in_company(name):
    predicted, true = draw()
    transform = fit(name, predicted, true)
    digits = digits_of(predicted)
    one = transform(predicted[7:8], digits=digits[7:8])
    np.testing.assert_allclose(one, transform(predicted, digits=digits)[7:8], rtol=1e-6)


def test_every_float16_has_its_place_among_the_distinct_ones():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    values, place, counts = distinct(finite)
    assert (np.diff(values) > 0).all() and counts.sum() == len(finite)
    np.testing.assert_array_equal(values[place], finite)  # −0 counts as +0
    assert counts[values == 0] == 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 1000), st.sampled_from([np.float16, np.float32]))
def test_distinct_equals_numpy(seed, n, dtype):
    ratings = np.random.default_rng(seed).normal(0, 3, (n, 3)).round(1).astype(dtype)
    values, place, counts = distinct(ratings)
    expected = np.unique(ratings, return_counts=True)
    np.testing.assert_array_equal(values, expected[0])
    np.testing.assert_array_equal(counts, expected[1])
    np.testing.assert_array_equal(values[place], ratings)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float16, np.float32]))
def test_isotonic_equals_scikit_learn(seed, dtype):
    predicted, true = draw(seed, dtype=dtype)
    new, _ = draw(seed + 1, dtype=dtype)
    ours = Isotonic().fit(predicted, true)(new)
    for j in range(true.shape[1]):
        column = predicted[:, j].astype(np.float64)  # of float32 it merges values 1e-6 apart
        theirs = IsotonicRegression(out_of_bounds="clip").fit(column, true[:, j])
        expected = theirs.predict(new[:, j].astype(np.float64))
        np.testing.assert_allclose(ours[:, j], expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3))
def test_conditional_means_never_lose_to_the_mean_in_sample(seed, lift):
    """Even where the ratings say the opposite of the truth (lift < 0)."""
    predicted, true = draw(seed, lift=lift)
    mean = true.mean(axis=0)
    estimate = Isotonic().fit(predicted, true)(predicted)
    np.testing.assert_allclose(estimate.mean(axis=0), mean, rtol=1e-4)
    error, ablation = (np.square(true - e, dtype=float).sum(axis=0) for e in (estimate, mean))
    assert (error <= ablation * (1 + 1e-6)).all()


def test_pooled_is_one_curve_in_units_of_the_mean():
    predicted, true = draw(latents=4)
    same = np.repeat(predicted[:, :1], 4, axis=1)
    out = IsotonicPooled().fit(predicted, true)(same)
    units = out / true.mean(axis=0)
    np.testing.assert_allclose(units, np.repeat(units[:, :1], 4, axis=1), rtol=1e-5)


def test_pooled_equals_per_latent_when_latents_differ_only_in_size():
    predicted, true = draw(latents=1)
    ratings, sizes = np.repeat(predicted, 3, axis=1), true * np.array([1, 5, 25], np.float32)
    pooled, own = (kind().fit(ratings, sizes) for kind in (IsotonicPooled, Isotonic))
    np.testing.assert_allclose(pooled(ratings), own(ratings), rtol=1e-4, atol=1e-5)


def test_pooled_does_not_depend_on_the_units_of_a_latent():
    predicted, true = draw()
    sizes = np.array([1, 10, 100, 0.1, 3], np.float32)
    one, other = (IsotonicPooled().fit(predicted, t)(predicted) for t in (true, true * sizes))
    np.testing.assert_allclose(one * sizes, other, rtol=1e-4)


def test_shrunk_has_both_limits_and_silent_latents_get_the_pooled_curve():
    predicted, true = draw()
    own, pooled = (cal.calibrator(n).fit(predicted, true) for n in ("isotonic", "isotonic_pooled"))
    for strength, limit in ((0.0, own), (1e12, pooled)):
        out = IsotonicShrunk(strength=strength).fit(predicted, true)(predicted)
        np.testing.assert_allclose(out, limit(predicted), rtol=1e-4, atol=1e-4)
    larger = cal.Target.from_true(np.tile(true, (10, 1)))
    true[:, 0] = 0
    shrunk = IsotonicShrunk(strength=5.0).fit(predicted, true, target=larger)
    shared = IsotonicPooled().fit(predicted, true, target=larger)
    np.testing.assert_array_equal(shrunk(predicted)[:, 0], shared(predicted)[:, 0])
    assert shared(predicted)[:, 0].max() > 0


def test_shrunk_trusts_many_windows_and_distrusts_few():
    """Latents with curves of their own: trusted once there is enough to see them."""
    generator = np.random.default_rng(0)
    predicted = generator.uniform(0, 9, (4000, 6)).astype(np.float32)
    threshold = np.linspace(1, 8, 6)
    true = ((predicted > threshold) & (generator.random((4000, 6)) < 0.5)).astype(np.float32)
    held_p, held_t = predicted[2000:], true[2000:]
    few, many = (
        [cal.losses(held_t, cal.calibrator(n).fit(predicted[:w], true[:w])(held_p), true.mean(0)).r2
         for n in ("isotonic", "isotonic_pooled", "isotonic_shrunk")]
        for w in (12, 2000)
    )  # fmt: skip
    assert many[2] > many[1] + 0.05 and many[2] > many[0] - 0.01
    assert few[2] > min(few[:2])


def test_global_shrink_finds_the_least_squares_factor():
    predicted, true = draw(windows=400, lift=1.0)
    inner = cal.Quantile()
    transform = GlobalShrink(inner).fit(predicted, true)
    assert 0 < transform.share[0] < 1
    mean = true.mean(axis=0)
    at = {f: replace(transform, share=np.full(5, f, np.float32))(predicted) for f in (0.0, 1.0)}
    np.testing.assert_allclose(at[0.0], np.broadcast_to(mean, true.shape), rtol=1e-5)
    np.testing.assert_allclose(at[1.0], inner.fit(predicted, true)(predicted), atol=1e-4)


def test_global_shrink_of_noise_is_about_nothing():
    predicted, true = draw(windows=3000, lift=0.0)
    assert GlobalShrink(cal.Quantile()).fit(predicted, true).share[0] < 0.1


def test_two_part_is_probability_times_size():
    predicted, true = draw()
    out = TwoPart().fit(predicted, true)(predicted)
    active = (true > 0).astype(np.float32)
    probability = Isotonic().fit(predicted, active)(predicted)
    size = true.sum(axis=0) / active.sum(axis=0)
    np.testing.assert_allclose(out, probability * size, rtol=1e-4)


def test_logistic_pooled_equals_scikit_learn_where_it_can():
    """One latent repeated: the offset is the same everywhere, so a and b are an ordinary fit."""
    predicted, true = draw(latents=2, windows=400, dtype=np.float32)
    predicted, true = predicted[:, [1, 1]], true[:, [1, 1]]
    transform = LogisticPooled(ridge=1e-9).fit(predicted, true)
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(predicted[:, :1], true[:, 0] > 0)
    assert transform.slope == pytest.approx(theirs.coef_[0, 0], rel=1e-3)
    assert transform.offset[0] == pytest.approx(theirs.intercept_[0], rel=1e-3)


def test_logistic_pooled_stays_finite_when_ratings_separate():
    true = np.zeros((20, 2), np.float32)
    true[15:] = 1
    predicted = np.where(true > 0, 8, 2).astype(np.float32)
    out = LogisticPooled().fit(predicted, true)(predicted)
    assert out[15:].min() > 0.95 and out[:15].max() < 0.05


def test_raw_gives_the_maximum_at_nine_and_not_zero():
    """An expected value of exactly 9 became 0 in the original pipeline (method.md §10)."""
    predicted, true = draw()
    out = Raw().fit(predicted, true)(np.full((1, 5), 9, np.float16))
    np.testing.assert_array_equal(out[0], true.max(axis=0))


def test_prior_shift_of_a_perfectly_calibrated_simulator_changes_nothing():
    generator = np.random.default_rng(0)
    shape = np.array([0, *np.arange(9, 0, -1)]) / 45
    label = np.where(
        generator.random((40_000, 1)) < 0.2, generator.choice(10, (40_000, 1), p=shape), 0
    )
    label[0] = 9
    prior = np.bincount(label.ravel(), minlength=10) / label.size
    digits = np.broadcast_to(prior, (*label.shape, 10)).astype(np.float32)
    ratings = generator.uniform(0, 9, label.shape).astype(np.float32)
    transform = PriorShift().fit(ratings, label / 9.0, digits=digits)
    np.testing.assert_allclose(transform.ratio[0], 1, atol=0.02)


def test_prior_shift_brings_the_mean_down_to_the_firing_rate():
    predicted, true = draw(windows=500)
    digits = digits_of(predicted)
    raw, shifted = (
        cal.calibrator(n).fit(predicted, true, digits=digits) for n in ("raw", "prior_shift")
    )
    mean, before, after = (
        x.mean(axis=0) for x in (true, raw(predicted), shifted(predicted, digits=digits))
    )
    assert (before > 3 * mean)[:3].all()
    assert (np.abs(after - mean) < np.abs(before - mean)).all()


def test_digits_are_renormalised():
    predicted, true = draw()
    digits = digits_of(predicted)
    for name in ("prior_shift", "temperature"):
        full = cal.calibrator(name).fit(predicted, true, digits=digits)
        half = cal.calibrator(name).fit(predicted, true, digits=digits * np.float32(0.5))
        out = half(predicted, digits=digits * np.float32(0.25))
        np.testing.assert_allclose(full(predicted, digits=digits), out, rtol=1e-4)


def test_temperature_recovers_a_known_one():
    """Labels drawn from p, shown as p²: T = 2 gives p back."""
    generator = np.random.default_rng(0)
    p = generator.dirichlet(np.ones(10), (3000, 1))
    label = (p.cumsum(-1) > generator.random((3000, 1, 1))).argmax(-1)
    true = (label / 9).astype(np.float32)
    np.testing.assert_array_equal(true_digits(true, true.max(axis=0)), label)
    ratings = (p @ np.arange(10)).astype(np.float32)
    sharp = (p**2 / (p**2).sum(-1, keepdims=True)).astype(np.float32)
    found = Temperature().fit(ratings, true, digits=sharp)
    assert 1 / found.power == pytest.approx(2, rel=0.1)


def test_centring_removes_what_a_window_adds_and_keeps_the_scale():
    predicted, _ = draw(dtype=np.float32)
    drift = np.random.default_rng(0).normal(0, 0.3, (len(predicted), 1)).astype(np.float32)
    level = float(predicted.mean())
    np.testing.assert_allclose(
        cal.center(predicted, level=level), cal.center(predicted + drift, level=level), atol=1e-5
    )
    assert cal.center(predicted).mean() == pytest.approx(level, abs=1e-4)


def test_centring_helps_when_ratings_drift_with_the_text():
    predicted, true = draw(windows=1500, latents=30)
    new, truth = draw(1, windows=1500, latents=30)
    scores = [
        cal.losses(truth, cal.calibrator(n).fit(predicted, true)(new), true.mean(axis=0)).r2
        for n in ("isotonic_pooled", "centred+isotonic_pooled")
    ]
    assert scores[1] > scores[0] + 0.02


def test_a_window_is_centred_alike_alone_and_in_company():
    predicted, true = draw()
    transform = cal.calibrator("centred+isotonic").fit(predicted, true)
    np.testing.assert_allclose(transform(predicted[7:8]), transform(predicted)[7:8], rtol=1e-5)


def test_cross_fit_never_uses_a_windows_own_truth():
    predicted, true = draw()
    groups = np.arange(len(true)) // 4
    changed = true.copy()
    changed[groups == 3] += 50
    outs = [
        cal.cross_fit(
            Isotonic(), predicted, t, folds=5, generator=np.random.default_rng(0), groups=groups
        )
        for t in (true, changed)
    ]
    np.testing.assert_array_equal(outs[0][groups == 3], outs[1][groups == 3])
    assert (outs[0] != outs[1]).any()


def test_losses_are_paired_and_in_units_of_mean_ablation():
    _, true = draw()
    mean = true.mean(axis=0)
    found = cal.losses(true, np.zeros_like(true), mean)
    assert found.mean.mean() == pytest.approx(1)
    assert found.difference.mean() == pytest.approx(-found.r2)
    expected = 1 - np.square(true).sum() / np.square(true - mean).sum()
    assert found.r2 == pytest.approx(expected, rel=1e-5)
    doubled = cal.losses(true, np.zeros_like(true), mean, decoder=2 * np.eye(5))
    np.testing.assert_allclose(doubled.estimate, found.estimate)
    perfect = cal.losses(true, true, mean)
    assert perfect.r2 == 1


def test_what_an_error_costs_in_the_output_has_the_decoders_cross_terms():
    """Two latents that write alike: errors of one sign count fourfold, opposite ones not at all. By
    the norms of their rows both cost 2 (audit: 1 − loss of raw was −11.8 for −45.1)."""
    true, mean = np.array([[1.0, 1.0], [3.0, 3.0]]), np.zeros(2)
    alike = np.array([[3.0, 4.0], [3.0, 4.0]])
    same, opposite = np.array([[1.0, 1.0]]), np.array([[1.0, -1.0]])
    unit = np.square(true @ alike).sum(1).mean()
    costs = [cal.losses(true, true - error, mean, decoder=alike) for error in (same, opposite)]
    np.testing.assert_allclose(costs[0].estimate, 4 * 25 / unit)
    np.testing.assert_allclose(costs[1].estimate, 0)
    own, truth = draw()
    rows = np.random.default_rng(0).normal(size=(5, 7))
    found = cal.losses(truth, own.astype(float), truth.mean(axis=0), decoder=rows)
    written = (truth - own.astype(float)) @ rows, (truth - truth.mean(axis=0)) @ rows
    error, ablated = (np.square(part).sum() for part in written)
    assert found.r2 == pytest.approx(1 - error / ablated, rel=1e-6)


def test_correlations_of_constant_estimates_are_undefined_not_zero():
    _, true = draw()
    found = cal.correlations(true, np.ones_like(true))
    assert np.isnan(found.rho).all() and (found.positives == (true > 0).sum(0)).all()
    np.testing.assert_allclose(cal.correlations(true, true * 3).rho, 1)


def test_mismatch_counts_spurious_maxima():
    true = np.array([[0, 1], [0, 0], [2, 0]], np.float32)
    estimate = np.array([[2, 1], [0, 1], [2, 0]], np.float32)
    found = cal.mismatch(true, estimate, true.max(axis=0))
    assert found.spurious_maxima == pytest.approx(2 / 3)
    np.testing.assert_allclose(found.wasserstein, [2 / 3, 1 / 3])


def test_target_from_pairs_equals_dense():
    _, true = draw()
    window, latent = np.nonzero(true)
    shuffled = np.random.default_rng(0).permutation(len(window))
    pairs = latent[shuffled], true[window, latent][shuffled]
    a, b = cal.Target.from_pairs(*pairs, latents=5, total=120), cal.Target.from_true(true)
    np.testing.assert_array_equal(a.values, b.values)
    np.testing.assert_allclose(a.mean, true.mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(a.maximum, true.max(axis=0))
    np.testing.assert_allclose(a.mean_square, np.square(true).mean(axis=0), rtol=1e-5)


def broken(change):
    predicted, true = draw()
    change(predicted, true)
    return predicted, true


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p, t: p.__setitem__((3, 2), np.nan), "1 of 600 predictions are NaN"),
        (lambda p, t: p.fill(3.5), r"all 600 predictions are 3\.5"),
        (lambda p, t: p.__setitem__((3, 2), 9.5), "reach from"),
        (lambda p, t: p.__setitem__((3, 2), -1), "reach from -1"),
        (lambda p, t: t.fill(0), "no activation is above 0"),
        (lambda p, t: t.__setitem__((0, 0), -1), "finite and ≥ 0"),
        (lambda p, t: t.__setitem__((0, 0), np.inf), "finite and ≥ 0"),
    ],
)
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("prior_shift", "temperature")])
def test_what_cannot_be_fitted_is_one_clear_error(name, change, message):
    predicted, true = broken(change)
    with pytest.raises(ValueError, match=message):
        cal.calibrator(name).fit(predicted, true)


def test_shapes_are_checked():
    predicted, true = draw()
    with pytest.raises(CalibrationError, match=r"\(120, 5\) and true is \(119, 5\)"):
        Sample.checked(predicted, true[1:])
    with pytest.raises(CalibrationError, match="at least 2"):
        Sample.checked(predicted[:1], true[:1])
    with pytest.raises(CalibrationError, match=r"4 latents, the transform was fitted on 5"):
        Raw().fit(predicted, true)(predicted[:, :4])
    with pytest.raises(CalibrationError, match=r"expected \[window latent\]"):
        check_ratings(predicted[0])
    with pytest.raises(CalibrationError, match="too few to hold out half"):
        GlobalShrink(Raw()).fit(predicted[:3], true[:3])
    with pytest.raises(CalibrationError, match="121 folds of 120"):
        generator = np.random.default_rng(0)
        cal.cross_fit(Raw(), predicted, true, folds=121, generator=generator)
    with pytest.raises(CalibrationError, match="prior_shift reads the ten digits"):
        PriorShift().fit(predicted, true)


def test_names_know_their_neighbours():
    with pytest.raises(KeyError, match="did you mean 'isotonic_pooled'"):
        cal.calibrator("isotonic_poold")
    with pytest.raises(KeyError, match="no step 'centered'; did you mean 'centred'"):
        cal.calibrator("centered+isotonic")
    with pytest.raises(ValueError, match="reads the digits"):
        cal.calibrator("centred+prior_shift")
    with pytest.raises(KeyError, match="only quantile takes"):
        cal.calibrator("isotonic:type8")
    nested = cal.calibrator("centred+standardised+isotonic_pooled")
    assert nested == Centred(Standardised(IsotonicPooled()))

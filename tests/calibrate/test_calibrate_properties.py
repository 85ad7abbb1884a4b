"""What must hold of quantile normalisation and of the capped calibrators whatever the data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewrite_utils import calibrate as cal
from rewrite_utils.calibrate import ESTIMATORS, Quantile, Target
from rewrite_utils.calibrate.curves import Mean
from rewrite_utils.calibrate.isotonic import Isotonic
from rewrite_utils.calibrate.parametric import LogisticPooled
from rewrite_utils.calibrate.quantile import estimator, quantiles

METHODS = sorted(ESTIMATORS)
SEEDS = st.integers(0, 2**32 - 1)


def draw(seed, *, windows=80, latents=3, rate=0.2, lift=1.0, dtype=np.float32):
    """Ratings on a grid of 0.5 (heavy ties) that rise with sparse activations."""
    generator = np.random.default_rng(seed)
    active = generator.random((windows, latents)) < rate
    active[0] = True
    true = np.where(active, generator.gamma(3.0, 1.0, active.shape), 0).astype(np.float32)
    ratings = 3 + generator.normal(0, 1, active.shape) + lift * active
    return np.clip(np.round(2 * ratings) / 2, 0, 9).astype(dtype), true


def larger(seed, latents=3, total=3000, rate=0.1):
    """A larger sample of the truth, as v1's ten million tokens."""
    return Target.from_true(draw(seed + 1, windows=total, latents=latents, rate=rate)[1])


# ── quantile normalisation ──────────────────────────────────────────────────────────────────────


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from(METHODS), st.booleans())
def test_only_the_order_of_the_ratings_counts(seed, method, with_target):
    """T ∘ φ fitted on φ(E) gives at φ(E) what T fitted on E gives at E, for rising φ."""
    predicted, true = draw(seed)
    target = larger(seed) if with_target else None
    bent = (9 * (predicted / 9) ** 3).astype(np.float32)
    one, two = (Quantile(method, method).fit(p, true, target=target)(p) for p in (predicted, bent))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from(METHODS))
def test_equal_ratings_get_equal_activations_and_larger_ones_no_less(seed, method):
    predicted, true = draw(seed)
    out = Quantile(method, method).fit(predicted, true, target=larger(seed))(predicted)
    for ratings, estimate in zip(predicted.T, out.T, strict=True):
        order = np.argsort(ratings, kind="stable")
        steps, rises = np.diff(ratings[order]), np.diff(estimate[order])
        assert (rises[steps == 0] == 0).all() and (rises >= -1e-6).all()


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from(METHODS), st.floats(0.01, 100))
def test_activations_in_other_units_are_estimated_in_those_units(seed, method, unit):
    predicted, true = draw(seed)
    scaled = (true * np.float32(unit)).astype(np.float32)
    one, two = (Quantile(method, method).fit(predicted, t)(predicted) for t in (true, scaled))
    np.testing.assert_allclose(one * np.float32(unit), two, rtol=1e-4, atol=1e-5 * unit)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from(METHODS))
def test_windows_have_no_order_and_latents_no_neighbours(seed, method):
    predicted, true = draw(seed)
    order = np.random.default_rng(seed).permutation(len(true))
    by = Quantile(method, method)
    whole = by.fit(predicted, true)(predicted)
    np.testing.assert_array_equal(by.fit(predicted[order], true[order])(predicted), whole)
    alone = by.fit(predicted[:, 1:2], true[:, 1:2])(predicted[:, 1:2])
    np.testing.assert_array_equal(alone, whole[:, 1:2])


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from(METHODS), st.floats(0.02, 0.4))
def test_the_mass_at_zero_is_that_of_the_truth(seed, method, rate):
    """Untied ratings: as many estimates above 0 as activations, to one window at either end."""
    generator = np.random.default_rng(seed)
    predicted = generator.permutation(np.linspace(0, 9, 400)).astype(np.float32)[:, None]
    true = draw(seed, windows=400, latents=1, rate=rate)[1]
    out = Quantile(method, method).fit(predicted, true)(predicted)
    assert abs(int((out > 0).sum()) - int((true > 0).sum())) <= 1


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(["type1", "type2", "type3"]), st.integers(2, 60))
def test_stepwise_targets_equal_numpy_between_their_jumps(seed, name, n):
    """The brute-force test leaves these out: at a jump, rounding decides. Between two, nothing."""
    sample = draw(seed, windows=n, latents=1, rate=0.3)[1][:, 0].astype(float)
    edges = (np.arange(2 * n + 1)) / (2 * n)
    p = (edges[:-1] + edges[1:]) / 2
    by = estimator(name)
    method = next(key for key, known in ESTIMATORS.items() if known == by)
    ours = quantiles(p, np.sort(sample[sample > 0]), n, by)
    np.testing.assert_allclose(ours, np.quantile(sample, p, method=method), atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_in_sample_flatters_the_conditional_mean(seed):
    predicted, true = draw(seed, windows=60, rate=0.1, lift=0.0)
    generator = np.random.default_rng(seed)
    held = cal.cross_fit(Isotonic(), predicted, true, folds=6, generator=generator)
    own = Isotonic().fit(predicted, true)(predicted)
    assert np.square(true - own).sum() < np.square(true - held).sum()


# ── capped ──────────────────────────────────────────────────────────────────────────────────────


def rare_and_frequent(seed=0, windows=300):
    """A latent that fires in 1 % of the windows and is rated high then; five that fire in 30 %."""
    generator = np.random.default_rng(seed)
    active = generator.random((windows, 6)) < np.array([0.01, *[0.3] * 5])
    active[0] = True
    true = np.where(active, generator.gamma(3.0, 1.0, active.shape), 0).astype(np.float32)
    lift = np.array([4.0, *[0.3] * 5])
    ratings = 4 + generator.normal(0, 0.5, active.shape) + lift * active
    return np.clip(ratings, 0, 9).astype(np.float16), true


def test_a_rare_latent_sets_the_top_of_the_pooled_curve_and_capping_mends_it():
    """The defect of the pooled curve: 1/rate means of a rare latent, handed to frequent ones."""
    predicted, true = rare_and_frequent()
    high = np.full((1, 6), 8, np.float16)
    pooled, capped = (
        cal.calibrator(n).fit(predicted, true)(high)
        for n in ("isotonic_pooled", "capped+isotonic_pooled")
    )
    size = Target.from_true(true).mean_active
    assert (pooled[0, 1:] > 5 * size[1:]).all()
    np.testing.assert_allclose(capped[0], size, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from(["isotonic_pooled", "isotonic", "quantile:type7", "raw"]))
def test_capping_cuts_at_the_mean_when_active_and_touches_nothing_below(seed, inner):
    predicted, true = draw(seed)
    free, cut = (
        cal.calibrator(n).fit(predicted, true)(predicted) for n in (inner, f"capped+{inner}")
    )
    top = Target.from_true(true).mean_active
    np.testing.assert_array_equal(cut, np.minimum(free, top))


def test_capping_takes_its_top_from_the_larger_sample():
    predicted, true = draw(0)
    target = larger(0)
    out = cal.calibrator("capped+raw").fit(predicted, true, target=target)(
        np.full((1, 3), 9, np.float32)
    )
    np.testing.assert_allclose(out[0], target.mean_active, rtol=1e-6)


@pytest.mark.parametrize("inner", ["quantile:type7", "isotonic", "raw", "centred+quantile:type8"])
def test_the_same_windows_are_v2s_sample_and_the_larger_one_is_not_read(inner):
    """v1 takes F_true from all tokens, v2 both distributions from the same windows."""
    predicted, true = draw(0)
    target, unseen = larger(0), draw(1)[0]
    alone = cal.calibrator(inner).fit(predicted, true)(unseen)
    v2 = cal.calibrator(f"same_windows+{inner}").fit(predicted, true, target=target)
    v1 = cal.calibrator(inner).fit(predicted, true, target=target)
    np.testing.assert_array_equal(v2(unseen), alone)
    if inner != "isotonic":  # which reads no target
        assert not np.allclose(v1(unseen), alone)


def test_steps_on_estimates_may_stand_before_calibrators_that_read_digits():
    assert cal.calibrator("capped+prior_shift").reads_digits
    assert cal.calibrator("global_shrink+temperature").reads_digits
    with pytest.raises(ValueError, match="standardised would do nothing"):
        cal.calibrator("standardised+capped+prior_shift")


# ── fitting ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", [12, 71, 75, 178, 0, 1, 2])
def test_the_pooled_logistic_settles_on_ratings_far_from_zero(seed):
    """Level and slope are strongly correlated then: a step cut in each number alone went round in
    circles on the first four of these draws."""
    generator = np.random.default_rng(seed)
    predicted = generator.normal(3.7, 0.4, (24, 32)).clip(0, 9).astype(np.float32)
    true = (generator.random((24, 32)) < generator.uniform(0.01, 0.2, 32)).astype(np.float32)
    target = Target.from_true((generator.random((5000, 32)) < 0.06).astype(np.float32))
    out = LogisticPooled().fit(predicted, true, target=target)(predicted)
    assert np.isfinite(out).all() and (out >= 0).all()


def test_cross_fit_hands_on_the_larger_sample():
    predicted, true = draw(0)
    target = larger(0)
    out = cal.cross_fit(
        Mean(), predicted, true, folds=4, generator=np.random.default_rng(0), target=target
    )
    np.testing.assert_allclose(out, np.broadcast_to(target.mean, true.shape))

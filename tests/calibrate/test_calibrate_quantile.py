"""Quantile normalisation: the nine estimators, ties, the atom at zero, what matching implies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rewrite_utils.calibrate import (
    ESTIMATORS,
    Quantile,
    Target,
    calibrator,
    correlations,
    losses,
)
from rewrite_utils.calibrate.quantile import estimator, probabilities, quantiles

METHODS = sorted(ESTIMATORS)
SEEDS = st.integers(0, 2**32 - 1)


def draw(seed, *, windows=40, latents=3, rate=0.3, ties=True, dtype=np.float16):
    """Ratings (on a coarse grid if ``ties``) and sparse activations, unrelated to one another."""
    generator = np.random.default_rng(seed)
    predicted = generator.uniform(0, 9, (windows, latents))
    if ties:
        predicted = np.round(predicted)
    active = generator.random((windows, latents)) < rate
    active[0] = True
    true = np.where(active, generator.gamma(3.0, 1.0, (windows, latents)), 0)
    return predicted.astype(dtype), true.astype(np.float32)


def untied(seed, windows, latents=3):
    """Ratings without ties: float32 permutations of a grid."""
    generator = np.random.default_rng(seed)
    grid = np.linspace(0.1, 8.9, windows)
    return np.stack([generator.permutation(grid) for _ in range(latents)], 1).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(METHODS), st.integers(2, 50), st.floats(0, 1))
def test_target_side_equals_numpy(seed, method, n, rate):
    generator = np.random.default_rng(seed)
    sample = np.where(generator.random(n) < rate, generator.integers(1, 5, n), 0).astype(float)
    p = generator.random(50)
    positive = np.sort(sample[sample > 0])
    ours = quantiles(p, positive, n, estimator(method))
    np.testing.assert_allclose(ours, np.quantile(sample, p, method=method), atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_target_side_at_the_jumps_follows_hyndman_and_fan(method):
    """At p = (j + ½)/n, the jumps of type 3, and at j/n, those of types 1 and 2; n = 4 is exact."""
    sample = np.array([1.0, 2.0, 4.0, 8.0])
    p = np.arange(9) / 8
    ours = quantiles(p, sample, 4, estimator(method))
    np.testing.assert_allclose(ours, np.quantile(sample, p, method=method), atol=1e-12)


def brute_force(x, ratings, true, source, target):
    """T(x) from the definitions, one number at a time."""
    n, by = len(ratings), ESTIMATORS[source]
    x = min(max(x, ratings.min()), ratings.max())

    def at(value):
        ranks = stats.rankdata(ratings)
        k = ranks[np.flatnonzero(ratings == value)[0]]
        return (k - by.alpha) / (n + 1 - by.alpha - by.beta)

    if (ratings == x).any():
        p = at(x)
    elif by.number <= 3:
        below = (ratings < x).sum()
        p = (below + 0.5 * (by.number == 3)) / n
    else:
        low, high = ratings[ratings < x].max(), ratings[ratings > x].min()
        p = at(low) + (x - low) / (high - low) * (at(high) - at(low))
    return np.quantile(true, p, method=target)


@settings(max_examples=60, deadline=None)
@given(
    SEEDS,
    st.sampled_from(METHODS),
    st.sampled_from([m for m in METHODS if ESTIMATORS[m].number > 3]),
    st.sampled_from([np.float16, np.float32]),
    st.integers(2, 40),
)
def test_equals_brute_force_with_heavy_ties(seed, source, target, dtype, windows):
    predicted, true = draw(seed, windows=windows, dtype=dtype)
    predicted[0] = predicted[1:].max(axis=0) * 0.5
    new = np.random.default_rng(seed).uniform(0, 9, (20, 3)).astype(dtype)
    new[:5] = predicted[np.arange(5) % windows]
    ours = Quantile(source, target).fit(predicted, true)(new)
    for j in range(3):
        columns = predicted[:, j].astype(float), true[:, j].astype(float)
        expected = [brute_force(x, *columns, source, target) for x in new[:, j].astype(float)]
        np.testing.assert_allclose(ours[:, j], expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from(METHODS), st.sampled_from(METHODS), st.booleans())
def test_monotone_and_within_the_true_range(seed, source, target, ties):
    predicted, true = draw(seed, ties=ties)
    grid = np.repeat(np.linspace(0, 9, 2000, dtype=np.float16)[:, None], 3, axis=1)
    out = Quantile(source, target).fit(predicted, true)(grid)
    assert (np.diff(out, axis=0) >= -1e-6).all()
    assert (out >= 0).all() and (out <= true.max(axis=0) * (1 + 1e-6)).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from(METHODS), st.integers(2, 400))
def test_marginal_is_reproduced_in_sample(seed, method, windows):
    predicted, true = untied(seed, windows), draw(seed, windows=windows)[1]
    out = Quantile(method, method).fit(predicted, true)(predicted)
    np.testing.assert_allclose(np.sort(out, axis=0), np.sort(true, axis=0), rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from(METHODS))
def test_precision_equals_recall_and_the_loss_is_two_one_minus_rho(seed, method):
    predicted, true = untied(seed, 200), draw(seed, windows=200)[1]
    out = Quantile(method, method).fit(predicted, true)(predicted)
    hits = ((out > 0) & (true > 0)).sum(axis=0)
    np.testing.assert_array_equal(hits / (out > 0).sum(axis=0), hits / (true > 0).sum(axis=0))
    found = correlations(true, out)
    error = np.square(true - out, dtype=float).mean(axis=0)
    variance = true.var(axis=0, dtype=float)
    np.testing.assert_allclose(error, 2 * variance * (1 - found.rho), rtol=1e-4)
    clear = np.abs(found.rho - 0.5) > 1e-4
    np.testing.assert_array_equal((found.rho > 0.5)[clear], (error < variance)[clear])


def test_all_estimators_agree_on_the_calibration_windows_themselves():
    """In-sample (v2) the estimator cannot matter: rank k goes to order statistic k in all nine."""
    predicted, true = untied(0, 60), draw(0, windows=60)[1]
    outs = [Quantile(m, m).fit(predicted, true)(predicted) for m in METHODS]
    assert np.ptp(np.stack(outs), axis=0).max() < 1e-5


def test_continuous_estimators_agree_everywhere_without_a_larger_target_sample():
    """Types 4–9 are affine in the rank, so F⁻¹ ∘ F with one type and equal n is rank to rank."""
    predicted, true = untied(0, 60), draw(0, windows=60)[1]
    new = np.random.default_rng(1).uniform(0, 9, (500, 3)).astype(np.float32)
    continuous = [m for m in METHODS if ESTIMATORS[m].number > 3]
    outs = [Quantile(m, m).fit(predicted, true)(new) for m in continuous]
    assert np.ptp(np.stack(outs), axis=0).max() < 1e-4


def silent_latent(windows=1000, total=1_000_000, rate=3e-4):
    """A latent silent in the calibration windows that fires ``rate`` in a larger sample (v1)."""
    generator = np.random.default_rng(0)
    values = generator.gamma(3.0, 1.0, int(rate * total))
    pairs = np.zeros(len(values), int), values
    target = Target.from_pairs(*pairs, latents=1, total=total)
    return untied(0, windows, latents=1), np.zeros((windows, 1), np.float32), target


@pytest.mark.parametrize("method", METHODS)
def test_who_sends_the_top_of_a_silent_latent_to_its_maximum(method):
    """p = 1 for the top rating under types 1, 3, 4, 7: the maximum. Type 8: 1 − (2/3)/(n + 1/3)."""
    predicted, true, target = silent_latent()
    out = Quantile(method, method).fit(predicted, true, target=target)(predicted)
    top = out[predicted.argmax()]
    if ESTIMATORS[method].number in (1, 3, 4, 7):
        assert top == target.maximum
        assert (out > 0).sum() == 1
    else:
        assert top == 0


def test_type_8_gives_a_frequent_latent_its_tail_but_not_its_maximum():
    predicted, true, target = silent_latent(rate=5e-3)
    top = Quantile().fit(predicted, true, target=target)(predicted).max()
    expected = np.quantile(
        np.concatenate([np.zeros(target.total - len(target.values)), target.values]),
        1 - (2 / 3) / (1000 + 1 / 3),
        method="median_unbiased",
    )
    assert top == pytest.approx(expected, rel=1e-6)
    assert 0 < top < target.maximum[0]


def test_the_atom_at_zero_is_mass_not_a_tie():
    """99 % zeros: ratings up to the 98th percentile give exactly 0, not a slope towards v₁."""
    predicted = untied(0, 1000, latents=1)
    true = np.zeros((1000, 1), np.float32)
    true[:10] = np.arange(1, 11)[:, None]
    out = Quantile().fit(predicted, true)(predicted)
    assert (out == 0).sum() == 990
    between = np.linspace(0, np.quantile(predicted, 0.98), 500, dtype=np.float32)[:, None]
    assert (Quantile().fit(predicted, true)(between) == 0).all()


def test_beyond_the_calibration_range_counts_as_the_nearest_rating():
    generator = np.random.default_rng(0)
    predicted = generator.uniform(3, 6, (100, 1)).astype(np.float32)
    true = generator.gamma(2.0, 1.0, (100, 1)).astype(np.float32)
    for name in METHODS:
        transform = Quantile(name, name).fit(predicted, true)
        ends = np.array([[predicted.min()], [predicted.max()]])
        beyond = np.array([[0.0], [9.0]], np.float32)
        np.testing.assert_array_equal(transform(beyond), transform(ends))


def test_ties_get_the_mid_rank():
    by = estimator("hazen")
    values, counts = np.array([1.0, 2.0, 5.0]), np.array([2, 6, 2])
    expected = (np.array([1.5, 5.5, 9.5]) - 0.5) / 10
    np.testing.assert_allclose(probabilities(values, values, counts, by), expected)


def test_float16_and_float32_ratings_give_the_same():
    predicted, true = draw(3, windows=500, ties=False)
    transforms = [Quantile().fit(p, true) for p in (predicted, predicted.astype(np.float32))]
    outs = [t(p) for t in transforms for p in (predicted, predicted.astype(np.float32))]
    for out in outs[1:]:
        np.testing.assert_array_equal(outs[0], out)


def test_good_ratings_beat_the_mean_and_noise_does_not():
    """ρ near 1 and ρ near 0: losses to mean ablation of 2(1 − ρ) − 1."""
    true = draw(5, windows=2000)[1]
    noise = untied(5, 2000)
    good = np.clip(true + 1e-3 * noise, 0, 9).astype(np.float32)
    mean = true.mean(axis=0)
    assert losses(true, Quantile().fit(good, true)(good), mean).r2 > 0.95
    r2 = losses(true, Quantile().fit(noise, true)(noise), mean).r2
    assert r2 == pytest.approx(-1, abs=0.15)


def test_names():
    assert calibrator("quantile:type7") == Quantile("type7", "type7")
    assert calibrator("quantile:type8/inverted_cdf") == Quantile("type8", "inverted_cdf")
    with pytest.raises(KeyError, match="did you mean 'median_unbiased'"):
        calibrator("quantile:median_unbiasd")

"""Intervals: they cover, they say what they are, and they refuse what is no sample."""

import numpy as np
import pytest

from rewrite_utils.stats import (
    Estimate,
    best_of,
    bootstrap,
    crossing,
    detectable,
    rank_correlation,
    ratio,
    recovered,
)


def test_a_95_percent_interval_covers_the_true_mean_about_that_often():
    draws = np.random.default_rng(0).normal(2.0, 3.0, size=(250, 40))
    found = [bootstrap(row, unit="window", seed=1, resamples=400) for row in draws]
    covered = np.mean([estimate.low <= 2.0 <= estimate.high for estimate in found])
    assert 0.90 <= covered <= 0.98
    width = np.mean([estimate.high - estimate.low for estimate in found])
    assert width == pytest.approx(2 * 1.96 * 3 / 40**0.5, rel=0.1)


def test_bca_leans_where_the_data_lean():
    """Of skewed data the percentile interval is too low at both ends; BCa shifts it up."""
    sample = np.random.default_rng(3).exponential(size=25)
    found = bootstrap(sample, unit="window", seed=0)
    assert found.method == "BCa"
    assert found.high - found.value > 1.15 * (found.value - found.low)


def test_the_estimate_holds_the_statistic_its_n_and_its_unit():
    sample = np.array([1.0, 2.0, 4.0, 9.0])
    mean = bootstrap(sample, unit="latent", seed=0)
    assert (mean.value, mean.n, mean.unit) == (4.0, 4, "latent")
    assert bootstrap(sample, unit="row", seed=0, statistic=np.median).value == 3.0


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    sample = np.random.default_rng(1).normal(size=30)
    one, same, other = (bootstrap(sample, unit="window", seed=s, resamples=200) for s in (1, 1, 2))
    assert one == same and (one.low, one.high) != (other.low, other.high)


def test_constant_data_have_no_width_and_say_so():
    found = bootstrap(np.full(7, 0.25), unit="window", seed=0)
    assert found == Estimate(0.25, 0.25, 0.25, 7, "window", "constant")


def test_where_bca_is_undefined_the_percentile_interval_is_named():
    mostly = np.array([0.0] * 20 + [1.0])  # leaving one out never moves this median
    found = bootstrap(mostly, unit="window", seed=0, statistic=np.median)
    assert found.method == "percentile" and found.low == found.high == 0


@pytest.mark.parametrize("sample", [[], [1.0], [1.0, np.nan, 2.0]])
def test_what_is_no_sample_is_an_error(sample):
    with pytest.raises(ValueError, match=r"two or more numbers.* windows or NaN"):
        bootstrap(np.array(sample), unit="window", seed=0)


def test_an_interval_beside_zero_excludes_it():
    assert Estimate(2, 1, 3, 9, "window").excludes_zero
    assert Estimate(-2, -3, -1, 9, "window").excludes_zero
    assert not Estimate(1, -1, 3, 9, "window").excludes_zero
    assert not Estimate(1, 0, 3, 9, "window").excludes_zero


def test_an_estimate_reads_as_a_number_with_interval_n_and_unit():
    assert (
        str(Estimate(0.1, -0.05, 0.25, 40, "window")) == "+0.100 [-0.050, +0.250] (n = 40 windows)"
    )
    other = Estimate(0.1, -0.05, 0.25, 40, "latent", "percentile")
    assert str(other).endswith("(n = 40 latents, percentile)")


def test_recovered_is_a_ratio_of_means_not_a_mean_of_ratios():
    coder, ablated = np.array([1.0, 1.0, 2.0]), np.array([3.0, 2.0, 2.5])
    arm = np.array([2.0, 2.0, 1.5])
    found = recovered(coder, ablated, arm, seed=0, resamples=500)
    assert found.value == pytest.approx((1 + 0 + 1) / (2 + 1 + 0.5))
    assert found.low <= found.value <= found.high and found.n == 3
    assert recovered(coder, ablated, coder, seed=0).value == 1
    assert recovered(coder, ablated, ablated, seed=0).high == 0


def test_recovered_resamples_windows_in_pairs():
    """An arm that recovers half in every window does so in every resample."""
    coder, ablated = np.random.default_rng(0).random((2, 30)) + np.array([[0.0], [2.0]])
    found = recovered(coder, ablated, (coder + ablated) / 2, seed=1)
    np.testing.assert_allclose(found[:3], 0.5)


def test_the_interval_of_recovered_covers_the_ratio_about_95_times_in_100():
    generator, covered = np.random.default_rng(4), []
    for _ in range(200):
        coder, noise = generator.normal(1, 0.2, 60), generator.normal(0, 0.5, 60)
        found = recovered(coder, coder + 2, coder + 1 + noise, seed=0, resamples=400)
        covered.append(found.low <= 0.5 <= found.high)
    assert 0.89 <= np.mean(covered) <= 0.99


def test_detectable_is_2_8_standard_errors():
    assert detectable(np.array([0.0, 2.0, 0.0, 2.0])) == pytest.approx(2.8 * (4 / 3) ** 0.5 / 2)
    sample = np.random.default_rng(0).normal(size=10_000)
    assert detectable(sample) == pytest.approx(0.028, rel=0.03)


def test_an_effect_of_detectable_size_is_seen_four_times_in_five():
    generator = np.random.default_rng(5)
    effect = 2.8 / 50**0.5
    seen = [
        bootstrap(generator.normal(effect, 1, 50), unit="window", seed=0, resamples=300)
        for _ in range(200)
    ]
    assert 0.70 <= np.mean([estimate.low > 0 for estimate in seen]) <= 0.90


# ── crossing ──────────────────────────────────────────────────────────────────────────────────


LEVELS = np.array([0.0, 1.0, 2.0, 4.0])


def rising(n: int = 200, spread: float = 0.3, seed: int = 0) -> np.ndarray:
    """Differences that cross zero at 1.5 and rise by 1 a unit."""
    noise = np.random.default_rng(seed).normal(0, spread, (len(LEVELS), n))
    return (LEVELS - 1.5)[:, None] + noise


def test_the_crossing_is_where_the_line_through_the_means_is_zero():
    exact = crossing(LEVELS, rising(spread=0.0), seed=0, resamples=50)
    assert exact[:3] == pytest.approx((1.5, 1.5, 1.5)) and (exact.n, exact.unit) == (200, "window")
    noisy = crossing(LEVELS, rising(), seed=0)
    assert noisy.low < 1.5 < noisy.high and noisy.high - noisy.low < 0.3


def test_a_crossing_outside_the_levels_is_infinite_and_not_invented():
    found = rising(spread=0.0)
    assert crossing(LEVELS, found + 9, seed=0).value == -np.inf
    assert crossing(LEVELS, found - 9, seed=0).high == np.inf
    nearly = crossing(LEVELS, rising(20, spread=1.0) - 2.4, seed=0)
    assert nearly.high == np.inf and np.isfinite(nearly.low)


def test_a_dip_by_chance_is_levelled_before_crossing():
    means = np.array([-1.0, 0.5, -0.5, 1.0])
    found = crossing(LEVELS, np.repeat(means[:, None], 3, axis=1), seed=0, resamples=20)
    assert found.value == pytest.approx(2.0)


def test_the_best_level_is_the_one_with_the_least_loss_and_its_interval_holds_rivals():
    noise = np.random.default_rng(0).normal(0, 0.1, (3, 50))
    clear = best_of(np.array([0.0, 0.5, 1.0]), np.array([[1.0], [0.0], [1.0]]) + noise, seed=0)
    assert clear[:3] == (0.5, 0.5, 0.5) and clear.n == 50
    rivals = best_of(np.array([0.0, 0.5, 1.0]), np.array([[1.0], [0.0], [0.0]]) + noise, seed=0)
    assert (rivals.low, rivals.high) == (0.5, 1.0)


def test_the_interval_of_the_crossing_covers_about_95_times_in_100():
    covered = []
    for seed in range(200):
        found = crossing(LEVELS, rising(60, seed=seed), seed=0, resamples=300)
        covered.append(found.low <= 1.5 <= found.high)
    assert 0.89 <= np.mean(covered) <= 0.99


def test_a_ratio_is_of_means_and_its_interval_covers_it():
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(150):
        bottom = generator.gamma(4.0, 1.0, 60)
        top = 0.5 * bottom + generator.normal(0, 0.3, 60)
        found = ratio(top, bottom, unit="latent", seed=1, resamples=300)
        covered.append(found.low <= 0.5 <= found.high)
    assert found.value == pytest.approx(top.mean() / bottom.mean())
    assert (found.n, found.unit) == (60, "latent") and np.mean(covered) > 0.88


def test_rank_correlation_is_spearmans_and_does_not_see_monotone_changes():
    generator = np.random.default_rng(0)
    x = generator.normal(size=40)
    y = x + generator.normal(size=40)
    found = rank_correlation(x, y, unit="latent", seed=1)
    assert found.low < found.value < found.high and found.excludes_zero
    same = rank_correlation(np.exp(x), y**3, unit="latent", seed=1)
    assert same == found
    against = rank_correlation(x, -y, unit="latent", seed=1)
    assert against.value == pytest.approx(-found.value)
    assert not rank_correlation(x, generator.normal(size=40), unit="latent", seed=1).excludes_zero


def test_a_constant_has_no_rank_correlation():
    found = rank_correlation(np.ones(9), np.arange(9.0), unit="latent", seed=1)
    assert np.isnan([found.value, found.low, found.high]).all() and not found.excludes_zero

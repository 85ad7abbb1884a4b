"""Intervals: they cover, they say what they are, and they refuse what is no sample."""

import tracemalloc

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import sem, t

from rewrite_utils import stats
from rewrite_utils.stats import (
    Estimate,
    best_of,
    bootstrap,
    crossing,
    detectable,
    rank_correlation,
    ratio,
    resampled,
    resampled_means,
)


def recovered(coder, ablated, arm, **options) -> Estimate:
    """CE recovered, as the verdict has it."""
    return ratio(ablated - arm, ablated - coder, unit="window", **options)


def test_a_95_percent_interval_covers_the_true_mean_about_that_often():
    draws = np.random.default_rng(0).normal(2.0, 3.0, size=(250, 40))
    found = [bootstrap(row, unit="window", seed=1, resamples=400) for row in draws]
    covered = np.mean([estimate.low <= 2.0 <= estimate.high for estimate in found])
    assert 0.90 <= covered <= 0.98
    width = np.mean([estimate.high - estimate.low for estimate in found])
    assert width == pytest.approx(2 * 1.96 * 3 / 40**0.5, rel=0.1)


def test_bca_leans_where_the_data_lean():
    """Of skewed data the percentile interval is too low at both ends; BCa shifts it up."""
    sample = np.random.default_rng(3).exponential(size=60)
    found = bootstrap(sample, unit="window", seed=0)
    assert found.method == "BCa"
    assert found.high - found.value > 1.15 * (found.value - found.low)


@pytest.mark.parametrize("n", [20, 300])
def test_bca_is_scipys(n):
    """Jackknife by a formula, resamples in parts: the same numbers."""
    sample = np.random.default_rng(n).gamma(1.0, size=n)
    theirs = scipy_bootstrap(
        (sample,), np.mean, n_resamples=500, method="BCa", rng=np.random.default_rng(7)
    ).confidence_interval
    ones = np.ones(n)
    draws = resampled_means(sample[:, None], seed=7, resamples=500)[:, 0]
    left_out = (sample.sum() - sample) / (n - 1)
    found = stats._bca(draws, sample.mean(), left_out)
    assert found[:2] == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert found[2] == "BCa" and ratio(sample, ones, unit="a", seed=7, resamples=500) == bootstrap(
        sample, unit="a", seed=7, resamples=500
    )


@pytest.mark.parametrize("n", [8, 12, 20])
def test_intervals_of_few_units_cover_what_they_say(n):
    """BCa alone covered 82 to 89 in 100 of them; the wider of it and Student's t is named."""
    draws = np.random.default_rng(n).normal(2.0, 3.0, size=(400, n))
    found = [bootstrap(row, unit="window", seed=1, resamples=300) for row in draws]
    assert 0.92 <= np.mean([estimate.low <= 2.0 <= estimate.high for estimate in found]) <= 0.99
    assert {estimate.method for estimate in found} <= {"BCa", "Student's t"}
    one = next(row for row, estimate in zip(draws, found, strict=True) if "t" in estimate.method)
    expected = t.interval(0.95, n - 1, one.mean(), sem(one))
    assert bootstrap(one, unit="window", seed=1)[1:3] == pytest.approx(expected)


def test_many_units_take_little_memory():
    """30,000 latents asked for 15 GB: all resamples at once, and a jackknife of n² numbers."""
    sample = np.random.default_rng(0).normal(1.0, 2.0, 30_000)
    tracemalloc.start()
    found = bootstrap(sample, unit="latent", seed=0, resamples=300)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6 and found.high - found.low == pytest.approx(
        2 * 1.96 * 2 / 3e4**0.5, rel=0.1
    )


def test_the_estimate_holds_the_statistic_its_n_and_its_unit():
    sample = np.array([1.0, 2.0, 4.0, 9.0])
    mean = bootstrap(sample, unit="latent", seed=0)
    assert (mean.value, mean.n, mean.unit) == (4.0, 4, "latent")
    named = {"a": 4.0, "a_low": mean.low, "a_high": mean.high}
    assert mean.named("a") == named and mean.low < 4 < mean.high


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    sample = np.random.default_rng(1).normal(size=60)
    one, same, other = (bootstrap(sample, unit="window", seed=s, resamples=200) for s in (1, 1, 2))
    assert one == same and (one.low, one.high) != (other.low, other.high)


@pytest.mark.parametrize("level", [0.25, 0.0, 0.1])
def test_constant_data_have_no_interval_and_say_so(level):
    """Not one of no width: seven equal numbers do not prove an eighth."""
    found = bootstrap(np.full(7, level), unit="window", seed=0)
    assert found.value == pytest.approx(level) and (found.n, found.method) == (7, "constant")
    assert np.isnan(found.low) and np.isnan(found.high) and not found.excludes_zero
    assert str(found).endswith("[no interval] (n = 7 windows, constant)")


def test_where_bca_is_undefined_the_percentile_interval_is_named():
    draws, left_out = np.array([1.0, 2.0, 3.0, 4.0]), np.ones(5)
    low, high, method = stats._bca(draws, 9.0, left_out)  # every resample is below the value
    assert method == "percentile" and (low, high) == (1.075, 3.925)


def test_what_is_no_sample_is_an_error_that_names_the_unit():
    for sample in ([], [1.0]):
        with pytest.raises(ValueError, match="two or more windows, got"):
            bootstrap(np.array(sample), unit="window", seed=0)
    for wrong in (np.nan, np.inf):
        sample = np.array([1.0, 2.0, wrong, 3.0])
        with pytest.raises(ValueError, match=f"latent 2 is {wrong}: no interval"):
            bootstrap(sample, unit="latent", seed=0)
        with pytest.raises(ValueError, match=f"row 17 is {wrong}: no interval"):
            bootstrap(sample, unit="row", seed=0, units=np.array([4, 4, 17, 17]))
    with pytest.raises(ValueError, match="4 numbers do not fit 3 rows"):
        bootstrap(np.arange(4.0), unit="row", seed=0, units=np.arange(3))
    with pytest.raises(ValueError, match="two or more rows, got 1"):
        bootstrap(np.arange(4.0), unit="row", seed=0, units=np.full(4, 6))


# ── several numbers a unit ────────────────────────────────────────────────────────────────────


def clustered(seed: int, rows: int = 60):
    """One to five windows a row, alike within it: (values, row of each); the mean is 2."""
    generator = np.random.default_rng(seed)
    units = np.repeat(np.arange(rows), generator.integers(1, 6, rows))
    own = generator.normal(0, 1, rows)[units]
    return 2 + own + generator.normal(0, 0.3, len(units)), units


def test_windows_of_one_row_are_resampled_together():
    """Taken for independent, windows of one row said 95 and covered some 70 of 100."""
    whole, apart = [], []
    for seed in range(200):
        values, units = clustered(seed)
        options = {"seed": 0, "resamples": 300}
        whole.append(bootstrap(values, unit="row", units=units, **options))
        apart.append(bootstrap(values, unit="window", **options))
    covered = [np.mean([e.low <= 2 <= e.high for e in found]) for found in (whole, apart)]
    assert covered[0] > 0.9 and covered[1] < 0.8
    values, units = clustered(0)
    assert whole[0].value == pytest.approx(values.mean())
    assert (whole[0].n, whole[0].unit) == (60, "row")


def test_units_of_one_number_are_numbers():
    values, _ = clustered(0)
    labels = np.random.default_rng(0).permutation(len(values)) + 100
    order = np.argsort(labels)
    alone = bootstrap(values[order], unit="row", seed=0)
    assert bootstrap(values, unit="row", units=labels, seed=0) == pytest.approx(alone)
    one = detectable(values, units=labels), detectable(values)
    assert one[0] == pytest.approx(one[1])


def test_the_same_rows_twice_tell_nothing_more():
    """Doubling every window leaves the interval of rows as it is, and halves that of windows."""
    values, units = np.random.default_rng(0).normal(size=70), np.arange(70)
    once = bootstrap(values, unit="row", seed=0)
    twice = bootstrap(np.repeat(values, 2), unit="row", units=np.repeat(units, 2), seed=0)
    assert twice[:3] == pytest.approx(once[:3])
    doubled = detectable(np.repeat(values, 2), units=np.repeat(units, 2))
    assert doubled == pytest.approx(detectable(values))
    coder, ablated = np.zeros(70), 3 + values
    arm, rows = ablated * 0.4 + 0.1 * values**2, np.repeat(units, 2)
    plain = recovered(coder, ablated, arm, seed=1)
    paired = recovered(*(np.repeat(x, 2) for x in (coder, ablated, arm)), seed=1, units=rows)
    assert paired[:3] == pytest.approx(plain[:3])
    levels = np.array([0.0, 1.0])
    both = np.stack([values - 2, values + 2])
    for function in (crossing, best_of):
        found = function(levels, np.repeat(both, 2, axis=1), units=rows, seed=0)
        assert (
            found[:4] == pytest.approx(function(levels, both, seed=0)[:4]) and found.unit == "row"
        )
    middle = [
        resampled(
            lambda which, x=x: float(np.median(x[which])), len(x), unit="row", seed=0, units=u
        )
        for x, u in ((values, None), (np.repeat(values, 2), rows))
    ]
    assert middle[1] == pytest.approx(middle[0])


# ── what an estimate says ─────────────────────────────────────────────────────────────────────


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
    assert recovered(coder, ablated, ablated, seed=0).value == 0
    assert recovered(coder, coder, arm, seed=0).method == "undefined"  # nothing to recover


def test_recovered_resamples_windows_in_pairs():
    """An arm that recovers half in every window does so in every resample."""
    coder, ablated = np.random.default_rng(0).random((2, 30)) + np.array([[0.0], [2.0]])
    found = recovered(coder, ablated, (coder + ablated) / 2, seed=1)
    assert found.value == pytest.approx(0.5) and found.method == "constant"
    nearly = (coder + ablated) / 2 + 1e-6 * np.random.default_rng(1).normal(size=30)
    np.testing.assert_allclose(recovered(coder, ablated, nearly, seed=1)[:3], 0.5, atol=1e-5)


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


def test_the_median_of_many_draws_at_a_time_is_that_of_one_after_the_other():
    sample = np.random.default_rng(3).normal(size=40)
    together = stats.median(sample, unit="window", seed=5, resamples=300)
    apart = stats.median(sample, unit="window", seed=5, resamples=300, units=np.arange(40))
    assert together.value == apart.value == np.median(sample)
    assert (together.low, together.high) == (apart.low, apart.high)

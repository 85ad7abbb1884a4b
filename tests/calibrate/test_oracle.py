"""The corrupted oracle has the quality and the shape asked for; false alarms are as declared."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from rewrite_utils import calibrate as cal
from rewrite_utils.calibrate import Target
from rewrite_utils.calibrate.oracle import Oracle, lift_for, rating_shape, with_false_alarms


def rng(seed=0):
    return np.random.default_rng(seed)


def activations(windows=4000, latents=6, seed=0):
    """Rates from 2 to 30 %, sizes from 1 to 50."""
    generator = rng(seed)
    active = generator.random((windows, latents)) < np.linspace(0.02, 0.3, latents)
    size = np.geomspace(1, 50, latents)
    return (active * size * generator.gamma(3.0, 1 / 3, active.shape)).astype(np.float32)


def real_ratings(windows=300, latents=8):
    """Skewed ratings with drift by window (.4), level by latent (.5) and rest (.3)."""
    generator = rng(7)
    drift, level = generator.normal(0, 0.4, (windows, 1)), generator.normal(0, 0.5, latents)
    return 3.7 + drift + level + 0.3 * (generator.gamma(4.0, 0.5, (windows, latents)) - 2)


def oracle_of(true, auroc, seed=1):
    shape = rating_shape(real_ratings())
    return Oracle.of(shape, Target.from_true(true), auroc=auroc, generator=rng(seed))


def aurocs(true, ratings):
    return np.array([roc_auc_score(t > 0, r) for t, r in zip(true.T, ratings.T, strict=True)])


@pytest.mark.parametrize("auroc", [0.5, 0.7, 0.85, 0.95])
def test_the_oracle_has_the_auroc_asked_for(auroc):
    true = activations()
    ratings = oracle_of(true, auroc).ratings(true, generator=rng(2)).astype(float)
    weights = (true > 0).sum(0)
    assert np.average(aurocs(true, ratings), weights=weights) == pytest.approx(auroc, abs=0.015)


def test_its_ratings_are_distributed_like_the_real_ones():
    true, real = activations(), real_ratings()
    ratings = oracle_of(true, 0.8).ratings(true, generator=rng(2))
    assert ratings.dtype == np.float16 and ratings.shape == true.shape
    assert stats.ks_2samp(ratings.ravel().astype(float), real.ravel()).statistic < 0.005
    ours, theirs = rating_shape(ratings), rating_shape(real)
    assert ours.window / ours.rest == pytest.approx(theirs.window / theirs.rest, rel=0.15)


def test_stronger_activations_are_rated_higher():
    true = activations()
    ratings = oracle_of(true, 0.85).ratings(true, generator=rng(2)).astype(float)
    last = true[:, -1] > 0
    assert stats.spearmanr(true[last, -1], ratings[last, -1]).statistic > 0.3


def test_centring_takes_the_mood_of_the_window_out():
    true = activations()
    ratings = oracle_of(true, 0.75).ratings(true, generator=rng(2)).astype(float)
    gain = aurocs(true, cal.center(ratings)) - aurocs(true, ratings)
    assert (gain > 0.02).all()


def test_the_same_generator_gives_the_same_ratings():
    true = activations(windows=50)
    one, two = (oracle_of(true, 0.8).ratings(true, generator=rng(2)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_lift_of_equal_activations_has_a_closed_form():
    expected = np.sqrt(2) * stats.norm.ppf(0.9)
    assert lift_for(np.ones(5), 0.9) == pytest.approx(expected)
    assert lift_for(np.ones(5), 0.5) == 0


@pytest.mark.parametrize("auroc", [0.3, 1.0, 1.5])
def test_impossible_aurocs_are_errors(auroc):
    with pytest.raises(ValueError, match=f"AUROC {auroc} is not in"):
        lift_for(np.ones(3), auroc)
    with pytest.raises(ValueError, match="no activation to lift"):
        lift_for(np.zeros(0), 0.7)
    with pytest.raises(ValueError, match="two windows and two latents"):
        rating_shape(np.ones((1, 4)))


@pytest.mark.parametrize("specificity", [0.5, 0.9, 0.99])
def test_false_alarms_have_the_specificity_and_the_strength_declared(specificity):
    true = activations()
    out = with_false_alarms(true, Target.from_true(true), specificity=specificity, seed=3)
    silent = true == 0
    np.testing.assert_array_equal(out[~silent], true[~silent])
    assert (out[silent] == 0).mean() == pytest.approx(specificity, abs=0.005)
    for j in range(true.shape[1]):
        alarms = out[silent[:, j] & (out[:, j] > 0), j]
        assert np.isin(alarms, true[:, j]).all()
    alarms = out[silent[:, -1] & (out[:, -1] > 0), -1]
    assert alarms.mean() == pytest.approx(true[true[:, -1] > 0, -1].mean(), rel=0.2)


def test_higher_specificity_has_a_part_of_the_alarms_of_a_lower_one():
    true = activations(windows=500)
    low, high = (
        with_false_alarms(true, Target.from_true(true), specificity=s, seed=3) for s in (0.9, 0.99)
    )
    more = (high > 0) & (true == 0)
    np.testing.assert_array_equal(high[more], low[more])
    assert more.sum() < ((low > 0) & (true == 0)).sum()


def test_limits_of_specificity():
    true = activations(windows=200)
    target = Target.from_true(true)
    np.testing.assert_array_equal(with_false_alarms(true, target, specificity=1.0, seed=0), true)
    assert (with_false_alarms(true, target, specificity=0.0, seed=0) > 0).all()
    with pytest.raises(ValueError, match=r"specificity 99.0 is not in \[0, 1\]"):
        with_false_alarms(true, target, specificity=99.0, seed=0)


def test_a_latent_that_never_fires_has_no_false_alarms():
    true = activations(windows=200)
    true[:, [2, -1]] = 0
    out = with_false_alarms(true, Target.from_true(true), specificity=0.2, seed=0)
    assert (out[:, [2, -1]] == 0).all() and (out[:, 0] > 0).any()

"""As good as which checkpoint: known curves, both outsides, curves that turn, real losses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewrite_utils.latents.windows import Windows
from rewrite_utils.rewrite.equivalence import equivalent, next_token_losses

STEPS = (0, 1, 2, 4, 8, 16, 32)


def windows(levels, n=40, spread=0.3, seed=0) -> np.ndarray:
    """Losses whose mean over windows is exactly ``levels``, every window with its own offset."""
    offset = np.random.default_rng(seed).normal(0, spread, (n, 1))
    return np.asarray(levels, float)[None] + offset - offset.mean()


FALLING = windows([8.0, 7.0, 6.0, 5.0, 4.0, 3.5, 3.25])


@given(st.floats(3.25, 7.99), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_the_step_found_has_that_loss(level, seed):
    found = equivalent(FALLING, windows([level], seed=seed)[:, 0], STEPS, seed=0, resamples=50)
    x = np.log1p(STEPS)
    assert np.interp(np.log1p(found.first), x, FALLING.mean(0)) == pytest.approx(level)
    assert found.crossings == 1 and found.first == found.last
    assert found.low - 1e-9 <= found.first <= found.high + 1e-9


def test_the_model_itself_is_its_last_checkpoint():
    found = equivalent(FALLING, FALLING[:, -1], STEPS, seed=0)
    assert (found.first, found.low, found.high) == pytest.approx((32, 32, 32))
    assert found.answer == "step 32: 100.0% [100.0%, 100.0%] of training"


def test_paired_windows_make_the_interval_narrow():
    """The windows' own difficulty is in the curve and in the patched loss: it cancels."""
    paired = equivalent(FALLING, FALLING[:, 3] + 0.1, STEPS, seed=0)
    apart = equivalent(FALLING, windows([5.1], seed=9)[:, 0], STEPS, seed=0)
    assert paired.high - paired.low < 1e-6 < 0.1 < apart.high - apart.low


def test_a_loss_outside_the_curve_has_no_step():
    worse = equivalent(FALLING, FALLING[:, 0] + 1, STEPS, seed=0)
    better = equivalent(FALLING, FALLING[:, -1] - 1, STEPS, seed=0)
    assert (worse.first, worse.crossings) == (-np.inf, 0)
    assert (better.last, better.crossings) == (np.inf, 0)
    assert worse.answer == "worse than every checkpoint ([none, none] of training)"
    assert better.answer == "better than every checkpoint ([beyond, beyond] of training)"


def test_an_interval_may_reach_beyond_the_last_checkpoint():
    near = equivalent(FALLING, windows([3.27], seed=3)[:, 0], STEPS, seed=0)
    assert near.crossings == 1 and near.high == np.inf and np.isfinite(near.low)
    assert near.answer.endswith("beyond] of training")


def test_a_curve_that_turns_gives_every_answer():
    turning = windows([8.0, 6.0, 4.0, 5.0, 3.0, 2.0, 1.0])
    found = equivalent(turning, windows([4.5])[:, 0], STEPS, seed=0)
    assert found.crossings == 3
    assert 1 < found.first < 2 < 4 < found.last < 8
    assert found.low <= found.first and found.high >= found.last
    assert "not unique: the curve passes it 3 times, from step 2 to 5" in found.answer


def test_the_interval_covers():
    """95 % intervals of the mean of 30 windows hold the truth most of the time."""
    hits = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        difficulty = draw.normal(0, 1, (30, 1))
        curve = np.array([8.0, 7, 6, 5, 4, 3.5, 3.25]) + difficulty + draw.normal(0, 0.3, (30, 7))
        patched = 5.5 + difficulty[:, 0] + draw.normal(0, 0.5, 30)
        found = equivalent(curve, patched, STEPS, seed=seed, resamples=300)
        truth = np.expm1((np.log1p(2) + np.log1p(4)) / 2)
        hits += found.low <= truth <= found.high
    assert 0.85 <= hits / 60 <= 1


@pytest.mark.parametrize(
    ("curve", "patched", "steps", "says"),
    [
        (FALLING, FALLING[:, 0], STEPS[:3], "40 windows and 7 checkpoints does not fit 40 .* 3"),
        (FALLING, FALLING[:, 0], STEPS[::-1], "do not grow"),
        (FALLING[:, :1], FALLING[:, 0], (4,), "two or more"),
        (FALLING, np.full(40, np.nan), STEPS, "missing or infinite"),
    ],
)
def test_what_makes_no_curve_is_an_error(curve, patched, steps, says):
    with pytest.raises(ValueError, match=says):
        equivalent(curve, patched, steps, seed=0)


@torch.no_grad()
def test_losses_are_of_the_token_behind_the_window(subject, plain, rows):
    ends = np.array([3, 7, 3, 10, 1])
    which = np.array([0, 1, 1, 3, 2])
    found = next_token_losses(subject, rows.numpy(), Windows(which, ends), batch=2)
    log_p = plain(rows).logits.log_softmax(-1)
    for loss, row, end in zip(found, which, ends, strict=True):
        assert loss == pytest.approx(-log_p[row, end, rows[row, end + 1]].item(), abs=1e-5)


def test_windows_of_one_row_are_resampled_together():
    """Each row twice is no more evidence than once; without its rows it looks like it."""
    patched = FALLING[:, 3] + np.random.default_rng(2).normal(size=len(FALLING)) / 4
    twice = np.repeat(FALLING, 2, axis=0), np.repeat(patched, 2)
    rows = np.repeat(np.arange(len(patched)), 2)
    once, by_row, apart = (
        equivalent(FALLING, patched, STEPS, seed=0),
        equivalent(*twice, STEPS, seed=0, units=rows),
        equivalent(*twice, STEPS, seed=0),
    )
    assert (by_row.low, by_row.high) == pytest.approx((once.low, once.high))
    assert apart.high - apart.low < 0.9 * (once.high - once.low)

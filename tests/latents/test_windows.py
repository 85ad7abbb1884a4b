"""The windows drawn from a latent cache: where they end, what they hold, that they differ."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from latent_cases import all_windows, cache_of, drawn, truths

from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.windows import (
    by_deciles,
    draw_windows,
    firing_windows,
    shared_rows,
    silent_windows,
    window_tokens,
    window_values,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_windows_end_at_the_rated_token():
    tokens = np.arange(24).reshape(2, 12)
    cache = cache_of(np.zeros((2, 12, 1), np.float32), tokens)
    found = window_tokens(cache, Windows(np.array([1, 0]), np.array([5, 11])), 4)
    assert found.tolist() == [[14, 15, 16, 17], [8, 9, 10, 11]]


@given(truths(), st.integers(1, 8))
def test_window_values_are_the_activations_of_the_windows_tokens(truth, length):
    dense, tokens = truth
    assume(length < tokens.shape[1])
    cache, windows = cache_of(dense, tokens), all_windows(tokens)
    fits = windows.ends >= length
    windows = Windows(windows.rows[fits], windows.ends[fits])
    latent = cache.n_latents - 1
    found = window_values(cache, latent, windows, length)
    for row, end, values in zip(*windows, found, strict=True):
        np.testing.assert_array_equal(values, dense[row, end + 1 - length : end + 1, latent])


@given(truths(), st.integers(1, 8))
def test_firing_windows_hold_their_peaks_and_stay_in_the_row(truth, length):
    dense, tokens = truth
    assume(length < tokens.shape[1])
    cache, latent = cache_of(dense, tokens), dense.shape[2] - 1
    windows, peaks = firing_windows(cache, latent, window_tokens=length)
    assert (windows.ends >= length).all() and (windows.ends < tokens.shape[1]).all()
    values = window_values(cache, latent, windows, length)
    assert all(peak in row for peak, row in zip(peaks, values, strict=True))


@given(truths(), st.integers(1, 8))
def test_no_token_is_in_two_firing_windows_and_no_row_that_fires_is_without(truth, length):
    dense, tokens = truth
    assume(length < tokens.shape[1])
    latent = dense.shape[2] - 1
    windows, peaks = firing_windows(cache_of(dense, tokens), latent, window_tokens=length)
    for row, values in enumerate(dense[..., latent]):
        ends = windows.ends[windows.rows == row]
        assert (np.diff(np.sort(ends)) >= length).all()
        assert peaks[windows.rows == row].max(initial=0) == values.max()


def test_a_peak_stands_two_thirds_into_its_window():
    dense = np.zeros((1, 64, 1), np.float32)
    dense[0, 20, 0] = 1
    cache = cache_of(dense, np.zeros((1, 64), int))
    windows, _ = firing_windows(cache, 0, window_tokens=12)
    assert windows.ends.tolist() == [24]
    assert np.flatnonzero(window_values(cache, 0, windows, 12)[0]).tolist() == [7]


def test_a_latent_that_never_fires_has_no_window():
    windows, peaks = firing_windows(cache_of(*drawn()), 0, window_tokens=4)
    assert len(windows.rows) == len(windows.ends) == len(peaks) == 0


@given(st.integers(0, 300), st.integers(1, 60), st.integers(0, 99), st.booleans())
def test_deciles_are_evenly_drawn(n, count, seed, spread):
    peaks = rng(seed).permutation(n).astype(np.float32)
    chosen = by_deciles(peaks, count, rng(seed), spread=spread)
    assert len(chosen) == min(n, count) == len(set(chosen.tolist()))
    assert (np.diff(peaks[chosen]) <= 0).all()
    deciles = np.array_split(np.argsort(-peaks), 10)
    taken = np.array([np.isin(chosen, decile).sum() for decile in deciles])
    spare = np.array([len(decile) for decile in deciles]) - taken
    assert taken.max() - taken[spare > 0].min(initial=99) <= 1


def test_fewer_windows_than_deciles_are_the_strongest_or_spread_over_all():
    peaks = np.arange(200, dtype=np.float32)

    def deciles(count, *, spread):
        chosen = by_deciles(peaks, count, rng(4), spread=spread)
        return ((199 - chosen) // 20).tolist()

    assert deciles(5, spread=False) == [0, 1, 2, 3, 4]
    assert deciles(5, spread=True) == [1, 3, 5, 7, 9]
    assert deciles(2, spread=True) == [2, 7] and deciles(1, spread=True) == [5]
    assert deciles(12, spread=True) == sorted([*range(10), 2, 7])
    assert deciles(20, spread=True) == deciles(20, spread=False) == sorted([*range(10)] * 2)
    assert len(by_deciles(peaks[:3], 2, rng(0), spread=True)) == 2
    assert len(by_deciles(peaks[:3], 9, rng(0), spread=True)) == 3
    assert by_deciles(peaks, 0, rng(0), spread=True).tolist() == []


def test_deciles_are_drawn_at_random_within_each():
    peaks = np.arange(200, dtype=np.float32)
    draws = [set(by_deciles(peaks, 10, rng(seed)).tolist()) for seed in range(20)]
    assert len(set.union(*draws)) > 80
    assert draws[3] == set(by_deciles(peaks, 10, rng(3)).tolist())


@settings(deadline=None)
@given(truths(), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_silent_windows_are_silent_and_one_a_row(truth, length, count, seed):
    dense, tokens = truth
    cache, latent = cache_of(dense, tokens), dense.shape[2] - 1
    assume(length < tokens.shape[1])
    windows = silent_windows(cache, latent, window_tokens=length, count=count, generator=rng(seed))
    assert not window_values(cache, latent, windows, length).any()
    assert (windows.ends >= length).all() and (windows.ends < tokens.shape[1]).all()
    places = [
        any(not row[end + 1 - length : end + 1].any() for end in range(length, len(row)))
        for row in dense[..., latent]
    ]
    assert len(windows.rows) == min(count, sum(places)) == len(set(windows.rows.tolist()))


def test_silent_windows_prefer_rows_in_which_the_latent_never_fires():
    dense = np.zeros((12, 20, 1), np.float32)
    dense[:9, 19, 0] = 1
    cache = cache_of(dense, np.zeros((12, 20), int))

    def rows(count):
        found = silent_windows(cache, 0, window_tokens=4, count=count, generator=rng(count))
        return set(found.rows.tolist())

    assert rows(3) == {9, 10, 11}
    assert rows(2) < {9, 10, 11}
    assert rows(5) > {9, 10, 11}


def test_silent_windows_end_anywhere_that_is_silent():
    dense = np.zeros((400, 10, 1), np.float32)
    dense[:, 5, 0] = 1
    cache = cache_of(dense, np.zeros((400, 10), int))
    found = silent_windows(cache, 0, window_tokens=2, count=400, generator=rng())
    assert set(found.ends.tolist()) == {2, 3, 4, 7, 8, 9}


def anywhere(n_rows: int) -> np.ndarray:
    """Rows that say nothing against any position."""
    return np.ones((n_rows, 100), bool)


@given(st.integers(1, 8), st.integers(1, 60), st.integers(1, 9), st.integers(0, 9), st.integers())
def test_drawn_windows_are_different_and_in_range(n_rows, count, first, more, seed):
    last = first + more
    assume(count <= n_rows * (more + 1))
    windows = draw_windows(
        anywhere(n_rows), count, first=first, last=last, generator=rng(abs(seed))
    )
    assert windows.rows.shape == windows.ends.shape == (count,)
    assert len(set(zip(*map(np.ndarray.tolist, windows), strict=True))) == count
    assert windows.ends.min() >= first and windows.ends.max() <= last
    for start in range(0, count, n_rows):
        part = windows.rows[start : start + n_rows].tolist()
        assert len(set(part)) == len(part) and max(part) < n_rows


def test_drawn_ends_reach_first_and_last_and_are_uniform():
    windows = draw_windows(anywhere(5000), 5000, first=3, last=7, generator=rng())
    counts = np.bincount(windows.ends)
    assert len(counts) == 8 and counts[:3].sum() == 0
    assert abs(counts[3:] - 1000).max() < 130  # 4.6 standard deviations


@given(st.integers(1, 8), st.integers(1, 30), st.integers(1, 30), st.integers(0, 99))
def test_more_windows_begin_with_the_same_windows(n_rows, count, more, seed):
    assume(count + more <= n_rows * 9)
    few, many = (
        draw_windows(anywhere(n_rows), size, first=2, last=10, generator=rng(seed))
        for size in (count, count + more)
    )
    for one, other in zip(few, many, strict=True):
        np.testing.assert_array_equal(one, other[:count])


def test_the_same_seed_draws_the_same_windows():
    def draw(seed):
        return draw_windows(anywhere(7), 12, first=2, last=9, generator=rng(seed))

    np.testing.assert_array_equal(draw(4), draw(4))
    assert not np.array_equal(draw(4), draw(5))


def test_windows_end_only_where_they_may():
    where = rng().random((6, 20)) < 0.4
    where[2] = False
    count = int(where[:, 3:10].sum())
    windows = draw_windows(where, count, first=3, last=9, generator=rng())
    assert where[windows.rows, windows.ends].all()
    assert len(set(zip(*map(np.ndarray.tolist, windows), strict=True))) == count
    alive = int(where[:, 3:10].any(1).sum())
    assert len(set(windows.rows[:alive].tolist())) == alive  # a row twice only after all once
    with pytest.raises(ValueError, match=f"{count + 1} windows asked for"):
        draw_windows(where, count + 1, first=3, last=9, generator=rng())


def test_more_windows_than_places_is_an_error_that_says_so():
    assert len(draw_windows(anywhere(3), 12, first=2, last=5, generator=rng()).rows) == 12
    with pytest.raises(ValueError, match=r"13 windows .* 3 rows have only 12 positions 2 … 5"):
        draw_windows(anywhere(3), 13, first=2, last=5, generator=rng())


def test_rows_are_units_only_where_some_have_several_windows():
    assert shared_rows(np.array([4, 2, 9])) is None
    assert shared_rows(np.array([4, 2, 4])).tolist() == [4, 2, 4]

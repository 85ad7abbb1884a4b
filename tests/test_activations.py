"""The latent cache against whole arrays of activations, and the windows drawn from it."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from latent_cases import all_windows, cache_of, drawn, truths
from splice_cases import HOOKPOINTS, coder_for

from rewrite_utils import activations
from rewrite_utils.activations import (
    LatentCache,
    Windows,
    activation_batches,
    by_deciles,
    cache_latents,
    draw_windows,
    energy,
    firing_windows,
    silent_windows,
    window_tokens,
    window_values,
)
from rewrite_utils.splice import hooked


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ── the cache ─────────────────────────────────────────────────────────────────────────────────


@given(truths())
def test_statistics_are_over_all_tokens_but_the_bos(truth):
    dense, tokens = truth
    cache, flat = cache_of(dense, tokens), dense[:, 1:].reshape(-1, dense.shape[2])
    assert cache.n_latents == dense.shape[2]
    assert cache.n_tokens == len(flat)
    np.testing.assert_array_equal(cache.counts, (flat > 0).sum(0))
    np.testing.assert_allclose(cache.rate, (flat > 0).mean(0))
    np.testing.assert_allclose(cache.mean, flat.mean(0, dtype=np.float64), atol=1e-6)
    np.testing.assert_allclose(cache.variance, flat.var(0, dtype=np.float64), atol=1e-5)
    np.testing.assert_array_equal(cache.maximum, flat.max(0))


def test_statistics_of_a_case_done_by_hand():
    dense = np.zeros((2, 4, 2), np.float32)
    dense[0, 1, 0], dense[1, 3, 0] = 4.0, 2.0
    cache = cache_of(dense, np.zeros((2, 4), np.int64))
    assert cache.counts.tolist() == [2, 0]
    assert cache.rate.tolist() == [2 / 6, 0]
    assert cache.mean.tolist() == [1.0, 0]
    assert cache.variance.tolist() == [20 / 6 - 1, 0]
    assert cache.maximum.tolist() == [4, 0]


def test_mistake_a_latents_maximum_is_not_its_neighbours():
    """The original read the maxima from unsorted slices; dead latents in between are the trap."""
    dense = np.zeros((1, 5, 6), np.float32)
    for latent, top in ((1, 9.0), (2, 1.0), (4, 5.0)):
        dense[0, 1:3, latent] = top / 2, top
    assert cache_of(dense, np.zeros((1, 5), int)).maximum.tolist() == [0, 9, 1, 0, 5, 0]


@given(truths(), st.integers(0, 99))
def test_dense_is_the_activation_at_the_last_token(truth, seed):
    dense, tokens = truth
    windows = all_windows(tokens)
    some = rng(seed).permutation(len(windows.rows))[: 1 + len(windows.rows) // 2]
    windows = Windows(windows.rows[some], windows.ends[some])
    found = cache_of(dense, tokens).dense(windows)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, dense[windows.rows, windows.ends])


@given(truths())
def test_firings_of_one_latent(truth):
    dense, tokens = truth
    cache = cache_of(dense, tokens)
    for latent in range(cache.n_latents):
        firings = cache.of(latent)
        rows, positions = np.nonzero(dense[..., latent])
        np.testing.assert_array_equal(firings.rows, rows)
        np.testing.assert_array_equal(firings.positions, positions)
        np.testing.assert_array_equal(firings.values, dense[rows, positions, latent])
        assert 0 not in firings.positions


def test_a_written_cache_is_read_back(tmp_path):
    cache = cache_of(*drawn())
    cache.write(tmp_path / "cache.safetensors")
    again = LatentCache.read(tmp_path / "cache.safetensors")
    for field in ("tokens", "start", "row", "position", "value"):
        saved, read = getattr(cache, field), getattr(again, field)
        np.testing.assert_array_equal(saved, read)
        assert saved.dtype == read.dtype


def test_energy_is_variance_times_the_decoders_squared_norm():
    cache, coder = cache_of(*drawn(latents=40)), coder_for(HOOKPOINTS[0])
    coder.W_dec.data *= torch.linspace(0.5, 3, 40)[:, None]  # random rows have norm 1
    norms = [float((row.double() ** 2).sum()) for row in coder.W_dec.detach()]
    np.testing.assert_allclose(energy(cache, coder), cache.variance * norms, rtol=1e-5)


# ── filling it ────────────────────────────────────────────────────────────────────────────────


def dense_by_hand(subject, hookpoint, coder, rows):
    """TopK of the ReLU, row by row, from the activations of a whole forward pass."""
    _, kept = subject.bridge.run_with_cache(rows)
    x = kept[hookpoint.input_hook].detach()
    x = x - coder.b_dec if hookpoint.kind == "resid" else x
    z = (x @ coder.W_enc.T + coder.b_enc).relu()
    kth = z.topk(coder.config.k, dim=-1).values[..., -1:]
    z = torch.where(z >= kth, z, 0.0).detach()
    z[:, 0] = 0
    return z.numpy()


def test_mistake_the_cache_holds_latents_of_the_coders_input(
    subject, hookpoint, coder, rows, tmp_path
):
    """The original stored decoder outputs, and read outputs where a transcoder needs inputs."""
    cache = cache_latents(subject, hookpoint, coder, rows, folder=tmp_path, name="t", batch=3)
    by_hand = dense_by_hand(subject, hookpoint, coder, rows)
    grid = np.zeros_like(by_hand)
    for latent in range(cache.n_latents):
        firings = cache.of(latent)
        grid[firings.rows, firings.positions, latent] = firings.values
    np.testing.assert_allclose(grid, by_hand, atol=1e-4)
    np.testing.assert_array_equal(cache.tokens, rows.numpy())
    assert cache.counts.sum() == len(cache.value) > 0
    assert (cache.value > 0).all() and (cache.position > 0).all()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_cache_goes_on_and_is_the_same(subject, rows, tmp_path, monkeypatch):
    hookpoint, coder = HOOKPOINTS[0], coder_for(HOOKPOINTS[0])

    def make(folder):
        return cache_latents(subject, hookpoint, coder, rows, folder=folder, name="t", batch=1)

    whole, encode, seen = make(tmp_path / "whole"), activations._encode, []

    def dying(*arguments):
        if len(seen) == 2:
            seen.append("killed")
            raise KeyboardInterrupt
        seen.append("encoded")
        return encode(*arguments)

    monkeypatch.setattr(activations, "_encode", dying)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "killed")
    again = make(tmp_path / "killed")
    assert seen.count("encoded") == len(rows)
    for field in ("tokens", "start", "row", "position", "value"):
        np.testing.assert_array_equal(getattr(whole, field), getattr(again, field))


def test_activation_batches_leave_out_the_bos_and_keep_the_order(subject, hookpoint, rows):
    parts = list(activation_batches(subject, hookpoint, rows, batch=3))
    acts = hooked(subject, rows, hookpoint)
    for side, whole in enumerate((acts.inputs, acts.outputs)):
        found = torch.cat([part[side] for part in parts])
        torch.testing.assert_close(found, whole[:, 1:].reshape(-1, whole.shape[-1]))


# ── windows ───────────────────────────────────────────────────────────────────────────────────


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
def test_one_firing_window_for_each_segment_that_fires(truth, length):
    """The segments of a row do not overlap; each gives the largest activation in it, once."""
    dense, tokens = truth
    latent = dense.shape[2] - 1
    _, peaks = firing_windows(cache_of(dense, tokens), latent, window_tokens=length)
    segments = [
        row[start : start + length, latent].max()
        for row in dense
        for start in range(0, len(row), length)
    ]
    assert peaks.tolist() == [peak for peak in segments if peak > 0]


def test_a_peak_stands_two_thirds_into_its_window():
    dense = np.zeros((1, 64, 1), np.float32)
    dense[0, 20, 0] = 1
    cache = cache_of(dense, np.zeros((1, 64), int))
    windows, _ = firing_windows(cache, 0, window_tokens=12)
    assert windows.ends.tolist() == [24]
    assert np.flatnonzero(window_values(cache, 0, windows, 12)[0]).tolist() == [7]


@pytest.mark.parametrize("length", [4, 8, 16])
def test_firing_windows_differ_where_segments_fill_the_row(length):
    dense = np.ones((3, 32, 1), np.float32)
    dense += rng().random(dense.shape, np.float32)
    dense[:, 0] = 0
    windows, _ = firing_windows(cache_of(dense, np.zeros((3, 32), int)), 0, window_tokens=length)
    assert len(set(zip(*map(np.ndarray.tolist, windows), strict=True))) == 3 * 32 // length


def test_a_latent_that_never_fires_has_no_window():
    windows, peaks = firing_windows(cache_of(*drawn()), 0, window_tokens=4)
    assert len(windows.rows) == len(windows.ends) == len(peaks) == 0


@given(st.integers(0, 300), st.integers(1, 60), st.integers(0, 99))
def test_deciles_are_evenly_drawn(n, count, seed):
    peaks = rng(seed).permutation(n).astype(np.float32)
    chosen = by_deciles(peaks, count, rng(seed))
    assert len(chosen) == min(n, count) == len(set(chosen.tolist()))
    assert (np.diff(peaks[chosen]) <= 0).all()
    deciles = np.array_split(np.argsort(-peaks), 10)
    taken = np.array([np.isin(chosen, decile).sum() for decile in deciles])
    spare = np.array([len(decile) for decile in deciles]) - taken
    assert taken.max() - taken[spare > 0].min(initial=99) <= 1


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


@given(st.integers(1, 8), st.integers(1, 60), st.integers(1, 9), st.integers(0, 9), st.integers())
def test_drawn_windows_are_different_and_in_range(n_rows, count, first, more, seed):
    last = first + more
    assume(count <= n_rows * (more + 1))
    windows = draw_windows(n_rows, count, first=first, last=last, generator=rng(abs(seed)))
    assert windows.rows.shape == windows.ends.shape == (count,)
    assert len(set(zip(*map(np.ndarray.tolist, windows), strict=True))) == count
    assert windows.ends.min() >= first and windows.ends.max() <= last
    for start in range(0, count, n_rows):
        part = windows.rows[start : start + n_rows].tolist()
        assert len(set(part)) == len(part) and max(part) < n_rows


def test_drawn_ends_reach_first_and_last_and_are_uniform():
    windows = draw_windows(5000, 5000, first=3, last=7, generator=rng())
    counts = np.bincount(windows.ends)
    assert len(counts) == 8 and counts[:3].sum() == 0
    assert abs(counts[3:] - 1000).max() < 130  # 4.6 standard deviations


def test_the_same_seed_draws_the_same_windows():
    def draw(seed):
        return draw_windows(7, 12, first=2, last=9, generator=rng(seed))

    np.testing.assert_array_equal(draw(4), draw(4))
    assert not np.array_equal(draw(4), draw(5))


def test_more_windows_than_places_is_an_error_that_says_so():
    assert len(draw_windows(3, 12, first=2, last=5, generator=rng()).rows) == 12
    with pytest.raises(ValueError, match=r"13 windows .* 3 rows have only 12 positions 2 … 5"):
        draw_windows(3, 13, first=2, last=5, generator=rng())

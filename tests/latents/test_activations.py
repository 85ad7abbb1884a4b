"""The latent cache and the output's moments against whole arrays of activations."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from latent_cases import all_windows, cache_of, drawn, truths
from splice_cases import HOOKPOINTS, coder_for

from rewrite_utils.coder.sparse import CoderConfig, random_coder
from rewrite_utils.latents import cache as activations
from rewrite_utils.latents.cache import (
    LatentCache,
    OutputMoments,
    Windows,
    cache_latents,
    energy,
)
from rewrite_utils.runs.whole import DamagedFileWarning
from rewrite_utils.subject.splice import hooked


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
    cache, _ = cache_latents(subject, hookpoint, coder, rows, folder=tmp_path, name="t", batch=3)
    by_hand = dense_by_hand(subject, hookpoint, coder, rows)
    grid = np.zeros_like(by_hand)
    for latent in range(cache.n_latents):
        firings = cache.of(latent)
        grid[firings.rows, firings.positions, latent] = firings.values
    np.testing.assert_allclose(grid, by_hand, atol=1e-4)
    np.testing.assert_array_equal(cache.tokens, rows.numpy())
    assert cache.counts.sum() == len(cache.value) > 0
    assert (cache.value > 0).all() and (cache.position > 0).all()


@pytest.mark.parametrize("name", ["jumprelu", "batchtopk"])
def test_a_coder_without_k_is_cached_like_any_other(subject, rows, tmp_path, name):
    """As many firings a token as are above their threshold, another number in every batch."""
    config = CoderConfig(d_in=32, num_latents=40, transcode=False, hookpoint="layers.1")
    coder, hookpoint = random_coder(config, torch.Generator().manual_seed(3)), HOOKPOINTS[2]
    coder.threshold += {"jumprelu": torch.linspace(0, 3, 40), "batchtopk": 1.5}[name]
    cache, _ = cache_latents(subject, hookpoint, coder, rows, folder=tmp_path, name="t", batch=1)
    x = hooked(subject, rows, hookpoint).inputs - coder.b_dec
    z = (x @ coder.W_enc.T + coder.b_enc).relu()
    z = torch.where(z > coder.threshold, z, 0.0).detach()
    z[:, 0] = 0
    grid = np.zeros(z.shape, np.float32)
    for latent in range(40):
        firings = cache.of(latent)
        grid[firings.rows, firings.positions, latent] = firings.values
    np.testing.assert_allclose(grid, z, atol=1e-4)
    assert len(set((z > 0).sum(-1)[:, 1:].flatten().tolist())) > 3


def test_a_batch_that_was_cut_is_made_again_and_one_that_was_made_is_kept(subject, rows, tmp_path):
    hookpoint, coder = HOOKPOINTS[0], coder_for(HOOKPOINTS[0])

    def make():
        return cache_latents(subject, hookpoint, coder, rows, folder=tmp_path, name="t", batch=1)

    whole = make()
    files = sorted(tmp_path.iterdir())
    assert len(files) == len(rows)  # kept until the result is on disk
    files[1].write_bytes(files[1].read_bytes()[:-40])
    files[2].write_bytes(b"")
    with pytest.warns(DamagedFileWarning, match=f"{files[1].name} is damaged"):
        again = make()
    np.testing.assert_array_equal(whole[0].value, again[0].value)
    np.testing.assert_array_equal(whole[1].mean, again[1].mean)


def test_a_killed_write_leaves_no_cache_that_looks_whole(tmp_path, monkeypatch):
    """What was cut while it was written counted as whole, and failed for ever."""
    file = tmp_path / "cache.safetensors"

    def dying(tensors, path):
        path.write_bytes(b"the beginning")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(activations, "save_file", dying)
        cache_of(*drawn()).write(file)
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
    for one, other in zip(whole, again, strict=True):
        for field in vars(one) if one is whole[0] else one._fields:
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_the_moments_are_of_the_hooked_output_without_the_bos(
    subject, hookpoint, coder, rows, tmp_path
):
    moments = cache_latents(subject, hookpoint, coder, rows, folder=tmp_path, name="t", batch=3)[1]
    outputs = hooked(subject, rows, hookpoint).outputs[:, 1:].flatten(0, 1)
    torch.testing.assert_close(torch.from_numpy(moments.mean), outputs.mean(0))
    squares = (outputs - outputs.mean(0)).square().sum(-1)
    assert float(moments.variance) == pytest.approx(squares.mean().item(), rel=1e-5)
    moments.write(tmp_path / "moments.safetensors")
    again = OutputMoments.read(tmp_path / "moments.safetensors")
    assert (again.mean == moments.mean).all() and again.variance == moments.variance

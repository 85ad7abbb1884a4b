"""The token table and the word list against counting by hand, token by token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from latent_cases import all_windows, cache_of, drawn, truths

from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.controls import (
    strongest_tokens,
    token_table,
    vocabulary_table,
    word_list,
)
from rewrite_utils.latents.totals import TokenTotals


def activations_of(dense, tokens, token):
    """Activations [occurrence, latent] at every place of a token, the BOS column left out."""
    return dense[:, 1:][tokens[:, 1:] == token]


def two_splits(seed, **sizes):
    """What the controls are fitted on, and other rows to look them up for (new tokens, too)."""
    fitted, asked = drawn(seed, **sizes), drawn(seed + 1, **sizes | {"kinds": 12})
    return fitted, asked


@given(st.integers(0, 999), st.sampled_from([0.25, 1.0, 8.0]))
def test_token_table_is_the_shrunken_mean_given_the_token(seed, prior):
    (dense, tokens), (other, asked) = two_splits(seed, rows=3, length=12, kinds=8)
    fitted, on = cache_of(dense, tokens), cache_of(other, asked)
    windows = all_windows(asked)
    found = token_table(fitted, windows, on, prior=prior)
    mean = dense[:, 1:].reshape(-1, dense.shape[2]).mean(0, dtype=np.float64)
    for row, end, estimate in zip(*windows, found, strict=True):
        values = activations_of(dense, tokens, asked[row, end])
        expected = (values.sum(0) + prior * mean) / (len(values) + prior)
        np.testing.assert_allclose(estimate, expected, atol=1e-5)
    assert found.dtype == np.float32


def test_a_token_never_seen_gets_the_mean_and_a_common_one_its_own():
    tokens = np.full((2, 5001), 3)
    tokens[:, 0] = 0
    tokens[1] = 4
    dense = np.zeros((2, 5001, 1), np.float32)
    dense[0, 1:] = 2.0
    on = cache_of(np.zeros((1, 4, 1), np.float32), np.array([[0, 99, 3, 4]]))
    windows = Windows(np.zeros(3, int), np.array([1, 2, 3]))
    found = token_table(cache_of(dense, tokens), windows, on)[:, 0]
    np.testing.assert_allclose(found, [1.0, 2.0, 0.0], atol=1e-3)


def test_the_bos_is_not_a_token_of_the_table():
    """Token 3 stands at position 0 of every row, where nothing can fire."""
    tokens = np.full((4, 3), 3)
    dense = np.zeros((4, 3, 1), np.float32)
    dense[:, 1:] = 5.0
    cache = cache_of(dense, tokens)
    found = token_table(cache, Windows(np.zeros(1, int), np.ones(1, int)), cache)
    np.testing.assert_allclose(found, 5.0)
    assert strongest_tokens(cache, words=1, least=9).tolist() == [[-1]]
    assert strongest_tokens(cache, words=1, least=8).tolist() == [[3]]


@given(truths(), st.integers(1, 9), st.integers(1, 4))
def test_strongest_tokens_have_the_highest_means(truth, words, least):
    dense, tokens = truth
    found = strongest_tokens(cache_of(dense, tokens), words=words, least=least)
    kinds = np.unique(tokens[:, 1:])
    for latent in range(dense.shape[2]):
        means = {}
        for kind in kinds:
            values = activations_of(dense, tokens, kind)[:, latent]
            if len(values) >= least and values.any():
                means[int(kind)] = values.mean(dtype=np.float64)
        best = sorted(means, key=lambda kind: -means[kind])[:words]
        listed = [token for token in found[:, latent].tolist() if token >= 0]
        assert listed == best
        assert set(found[len(best) :, latent].tolist()) <= {-1}


def test_a_token_seen_too_rarely_is_not_listed():
    tokens = np.array([[0, 5, 5, 5, 6, 6]])
    dense = np.zeros((1, 6, 1), np.float32)
    dense[0, :, 0] = [0, 1, 1, 1, 9, 9]
    cache = cache_of(dense, tokens)
    assert strongest_tokens(cache).tolist() == [[5], [-1]]
    assert strongest_tokens(cache, least=2).tolist() == [[6], [5]]


@given(st.integers(0, 999), st.integers(1, 4))
def test_word_list_is_membership_of_the_last_token(seed, words):
    (dense, tokens), (other, asked) = two_splits(seed, rows=4, length=15, kinds=6)
    fitted, on = cache_of(dense, tokens), cache_of(other, asked)
    windows = all_windows(asked)
    listed = strongest_tokens(fitted, words=words)
    found = word_list(fitted, windows, on, words=words)
    expected = [
        [float(asked[row, end] in listed[:, latent]) for latent in range(dense.shape[2])]
        for row, end in zip(*windows, strict=True)
    ]
    np.testing.assert_array_equal(found, expected)
    assert 0 < found.mean() < 1


def test_a_latent_that_never_fires_has_no_words_and_a_table_of_zeros():
    cache = cache_of(*drawn())
    windows = all_windows(cache.tokens)
    assert (strongest_tokens(cache)[:, 0] == -1).all()
    assert not word_list(cache, windows, cache)[:, 0].any()
    assert not token_table(cache, windows, cache)[:, 0].any()


def test_vocabulary_table_backs_off_to_similar_tokens():
    tokens = np.array([[0, 1, 1, 2, 3, 3, 3]])
    dense = np.zeros((1, 7, 1), np.float32)
    dense[0, 1:4, 0] = [4, 4, 4]
    cache = cache_of(dense, tokens)
    kinds = np.array([1, 2, 3, 9])
    vectors = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    plain = vocabulary_table(TokenTotals.of(cache), kinds)[:, 0]
    np.testing.assert_allclose(plain, [(8 + 2) / 3, (4 + 2) / 2, 2 / 4, 2], rtol=1e-6)
    backed = vocabulary_table(TokenTotals.of(cache), kinds, vectors)[:, 0]
    assert backed[3] == pytest.approx(4, abs=0.01)  # unseen, like tokens 1 and 2
    assert backed[2] < plain[2] + 0.6

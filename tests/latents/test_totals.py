"""Token totals against a loop over tokens, and through the disk."""

import numpy as np
from latent_cases import cache_of, drawn

from rewrite_utils.latents.controls import token_totals
from rewrite_utils.latents.totals import TokenTotals


def test_sums_and_occurrences_are_those_of_the_dense_table(tmp_path):
    dense, tokens = drawn()
    cache = cache_of(dense, tokens)
    found = TokenTotals.of(cache)
    asked = np.array([0, 1, 3, 2, 10_000])
    sums, seen = found.at(asked)
    for place, kind in enumerate(asked):
        where = tokens[:, 1:] == kind
        assert seen[place] == where.sum()
        np.testing.assert_allclose(sums[place], dense[:, 1:][where].sum(0), rtol=1e-5)
    np.testing.assert_allclose(found.mean, cache.mean, rtol=1e-5)
    np.testing.assert_allclose(found.at(found.kinds)[0], token_totals(cache, found.kinds)[0], 1e-5)
    found.write(tmp_path)
    again = TokenTotals.read(tmp_path)
    np.testing.assert_array_equal(again.at(asked)[0], sums)
    np.testing.assert_array_equal(again.seen, found.seen)

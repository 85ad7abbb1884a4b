"""Counterexamples: silent, alike, of every rank, and never shown twice."""

import numpy as np
import pytest
from latent_cases import cache_of, chatting_tokenizer, texts_of

from rewrite_utils.explain.asking import framed, wording
from rewrite_utils.explain.contrast import Contrast
from rewrite_utils.explain.evidence import Source
from rewrite_utils.explain.logits import Promoted
from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.windows import apart_from, firing_windows, grid_windows, silent_in
from rewrite_utils.params import Explain

LENGTH = 4
TOKENIZER = chatting_tokenizer()
TEXTS = texts_of(TOKENIZER)


DECODER = np.array([[1.0, 0.0], [0.9, 0.4], [-1.0, 0.0]], np.float32)
"""Latent 1 points nearly where latent 0 does, latent 2 the other way."""


def letters_of(texts):
    """A made-up embedding: how often each letter stands in the text, as a unit vector."""
    counts = np.array([[text.count(letter) for letter in "abcdefgxyz"] for text in texts], float)
    return (counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)).astype("f4")


def spread(rows=30, width=17):
    """Latent 0 fires on x, 1 on y, 2 on z; in a third of the rows each."""
    generator = np.random.default_rng(0)
    tokens = generator.choice(TOKENIZER.convert_tokens_to_ids(list("abcdefg")), (rows, width))
    tokens[:, 0] = 0
    for place, letter in enumerate("xyz"):
        which = np.arange(place, rows, 3)
        tokens[which, generator.integers(1, width, len(which))] = TOKENIZER.convert_tokens_to_ids(
            letter
        )
    ids = np.array(TOKENIZER.convert_tokens_to_ids(list("xyz")))
    strength = generator.uniform(1, 9, tokens.shape)
    return cache_of(((tokens[..., None] == ids) * strength[..., None]).astype("f4"), tokens)


def contrast_of(by, cache=None, **changed):
    given = {"rivals": 1, "texts": TEXTS, "decoder": DECODER, "embed": letters_of} | changed
    return Contrast(cache or spread(), by, LENGTH, **given)


def firing(cache, latent=0):
    windows, peaks = firing_windows(cache, latent, window_tokens=LENGTH)
    order = np.argsort(-peaks)
    return Windows(windows.rows[order], windows.ends[order])


@pytest.mark.parametrize("by", ["embedding", "decoder", "cofiring"])
def test_counterexamples_are_silent_and_apart(by):
    cache = spread()
    twice = cache_of(_with_both(cache), cache.tokens)
    found = contrast_of(by, twice).of(0, firing(twice), count=5, generator=np.random.default_rng(1))
    assert len(found.windows.rows) == 5
    assert silent_in(twice, 0, found.windows, LENGTH).all()
    for place in range(5):
        one = Windows(*(part[place : place + 1] for part in found.windows))
        rest = Windows(*(np.delete(part, place) for part in found.windows))
        assert apart_from(one, rest, LENGTH).all()


def _with_both(cache):
    """Latent 0 also fires on a third of latent 1's tokens, so that the two fire together."""
    dense = np.zeros((*cache.tokens.shape, 3), np.float32)
    for latent in range(3):
        of = cache.of(latent)
        dense[of.rows, of.positions, latent] = of.values
    of = cache.of(1)
    dense[of.rows[::3], of.positions[::3], 0] = 1
    return dense


def test_similar_latents_by_decoder_and_by_firing_together():
    cache = spread()
    assert contrast_of("decoder", rivals=5).similar(0) == [1]
    assert contrast_of("cofiring", rivals=5).similar(0) == []
    both = cache_of(_with_both(cache), cache.tokens)
    assert contrast_of("cofiring", both, rivals=5).similar(0) == [1]


@pytest.mark.parametrize(("count", "deciles"), [(10, list(range(10))), (2, [2, 7])])
def test_rivals_windows_come_from_all_deciles_of_the_rival(count, deciles):
    """Two of each of three similar latents are not their two strongest."""
    cache = spread(rows=300)
    found = contrast_of("decoder", cache).of(
        0, firing(cache), count=count, generator=np.random.default_rng(0)
    )
    assert set(found.rivals.tolist()) == {1}
    windows, peaks = firing_windows(cache, 1, window_tokens=LENGTH)
    rank = {
        pair: place
        for place, pair in enumerate(
            (int(windows.rows[i]), int(windows.ends[i])) for i in np.argsort(-peaks)
        )
    }
    places = [rank[int(r), int(e)] * 10 // len(peaks) for r, e in zip(*found.windows, strict=True)]
    assert sorted(places) == deciles


def read(cache, rows, ends):
    pairs = zip(rows, ends, strict=True)
    return ["".join(TEXTS(cache.tokens[row, end - LENGTH + 1 : end + 1])) for row, end in pairs]


def test_the_nearest_silent_window_of_each_firing_one_is_taken_once():
    cache = spread()
    windows = firing(cache)
    contrast = contrast_of("embedding", cache)
    found = contrast.of(0, windows, count=3, generator=np.random.default_rng(0))
    asked = np.linspace(0, len(windows.rows) - 1, 3).round().astype(int)
    silent = np.flatnonzero(silent_in(cache, 0, contrast.grid, LENGTH))
    like = letters_of(read(cache, windows.rows[asked], windows.ends[asked]))
    pool = letters_of(read(cache, contrast.grid.rows[silent], contrast.grid.ends[silent]))
    taken = []
    for vector in like:
        order = [i for i in np.argsort(-(pool @ vector), kind="stable") if i not in taken]
        taken.append(order[0])
    assert found.windows.rows.tolist() == contrast.grid.rows[silent[taken]].tolist()
    assert found.windows.ends.tolist() == contrast.grid.ends[silent[taken]].tolist()
    assert (found.rivals == -1).all()


def test_fewer_silent_windows_than_asked_are_all_there_are():
    dense = np.ones((2, 9, 1), np.float32)
    dense[:, 0] = 0
    dense[1, 1:5] = 0
    cache = cache_of(dense, np.ones((2, 9), int))
    contrast = Contrast(
        cache, "embedding", LENGTH, 1, lambda ids: ["a"] * len(ids), DECODER[:1], letters_of
    )
    found = contrast.of(0, firing(cache), count=5, generator=np.random.default_rng(0))
    assert [part.tolist() for part in found.windows] == [[1], [4]]


def test_the_grid_covers_the_rows_without_the_bos():
    cache = spread(rows=2, width=11)
    grid = grid_windows(cache, LENGTH)
    assert list(zip(*map(np.ndarray.tolist, grid), strict=True)) == [(0, 4), (0, 8), (1, 4), (1, 8)]


def test_an_embedder_is_asked_for_where_it_is_needed():
    with pytest.raises(ValueError, match="give embed=Embedder"):
        contrast_of("embedding", embed=None).of(
            0, firing(spread()), count=1, generator=np.random.default_rng(0)
        )


# ── in the prompt ─────────────────────────────────────────────────────────────────────────────


def shown(by="decoder", **changed):
    settings = Explain(windows=3, window_tokens=LENGTH, words=2, counterexamples=2, contrast=by)
    cache = spread()
    contrast = contrast_of(by, cache)
    return (
        Source(cache, settings, TEXTS, 5, contrast, **changed).shown(0, strongest="x").split("\n")
    )


def test_counterexamples_stand_behind_the_windows_with_the_rivals_tokens_at_zero():
    lines = shown()
    at = lines.index("No response:")
    assert len(lines[1:at]) == 6 and all("«x»" in line for line in lines[1:at:2])
    counter = lines[at + 1 :]
    assert len(counter) == 4 and counter[1::2] == [" y: 0", " y: 0"]
    assert all("«" not in line and "y" in line and "x" not in line for line in counter[::2])


def test_counterexamples_by_embedding_have_no_list():
    lines = shown("embedding")
    counter = lines[lines.index("No response:") + 1 :]
    assert [line[:3] for line in counter] == ["1. ", "2. "]


def test_logits_are_named_without_spaces_and_once():
    ends = Promoted([(" be", 3.0), ("be", 2.5), (" have", 2.0)], [("\n", -3.0)])
    lines = shown(promoted=lambda latent: ends)
    assert lines[-2:] == ["Makes likelier: be, have", "Makes less likely: \\n"]


def test_the_wording_follows_the_options():
    plain = Explain()
    assert wording(plain) == "explain" and plain.options == ()
    more = Explain(contrast="cofiring", logits=3)
    assert wording(more) == "explain_more" and more.options == ("contrast", "logits")
    text = TOKENIZER.decode(framed(TOKENIZER, more)("EVIDENCE").shared)
    assert "No response:" in text and "Makes likelier:" in text
    assert "No response:" not in TOKENIZER.decode(framed(TOKENIZER, plain)("EVIDENCE").shared)

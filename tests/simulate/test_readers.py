"""Readers: from texts alone to activations; nothing of a subject or a coder is in reach here."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from latent_cases import cache_of
from scipy.sparse import csr_array

from rewrite_utils.explain.described import Description
from rewrite_utils.latents.words import Word
from rewrite_utils.simulate.prompt import ExplanationError
from rewrite_utils.simulate.readers.competing import Competing
from rewrite_utils.simulate.readers.context import Context, Output
from rewrite_utils.simulate.readers.curves import Curves
from rewrite_utils.simulate.readers.features import English, Lexical, Likeness, Plain, normal, shape
from rewrite_utils.simulate.readers.passes import Passes
from rewrite_utils.simulate.readers.reader import Calibrated, Reader, dense
from rewrite_utils.simulate.readers.spaces import Remembering
from rewrite_utils.simulate.readers.text import Block, Places, Text, by_kind, every_kind, truth
from rewrite_utils.subject.pieces import spelled

KINDS = ["<bos>", *(f" w{number}" for number in range(60))]
PER = 5
"""Words of one theme: the words 5 j … 5 j + 4 are alike, and latent j fires on them."""


def placed(words):
    """Vectors in which the words of a theme are near one another."""
    vectors = np.zeros((len(words), 16), np.float32)
    for row, word in zip(vectors, words, strict=True):
        if word.strip()[1:].isdigit():
            number = int(word.strip()[1:])
            row[number // PER] = 1
            row[12 + number % 4] = 0.3
    return vectors


SPACE = Remembering("fake", placed)


def world(seed, rows=40, length=24, latents=12):
    """A text, the true activations, and descriptions that name two of each theme's five words."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, len(KINDS), (rows, length))
    tokens[:, 0] = 0
    acts = np.zeros((rows, length, latents), np.float32)
    for latent in range(latents):
        acts[..., latent] = (1 + latent) * ((tokens - 1) // PER == latent) * (tokens > 0)
    text = Text.of(tokens, lambda ids: [KINDS[i] for i in ids])
    told = [
        Description("", (Word(f" w{PER * j}", "strongly"), Word(f" w{PER * j + 1}", "clearly")), 40)
        for j in range(latents)
    ]
    return text, acts, [one.text("c") for one in told]


def sparse(acts):
    return csr_array(acts.reshape(-1, acts.shape[-1]))


@pytest.fixture(scope="module")
def learned():
    text, acts, told = world(0)
    common = dict(zip(text.kinds, text.counts.tolist(), strict=True))
    features = (Lexical(), Likeness(SPACE), Plain(common))
    reader = Reader(features, trees=30).cross_fit(told, text, sparse(acts), np.arange(12), folds=3)
    return Calibrated.fit(reader, told, text, sparse(acts)), told


def test_a_reader_reads_unnamed_words_of_latents_it_was_not_fitted_on(learned):
    reader, told = learned
    text, acts, _ = world(1, rows=10)
    found = dense(reader.read(told, text), text)
    assert found.shape == acts.shape
    assert not found[:, 0].any()
    error = ((found - acts) ** 2).sum() / ((acts - acts.mean((0, 1))) ** 2).sum()
    assert error < 0.1


def test_lexical_alone_knows_the_named_words_only():
    text, acts, told = world(0)
    reader = Reader((Lexical(),), trees=30)
    fitted = reader.cross_fit(told, text, sparse(acts), np.arange(12))
    found = dense(fitted.read(told, text), text)
    named, unnamed = (found[text.rows == text.kinds.index(f" w{n}"), 0].mean() for n in (0, 3))
    assert named > 2 * unnamed


def test_an_edited_description_is_read_at_once(learned):
    reader, told = learned
    text, _, _ = world(1, rows=20)
    edited = [told[5], *told[1:]]
    found = dense(reader.read(edited, text), text)
    before = dense(reader.read(told, text), text)
    np.testing.assert_array_equal(found[..., 1:], before[..., 1:])
    theme = np.isin(text.rows, [text.kinds.index(f" w{n}") for n in range(25, 30)])
    assert found[theme, 0].mean() > before[theme, 0].mean()


def test_no_latent_trains_the_reader_that_reads_it_or_its_twin():
    text, acts, told = world(0)
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    reader = Reader((Lexical(),), trees=5)
    fitted = reader.cross_fit(told, text, sparse(acts), groups, folds=3)
    assert (fitted.fold[::2] == fitted.fold[1::2]).all()
    changed = acts.copy()
    changed[..., :2] = 100 * np.random.default_rng(0).random(acts[..., :2].shape)
    again = reader.cross_fit(told, text, sparse(changed), groups, folds=3)
    one, other = (dense(f.read(told, text), text) for f in (fitted, again))
    np.testing.assert_array_equal(one[..., :2], other[..., :2])
    assert not np.array_equal(one, other)


def test_one_latent_falls_back_to_features_without_parameters():
    text, acts, told = world(0)
    reader = Reader((Lexical(), Likeness(SPACE)))
    one = reader.cross_fit(told[:1], text, sparse(acts[..., :1]), np.zeros(1, int))
    assert one.readers[0].trees is None
    calibrated = Calibrated.fit(one, told[:1], text, sparse(acts[..., :1]))
    found = dense(calibrated.read(told[:1], text), text)
    assert np.corrcoef(found.ravel(), acts[..., 0].ravel())[0, 1] > 0.95


def test_dead_latents_are_read_as_silent():
    text, acts, told = world(0)
    acts = acts.copy()
    acts[..., 3] = 0
    reader = Reader((Lexical(),), trees=5).cross_fit(told, text, sparse(acts), np.arange(12))
    found = dense(Calibrated.fit(reader, told, text, sparse(acts)).read(told, text), text)
    assert not found[..., 3].any()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("text", ["", "   ", '""""', "…"])
def test_a_description_that_says_nothing_is_an_error(learned, text):
    reader, told = learned
    with pytest.raises(ExplanationError, match="description 2 says nothing"):
        next(reader.read([*told[:2], text, *told[3:]], world(1, rows=1)[0]))


ODD = ["河流的名字", "word " * 2000, 'fires on "\\""', 'fires on "\ufffd"']


@pytest.mark.parametrize("text", ODD)
def test_odd_descriptions_are_read(learned, text):
    reader, told = learned
    some, _, _ = world(1, rows=1)
    assert np.isfinite(dense(reader.read([text, *told[1:]], some), some)).all()


def test_another_number_of_descriptions_is_an_error(learned):
    reader, told = learned
    with pytest.raises(ValueError, match="3 descriptions for a reader of 12 latents"):
        next(reader.read(told[:3], world(1, rows=1)[0]))


def test_a_token_is_read_alike_in_every_text(learned):
    reader, told = learned
    (one, _, _), (other, _, _) = world(1, rows=20), world(2, rows=30)
    found = [dense(reader.read(told, text), text) for text in (one, other)]
    word = [text.rows == text.kinds.index(" w7") for text in (one, other)]
    np.testing.assert_array_equal(found[0][word[0]][0], found[1][word[1]][0])


def test_truth_of_a_cache_and_its_mean_by_kind():
    text, acts, _ = world(0, rows=3)
    tokens = np.array([[KINDS.index(text.kinds[kind]) for kind in row] for row in text.rows])
    table = truth(cache_of(acts, tokens))
    np.testing.assert_allclose(table.toarray().reshape(acts.shape), acts)
    mean = by_kind(table, text).toarray()
    for kind in range(1, len(text.kinds)):
        np.testing.assert_allclose(mean[kind], acts[text.rows == kind].mean(0), rtol=1e-5)


def test_a_curve_leans_on_the_shared_one_where_little_was_seen():
    generator = np.random.default_rng(0)
    score = generator.exponential(1, (4000, 3)).astype(np.float32)
    true = score * np.array([1, 10, 0.1], np.float32)
    true[1:, 2] = 0  # a latent seen to fire once
    places = Places(np.zeros(4000, int), np.arange(4000))
    curves = Curves.fit([(Block(places, score), csr_array(true), np.ones(4000))])
    found = curves(score)
    assert np.corrcoef(found[:, 1], true[:, 1])[0, 1] > 0.98
    assert (np.diff(curves.y, axis=1) >= -1e-6).all()
    with pytest.raises(ValueError, match="no places to calibrate on"):
        Curves.fit([])


def test_scores_are_read_beside_one_another():
    generator = np.random.default_rng(0)
    text, acts, told = world(0)

    class Noisy:
        """The truth in a crowd: where one latent fires, all others score half as much."""

        def read(self, descriptions, given):
            places = given.places
            here = acts.reshape(-1, acts.shape[-1])[places.at] > 0
            level = generator.uniform(0.5, 3, (len(here), 1))
            values = level * np.where(here, 1.0, 0.5) + generator.normal(0, 0.02, here.shape)
            yield Block(places, values.astype(np.float32))

    competing = Competing.fit(Noisy(), told, text, sparse(acts))
    found = dense(competing.read(told, text), text)
    alone = dense(Noisy().read(told, text), text)
    scores = (np.corrcoef(x.ravel(), (acts > 0).ravel())[0, 1] for x in (found, alone))
    together, before = scores
    assert together > 0.99
    assert before < 0.8


def test_shapes_and_normal_forms():
    assert normal(" The") == normal("the") == "the"
    assert normal("\n") == "\n"
    assert shape(" The") == shape(" Cat") != shape("The")
    assert len({shape(one) for one in (" 1", " a", " A", ".", " abc")}) == 5


def test_the_english_part_is_compared():
    text, acts, _ = world(0)
    told = [Description(f" w{PER * j}").text("a") for j in range(12)]
    reader = Reader((English(SPACE),), trees=20).cross_fit(told, text, sparse(acts), np.arange(12))
    found = dense(Calibrated.fit(reader, told, text, sparse(acts)).read(told, text), text)
    assert np.corrcoef(found.ravel(), acts.ravel())[0, 1] > 0.9


def states_of(text):
    """Pretended LLM states: each says the theme of the token before, too."""
    now = placed([text.kinds[kind] for kind in text.rows.ravel()])
    return np.concatenate([now, np.roll(now, 1, axis=0)], axis=1)


def test_context_sees_what_the_token_alone_does_not_say():
    text, acts, _ = world(0, rows=60)
    later = np.roll(acts, 1, axis=1) > 0  # fires one token behind its theme
    later[:, :2] = False
    told = [Description(f" w{PER * j}") for j in range(12)]
    true = sparse(later.astype(np.float32))
    fitted = Context(states_of, SPACE).fitted(told, text, true)
    found = fitted.bind(told, text)(text.places, slice(0, 12))[..., 0]
    assert np.corrcoef(found.ravel(), later[:, 1:].ravel())[0, 1] > 0.8
    some = fitted.bind(told[:3], text)(text.places, slice(1, 3))[..., 0]
    np.testing.assert_allclose(some, found[:, 1:3], atol=1e-5)
    unfitted = Context(states_of, SPACE).bind(told, text)(text.places, slice(0, 12))
    assert unfitted.shape == (*found.shape, 1)
    assert not unfitted.any()


def test_states_that_are_nan_are_an_error():
    text, acts, told = world(0, rows=4)
    feature = Context(lambda text: np.full((text.rows.size, 4), np.nan, np.float32), SPACE)
    with pytest.raises(ValueError, match="states are NaN or infinite"):
        Reader((feature,)).cross_fit(told, text, sparse(acts), np.arange(12))


def test_output_adds_up_the_chances_of_raised_words():
    text, acts, _ = world(0, rows=20)
    told = [Description("x", raises=(f"r{j}", "q"), lowers=("s",)).text() for j in range(12)]

    def chances(given, words):
        out = np.full((given.rows.size, len(words)), 1e-6, np.float32)
        for column, word in enumerate(words):
            if word.startswith("r"):
                out[:, column] = (acts[..., int(word[1:])] > 0).ravel() * 0.5 + 1e-6
        return out

    reader = Reader((Output(chances),), trees=20)
    fitted = reader.cross_fit(told, text, sparse(acts), np.arange(12))
    found = dense(Calibrated.fit(fitted, told, text, sparse(acts)).read(told, text), text)
    assert np.corrcoef(found.ravel(), acts.ravel())[0, 1] > 0.95


def test_damaged_spaces_are_an_error():
    space = Remembering("broken", lambda words: np.full((len(words), 2), np.nan))
    with pytest.raises(ValueError, match="the space 'broken' gives NaN for ' w0'"):
        space([" w0"])


def test_an_llm_reads_each_row_once(plain, tokenizer, tmp_path):
    calls = []
    passes = Passes(lambda: calls.append(1) or plain, tokenizer, tmp_path)
    ids = tokenizer("the inn, a thin", add_special_tokens=False)["input_ids"]
    text = Text.of(np.array([[0, *ids]]), lambda kinds: spelled(tokenizer, kinds.tolist()))
    with torch.no_grad():
        expected = plain.base_model(torch.tensor([ids])).last_hidden_state[0]
        chances = plain(torch.tensor([ids])).logits[0].softmax(-1)
    states = passes.states(text)
    assert not states[0].any()
    np.testing.assert_allclose(states[1:], expected, atol=0.02)  # kept as bfloat16
    found = passes.chances(text, [" the", "a"])
    first = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (" the", "a")]
    np.testing.assert_allclose(found[1:], chances[:, first], atol=1e-3)
    again = Passes(lambda: pytest.fail("loaded again"), tokenizer, tmp_path)
    np.testing.assert_array_equal(again.states(text), states)
    assert calls == [1]
    with pytest.raises(ValueError, match="no token for the word ''"):
        passes.chances(text, [""])


def test_an_llm_with_other_tokens_is_read_where_the_place_ends(plain, tokenizer, tmp_path):
    text = Text(("<bos>", "the in", "n"), np.array([[0, 1, 2]]))
    ids = tokenizer("the inn", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        expected = plain.base_model(torch.tensor([ids])).last_hidden_state[0]
    found = Passes(lambda: plain, tokenizer, tmp_path).states(text)
    np.testing.assert_allclose(found[1:], expected[[-2, -1]], atol=0.02)


def test_every_kind_once():
    text, _, _ = world(0, rows=2)
    assert every_kind(text).kinds.tolist() == list(range(len(text.kinds)))


def test_reading_needs_neither_subject_nor_coder():
    code = (
        "import sys, pickle\n"
        "reader, told, text = pickle.load(sys.stdin.buffer)\n"
        "blocks = list(reader.read(told, text))\n"
        "assert blocks\n"
        "import gc, torch\n"
        "models = [o for o in gc.get_objects() if isinstance(o, torch.nn.Module)]\n"
        "assert not any(list(one.parameters()) for one in models)\n"
    )
    text, acts, told = world(0, rows=10)
    reader = Reader((Lexical(),), trees=3).cross_fit(told, text, sparse(acts), np.arange(12))
    given = pickle.dumps((reader, told, text))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()

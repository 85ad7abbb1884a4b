"""Counted words, descriptions in levels, and their reading back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from latent_cases import cache_of, chatting_tokenizer, drawn

from rewrite_utils.explain.described import LEVELS, Description, parse
from rewrite_utils.latents.neighbours import clusters
from rewrite_utils.latents.totals import TokenTotals
from rewrite_utils.latents.words import STRENGTHS, Word, count_words
from rewrite_utils.subject.pieces import spelled

NAMES = {1: " the", 2: "The", 3: "\n", 4: "é", 5: "\\xe6", 6: '"', 7: "x"}


def named(ids):
    return [NAMES[one] for one in ids.tolist()]


def test_counts_by_mass_with_strengths_and_share():
    tokens = np.array([[0, 1, 1, 1, 2, 3, 5]])
    dense = np.zeros((1, 7, 2), np.float32)
    dense[0, 1:, 0] = [2, 2, 2, 8, 1, 5]  # mass: 36/4, 64/2, 1/2; token 5 has no text
    words, covered = count_words(TokenTotals.of(cache_of(dense, tokens)), named, words=2)[0]
    assert words == (Word("The", "strongly"), Word(" the", "clearly"))
    assert covered == round(100 * 14 / 20)


def test_a_dead_latent_has_no_words():
    dense, tokens = drawn()
    counted = count_words(TokenTotals.of(cache_of(dense, tokens)), named)
    assert counted[0] == ((), 0)
    assert all(one.words for one in counted[1:])
    assert Description("", *counted[0]).text() == ""


def test_words_in_parts_of_characters_are_not_named():
    tokenizer = chatting_tokenizer()
    ids = tokenizer("é é", add_special_tokens=False)["input_ids"]
    tokens = np.array([[0, *ids]])
    dense = np.ones((*tokens.shape, 1), np.float32)
    dense[:, 0] = 0
    words, covered = count_words(
        TokenTotals.of(cache_of(dense, tokens)), lambda ids: spelled(tokenizer, ids.tolist())
    )[0]
    assert [word.text for word in words] == [" "]
    assert covered < 100


def test_no_words_asked_for_is_an_error():
    dense, tokens = drawn()
    with pytest.raises(ValueError, match="a list of 0 words says nothing"):
        count_words(TokenTotals.of(cache_of(dense, tokens)), named, words=0)


FULL = Description(
    'Names of "rivers"; they flow',
    (Word(" the", "strongly"), Word("\n", "faintly"), Word("Rhine"), Word("THE")),
    65,
    (" a",),
    ("\\", '"'),
)


def test_the_levels_of_one_sentence():
    assert [FULL.text(level) for level in LEVELS] == [
        'Names of "rivers"; they flow',
        'Names of "rivers"; they flow; fires on "Rhine", "THE".',
        'Names of "rivers"; they flow; fires on "Rhine"; fires strongly on " the"; '
        'faintly on "\\n"; 65 % of its firing lies there.',
        'Names of "rivers"; they flow; fires on "Rhine"; fires strongly on " the"; '
        'faintly on "\\n"; 65 % of its firing lies there; raises " a"; lowers "\\\\", "\\"".',
    ]


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
WORDS = st.builds(Word, TEXT, st.sampled_from(["", *STRENGTHS]))
TEXTS = st.lists(TEXT, max_size=4).map(tuple)


@given(
    st.builds(
        Description,
        st.sampled_from(["", "rivers", "河流的名字", '"""', "says raises x; y", "a; b"]),
        st.lists(WORDS, max_size=6).map(tuple),
        st.integers(0, 100),
        TEXTS,
        TEXTS,
    ),
    st.sampled_from(LEVELS),
)
def test_a_text_is_read_back(description, level):
    assert parse(description.text(level)) == description.at(level)


ODD = ["", '""""', "words " * 2000, 'fires "on" x', 'raises "\\x"', "; "]


@pytest.mark.parametrize("text", ODD)
def test_what_has_no_parts_is_english(text):
    assert parse(text) == Description(text.strip())


def test_clusters_join_near_duplicates_and_chains():
    angles = np.radians([0, 20, 40, 120, 200, 0])
    decoder = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    decoder[5] = 0  # a dead direction is near nothing
    found = clusters(decoder, cosine=0.9, block=2)
    assert found[0] == found[1] == found[2]
    assert len(set(found.tolist())) == 4

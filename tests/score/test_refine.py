"""The second round: its windows, what counts as a mistake, and what becomes of the sentence."""

import numpy as np
import pandas as pd
import pytest
from latent_cases import FakeEngine, cache_of, chatting_tokenizer, drawn, texts_of

from rewrite_utils.explain.asking import Explanation
from rewrite_utils.explain.contrast import Contrast
from rewrite_utils.explain.evidence import Source
from rewrite_utils.latents.windows import apart_from, silent_in, window_values
from rewrite_utils.params import Explain
from rewrite_utils.score.refine import held_out, mistakes, refine

SETTINGS = Explain(windows=3, window_tokens=5, words=2, refine=4, retries=1)


def source(settings=SETTINGS, contrast=None):
    dense, tokens = drawn(3, rows=40, length=31)
    dense *= np.random.default_rng(9).random(dense.shape) < 0.2
    tokens[:, 1:] += chatting_tokenizer().convert_tokens_to_ids("a") - 1
    cache = cache_of(dense, tokens)
    return Source(cache, settings, texts_of(chatting_tokenizer()), 7, contrast)


def told(*sentences):
    rows = [
        Explanation(latent, text, "p", "t", "old reply", 1, 9)
        for latent, text in enumerate(sentences, 1)
    ]
    return pd.DataFrame(rows, columns=list(Explanation._fields))


def asked_again(text):
    return "Old explanation:" in text.rpartition("<|user|>")[2]


def test_held_out_windows_are_none_of_those_shown():
    contrast = Contrast(
        source().cache, "cofiring", 5, 2, source().texts, np.eye(5, dtype=np.float32)
    )
    given = source(contrast=contrast)
    for latent in (1, 2, 3, 4):
        shown, tried = given.chosen(latent), held_out(given, latent)
        assert len(shown.counter.windows.rows) > 0
        assert apart_from(tried.windows, shown.firing, 5).all()
        assert apart_from(tried.windows, shown.counter.windows, 5).all()
        fires = (window_values(given.cache, latent, tried.windows, 5) > 0).any(1)
        np.testing.assert_array_equal(fires, tried.active)
        assert 0 < tried.active.sum() <= 4 and (~tried.active).sum() == 4


def test_held_out_windows_are_of_all_deciles():
    """Four are not the four strongest: a sentence is wrong about weak firings, too."""
    dense = np.zeros((100, 13, 1), np.float32)
    dense[:, 7, 0] = np.random.default_rng(0).permutation(100) + 1.0
    settings = SETTINGS.model_copy(update={"windows": 1, "strategy": "top"})
    given = Source(cache_of(dense, np.ones((100, 13), int)), settings, source().texts, 7)
    tried = held_out(given, 0)
    peaks = dense[tried.windows.rows[tried.active], 7, 0].astype(int)
    assert [(99 - peak) // 10 for peak in peaks] == [1, 3, 6, 8]


def test_mistakes_are_those_of_a_judge_who_says_yes_as_often_as_is_right():
    active = np.array([True, True, True, False, False, False])
    found = mistakes(active, np.array([0.3, 0.1, 0.05, 0.2, 0.15, 0.01]))
    assert (list(found.misses), list(found.alarms)) == ([2, 1], [3, 4])
    none = mistakes(active, np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.1]))
    assert not none.misses and not none.alarms


def test_a_judge_who_cannot_tell_is_wrong_everywhere():
    found = mistakes(np.array([True, True, False, False]), np.full(4, 0.25))
    assert sorted(found.misses) == [0, 1] and sorted(found.alarms) == [2, 3]


def test_a_sentence_with_mistakes_is_written_anew_and_the_old_one_kept_beside_it(tmp_path):
    engine = FakeEngine(
        rate=lambda text, answer: [0.75, 0.25, *[0.0] * 8],
        reply=lambda text, seed: " q\nEXPLANATION: better words",
    )
    table = refine(source(), told("first", "second"), engine, folder=tmp_path)
    assert table["explanation"].tolist() == ["better words"] * 2
    assert table["sentence"].tolist() == ["better words (t)"] * 2
    assert table["before"].tolist() == ["first", "second"]
    assert (table["misses"] > 0).all() and (table["alarms"] == table["misses"]).all()
    again = [text for text in engine.asked if asked_again(text)]
    assert len(again) == 2 and "Old explanation: first\nMissed:\n1. " in again[0]
    question = again[0].rpartition("<|user|>")[2]
    assert "«" in question.partition("False alarms:")[0].partition("Missed:")[2]
    assert "«" not in question.partition("False alarms:")[2]
    assert [file.name for file in tmp_path.iterdir()] == ["explanations.parquet"]


def test_a_sentence_without_mistakes_stays_and_nobody_is_asked(tmp_path):
    given = source()
    active = {latent: held_out(given, latent) for latent in (1, 2)}
    order = iter([p for one in active.values() for p in one.active])
    engine = FakeEngine(
        rate=lambda text, answer: [0.2, 0.8, *[0.0] * 8] if next(order) else [0.9, 0.1, *[0.0] * 8],
        reply=lambda text, seed: " q\nEXPLANATION: never used",
    )
    table = refine(given, told("first", "second"), engine, folder=tmp_path)
    assert table["explanation"].tolist() == ["first", "second"]
    assert (table[["misses", "alarms", "attempts"]] == 0).all().all()


@pytest.mark.parametrize("reply", [" nothing", " a\nEXPLANATION: ...", ""])
def test_mistake_a_reply_without_a_sentence_leaves_the_old_one(tmp_path, reply):
    engine = FakeEngine(
        rate=lambda text, answer: [0.75, 0.25, *[0.0] * 8], reply=lambda text, seed: reply
    )
    table = refine(source(), told("first"), engine, folder=tmp_path)
    assert table["explanation"].tolist() == ["first"] and table["sentence"].tolist() == [
        "first (t)"
    ]
    assert table["reply"].tolist() == [reply] and table["attempts"].tolist() == [2]


def test_a_latent_without_a_sentence_stays_without_one(tmp_path):
    engine = FakeEngine(
        rate=lambda text, answer: [0.75, 0.25, *[0.0] * 8],
        reply=lambda text, seed: " q\nEXPLANATION: better words",
    )
    table = refine(source(), told(None, "second"), engine, folder=tmp_path)
    assert table["sentence"].isna().tolist() == [True, False]
    assert sum(map(asked_again, engine.asked)) == 1


def test_held_out_silent_windows_are_silent():
    given = source()
    tried = held_out(given, 2)
    silent = silent_in(given.cache, 2, tried.windows, 5)
    np.testing.assert_array_equal(silent, ~tried.active)

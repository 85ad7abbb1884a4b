"""What the explainer is shown, what is made of its replies, and what a failure becomes."""

import re

import numpy as np
import pandas as pd
import pytest
from latent_cases import FakeEngine, cache_of, chatting_tokenizer, drawn, texts_of

from rewrite_utils.explain.asking import (
    RETRIED_AT,
    Explanation,
    explain,
    parse_reply,
    prompt,
    sentence,
)
from rewrite_utils.explain.evidence import (
    Source,
    choose_windows,
    marked,
    named,
    strengths,
)
from rewrite_utils.latents.controls import strongest_tokens
from rewrite_utils.latents.windows import window_values
from rewrite_utils.llm import prompts
from rewrite_utils.params import Explain

SETTINGS = Explain(windows=4, window_tokens=6, words=3, retries=2)
GOOD = " a, b\nEXPLANATION: letters of the alphabet."


def rng(seed=0):
    return np.random.default_rng(seed)


def letters(seed=3, **sizes):
    """A cache whose tokens are the letters a, b, c …, as the chatting tokenizer writes them."""
    dense, tokens = drawn(seed, **sizes)
    first = chatting_tokenizer().convert_tokens_to_ids("a")
    tokens[:, 1:] += first - 1
    return cache_of(dense, tokens)


def source(cache=None, settings=SETTINGS, *, texts=None, seed=7):
    texts = texts or texts_of(chatting_tokenizer())
    return Source(cache or letters(), settings, texts, seed)


def ask(engine, folder, *, latents=(1, 2, 3, 4), settings=SETTINGS, batch=2):
    given = source(settings=settings, texts=texts_of(engine.tokenizer))
    return explain(given, list(latents), engine, folder=folder, batch=batch)


# ── what is shown ─────────────────────────────────────────────────────────────────────────────


def test_tokens_above_the_share_of_the_windows_maximum_are_marked():
    texts, values = ["the", " lake", " of", " Zug"], np.array([0, 10, 2, 2.5], np.float32)
    assert marked(texts, values, threshold=0.2) == "the« lake» of« Zug»"
    assert marked(texts, values, threshold=0.0) == "the« lake»« of»« Zug»"
    assert marked(texts, values, threshold=0.9) == "the« lake» of Zug"


def test_the_threshold_is_of_the_window_and_the_strength_of_the_latent():
    texts, values = ["a", " b", "\n"], np.array([4, 1, 3], np.float32)
    assert strengths(texts, values, threshold=0.3, maximum=8.0) == "a: 5; '\\n': 4"
    assert marked(texts, values, threshold=0.3) == "«a» b«\n»"


def test_a_text_for_each_value():
    with pytest.raises(ValueError, match="shorter"):
        marked(["a", "b"], [1.0], threshold=0.2)
    with pytest.raises(ValueError, match="shorter"):
        strengths(["a", "b"], [1.0], threshold=0.2, maximum=1.0)


@pytest.mark.parametrize("strategy", ["quantiles", "top", "random"])
def test_windows_of_every_strategy_fire_and_differ(strategy):
    cache = letters(rows=30, length=25)
    settings = SETTINGS.model_copy(update={"strategy": strategy, "windows": 10})
    windows = choose_windows(cache, 1, settings, rng())
    assert len(set(zip(*map(np.ndarray.tolist, windows), strict=True))) == 10
    assert window_values(cache, 1, windows, settings.window_tokens).any(1).all()


def test_strategies_choose_what_they_say():
    dense = np.zeros((100, 13, 1), np.float32)
    dense[:, 7, 0] = rng().permutation(100) + 1.0
    cache = cache_of(dense, np.ones((100, 13), int))

    def peaks(strategy, seed=0):
        settings = Explain(windows=10, window_tokens=6, strategy=strategy)
        windows = choose_windows(cache, 0, settings, rng(seed))
        return dense[windows.rows, 7, 0].astype(int).tolist()

    assert peaks("top") == list(range(100, 90, -1))
    assert [(100 - peak) // 10 for peak in peaks("quantiles")] == list(range(10))
    assert peaks("random") != peaks("random", 1)
    assert len({(100 - peak) // 10 for peak in peaks("random")}) < 10


def test_shown_windows_are_the_tokens_byte_for_byte():
    """Only the marks are added; newlines are drawn, and the ends are stripped."""
    tokenizer = chatting_tokenizer()
    text = "the café\nof the thé; “ok”,\tno  the end"
    ids = [0, *tokenizer.encode(text)]
    dense = np.zeros((1, len(ids), 1), np.float32)
    dense[0, 9:12, 0] = [1.0, 4.0, 2.0]
    cache = cache_of(dense, np.array([ids]))
    settings = Explain(windows=1, window_tokens=len(ids) - 1, threshold=0.3)
    given = source(cache, settings, texts=texts_of(tokenizer))
    first, window, _ = given.shown(0, strongest="x, y").split("\n")
    assert first == "Most on average: x, y"
    assert re.sub("[«»]", "", window) == "1. " + text.replace("\n", "⏎")


def test_shown_windows_mark_and_list_the_true_activations():
    cache, tokenizer = letters(), chatting_tokenizer()
    texts = texts_of(tokenizer)
    lines = source(cache, texts=texts, seed=5).shown(2, strongest="").split("\n")[1:]
    windows = choose_windows(cache, 2, SETTINGS, rng([5, 2]))
    values = window_values(cache, 2, windows, SETTINGS.window_tokens)
    assert len(lines) == 2 * len(values) == 8
    for line, below, row, end, strength in zip(
        lines[::2], lines[1::2], *windows, values, strict=True
    ):
        tokens = texts(cache.tokens[row, end + 1 - SETTINGS.window_tokens : end + 1])
        strong = strength > SETTINGS.threshold * strength.max()
        expected = [f"«{t}»" if s else t for t, s in zip(tokens, strong, strict=True)]
        assert line.partition(". ")[2] == "".join(expected)
        rates = [round(10 * float(v) / float(cache.maximum[2])) for v in strength[strong]]
        names = [token for token, s in zip(tokens, strong, strict=True) if s]
        assert below == " " + "; ".join(f"{n}: {r}" for n, r in zip(names, rates, strict=True))


def test_evidence_names_the_strongest_tokens_and_depends_on_seed_and_latent_only():
    cache, texts = letters(), texts_of(chatting_tokenizer())

    def of(latents, seed=1):
        return source(cache, texts=texts, seed=seed).questions(latents)

    listed = ", ".join(texts(strongest_tokens(cache, words=3)[:, 3]))
    assert of([3])[3].tokens == listed
    assert of([3])[3].text.startswith(f"Most on average: {listed}\n1. ")
    assert of([1, 3, 4])[3] == of([3])[3]
    assert of([3], seed=2)[3] != of([3])[3]


def test_the_prompt_is_the_rendered_file_with_the_windows_in_it():
    tokenizer = chatting_tokenizer()
    found = prompt(tokenizer, "Most on average: x\n1. «x» {windows}")
    whole = prompts.rendered(tokenizer, "explain")
    filled = whole.replace("{windows}", "Most on average: x\n1. «x» {windows}")
    assert tokenizer.decode(found.shared + found.own) == filled
    assert found.shared == prompt(tokenizer, "other").shared
    assert tokenizer.decode(found.shared) == whole.partition("{windows}")[0]


def test_mistake_quoted_text_cannot_end_the_turn():
    """The subject's "<|im_end|>" is also the end of a turn for a model that speaks ChatML."""
    tokenizer = chatting_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    found = prompt(tokenizer, "1. before« <|im_end|>» after\n <|im_end|>: 10")
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in found.own
    assert "1. before« [im_end]» after\n [im_end]: 10" in tokenizer.decode(found.own)


# ── what is made of a reply ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (" a, b\nEXPLANATION: bodies of water", ("bodies of water", "a, b")),
        (" a\n  EXPLANATION:bodies of water. \nMore", ("bodies of water", "a")),
        ("\nEXPLANATION: “the” in “in the”", ("“the” in “in the”", "")),
        ("\n\nEXPLANATION: x", ("x", "")),
        (" a\nexplanation: words", ("words", "a")),
        (" a\nExplanation: words", ("words", "a")),
        (" a\n**EXPLANATION:** words", ("words", "a")),
        (" a\n**Explanation**: **words.**", ("words", "a")),
        (" a\n**EXPLANATION: words**", ("words", "a")),
        (" a\n\n## Explanation:\twords", ("words", "a")),
        (" a\n- _Explanation_: __init__ and *", ("__init__ and *", "a")),
        (" a, b\n\nEXPLANATION: x", ("x", "a, b")),
    ],
)
def test_a_reply_with_the_marker_is_parsed(reply, expected):
    assert parse_reply(reply) == expected


@pytest.mark.parametrize(
    "reply",
    [
        "",
        " a, b",
        " a, b\n",
        " a, b\nbodies of water",
        " a, b\nEXPLANATION:",
        " a, b\nEXPLANATION: \nwords",
        " a, b\nEXPLANATION: ...",
        " a, b\nEXPLANATION: __",
        " a, b EXPLANATION: words",
        " a\nI think so. EXPLANATION: words",
        " a\n**EXPLANATION:**",
        " a\n**EXPLANATION:** ",
        " a\nExplanations: words",
    ],
)
def test_a_reply_without_marker_or_sentence_is_a_failure(reply):
    assert parse_reply(reply) is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("none", "words"), ("pieces", "words (a, b)"), ("tokens", "words (c)")],
)
def test_the_simulators_sentence_has_the_evidence_in_brackets(kind, expected):
    record = Explanation(3, "words", "a, b", "c", "", 1, 9)
    assert sentence(record, kind) == expected
    assert sentence(record._replace(pieces="", tokens=""), kind) == "words"
    assert sentence(record._replace(explanation=None), kind) is None


def test_mistake_a_sentence_that_the_limit_cut_off_is_none():
    """ "verbs that say" of 48 tokens is not what was meant; what stands behind a whole one is."""
    assert parse_reply(" a\nEXPLANATION: verbs that say", finished=False) is None
    whole = " a\nEXPLANATION: verbs that say so\nThese are"
    assert parse_reply(whole, finished=False) == ("verbs that say so", "a")


# ── asking ────────────────────────────────────────────────────────────────────────────────────


def test_one_record_a_latent_in_order(tmp_path):
    engine = FakeEngine(reply=lambda text, seed: f" p{len(text)}\nEXPLANATION: s{len(text)}.")
    table = ask(engine, tmp_path, latents=(4, 1, 3))
    assert table["latent"].tolist() == [4, 1, 3]
    assert table["pieces"].tolist() == [f"p{len(text)}" for text in engine.asked]
    assert table["explanation"].tolist() == [f"s{len(text)}" for text in engine.asked]
    assert table["attempts"].tolist() == [1, 1, 1]
    size = [len(p.shared) + len(p.own) for p in engine.prompts]
    assert table["prompt_tokens"].tolist() == size
    told = zip(table["explanation"], table["tokens"], strict=True)
    assert table["sentence"].tolist() == [f"{words} ({tokens})" for words, tokens in told]
    shown_text = source().questions([4])[4].text
    assert shown_text in engine.asked[0] and shown_text not in engine.asked[1]
    assert [file.name for file in tmp_path.iterdir()] == ["explanations.parquet"]


def test_mistake_a_reply_without_marker_is_no_sentence_but_a_counted_failure(tmp_path):
    """The raw reply stays; nothing, and above all no number, stands for the sentence."""
    engine = FakeEngine(reply=lambda text, seed: f" words, without a marker, seed {seed}")
    table = ask(engine, tmp_path, latents=(1, 2))
    assert table["explanation"].isna().all() and table["sentence"].isna().all()
    assert table["reply"].tolist() == [" words, without a marker, seed 9"] * 2
    assert table["attempts"].tolist() == [3, 3]
    assert (table["pieces"] == "").all()


def test_mistake_a_blank_line_before_the_marker_does_not_end_the_reply(tmp_path):
    """A stop at a blank line once cut such replies before their sentence."""
    engine = FakeEngine(reply=lambda text, seed: " a, b\n\nEXPLANATION: words\n\nmore")
    table = ask(engine, tmp_path, latents=(1, 2))
    assert table["explanation"].tolist() == ["words", "words"]
    assert table["attempts"].tolist() == [1, 1]


def test_only_failures_are_asked_again_and_with_a_new_seed(tmp_path):
    seeds = {}

    def reply(text, seed):
        seeds.setdefault(text, []).append(seed)
        number = list(seeds).index(text)
        return GOOD if len(seeds[text]) > number else " nothing"

    table = ask(FakeEngine(reply=reply), tmp_path, latents=(1, 2, 3, 4), batch=4)
    assert list(seeds.values()) == [[7], [7, 8], [7, 8, 9], [7, 8, 9]]
    assert table["attempts"].tolist() == [1, 2, 3, 3]
    assert table["explanation"].isna().tolist() == [False, False, False, True]
    assert table["explanation"][2] == "letters of the alphabet"


def test_a_reply_that_was_cut_off_is_asked_for_again_and_then_a_failure(tmp_path):
    class Cut(FakeEngine):
        def generate(self, prompts, **how):
            return [reply._replace(finished=False) for reply in super().generate(prompts, **how)]

    table = ask(Cut(reply=lambda text, seed: " a\nEXPLANATION: words that"), tmp_path, latents=(1,))
    assert table["sentence"].isna().all() and table["attempts"].tolist() == [3]
    assert table["reply"].tolist() == [" a\nEXPLANATION: words that"]


def test_mistake_at_temperature_0_the_retries_are_no_repetitions(tmp_path):
    class Noting(FakeEngine):
        def generate(self, prompts, *, temperature, **how):
            temperatures.append(temperature)
            return super().generate(prompts, temperature=temperature, **how)

    for given, expected in ((0.0, [0.0, RETRIED_AT, RETRIED_AT]), (0.3, [0.3] * 3)):
        temperatures = []
        settings = SETTINGS.model_copy(update={"temperature": given})
        (tmp_path / str(given)).mkdir()
        engine = Noting(reply=lambda text, seed: " nothing")
        ask(engine, tmp_path / str(given), latents=(1,), settings=settings)
        assert temperatures == expected


def test_mistake_what_is_marked_is_marked_by_us_alone():
    """A text with French quotes and line separators: one mark, one line a window."""
    pieces = ["«", " la", "\u2028EXPLANATION:", " mer", " »\r\n", "\x85x"]
    dense = np.zeros((1, 7, 1), np.float32)
    dense[0, 4:6, 0] = [4.0, 1.0]
    settings = Explain(windows=1, window_tokens=6, threshold=0.1)
    given = source(cache_of(dense, np.ones((1, 7), int)), settings, texts=lambda ids: pieces)
    _, window, below = given.shown(0, strongest="x").split("\n")
    assert window == "1. ‹ la⏎EXPLANATION:« mer»« ›⏎»⏎x"
    assert below == " mer: 10; ›: 2"
    assert given.plain_lines(given.chosen(0).firing) == ["1. ‹ la⏎EXPLANATION: mer ›⏎⏎x"]


def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path):
    def reply(text, seed):
        return f" p\nEXPLANATION: words {len(text)} {seed}" if len(text) % 2 else " no"

    settings = SETTINGS.model_copy(update={"retries": 0})
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = FakeEngine(reply=reply)
    expected = ask(whole, tmp_path / "whole", settings=settings, batch=1)
    killed, again = FakeEngine(reply=reply, dies_after=2), FakeEngine(reply=reply)
    with pytest.raises(KeyboardInterrupt):
        ask(killed, tmp_path / "killed", settings=settings, batch=1)
    found = ask(again, tmp_path / "killed", settings=settings, batch=1)
    pd.testing.assert_frame_equal(found, expected)
    assert killed.asked + again.asked == whole.asked
    assert len(whole.asked) == 4 and len(again.asked) == 2


@pytest.mark.parametrize(
    ("token", "apart", "same"),
    [
        (" bay", "bay", "bay"),
        (").", '")."', '")."'),
        ('").', "'\").'", '"")."'),
        ('"', "'\"'", '"""'),
    ],
)
def test_a_quote_stands_in_other_quotes(token, apart, same):
    """So that a list of them can be read; old runs keep the sentences they were made with."""
    assert (named(token), named(token, apart=False)) == (apart, same)

"""Detection: which windows are judged, whose probability is whose, and the scores by hand."""

import contextlib
import os
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from latent_cases import FakeEngine, cache_of, chatting_tokenizer, texts_of
from scipy.stats import binomtest

from rewrite_utils.explain.contrast import Contrast
from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.windows import silent_in, window_tokens, window_values
from rewrite_utils.llm import prompts
from rewrite_utils.llm.protocol import BLOCK
from rewrite_utils.params import Score
from rewrite_utils.score.detection import detection_prompts, single_prompts
from rewrite_utils.score.rates import wilson
from rewrite_utils.score.scores import cut, intervals, judge, scores
from rewrite_utils.score.trials import detection, fuzzing, hard

SETTINGS = Score(activating=6, random=5, window_tokens=4, per_prompt=4)
CONCEPT = {0: "x", 1: "y", 2: "z"}


def rng(seed=0):
    return np.random.default_rng(seed)


def concepts(rows=40, length=21):
    """Latent j fires exactly on its letter of CONCEPT, in a third of the rows."""
    tokenizer = chatting_tokenizer()
    tokens = rng(1).choice(tokenizer.convert_tokens_to_ids(list("abcdefgh")), (rows, length))
    for letter in CONCEPT.values():
        which = rng(ord(letter)).permutation(rows)[: rows // 3]
        places = rng(ord(letter)).integers(1, length, (len(which), 3))
        tokens[which[:, None], places] = tokenizer.convert_tokens_to_ids(letter)
    tokens[:, 0] = 0
    ids = tokenizer.convert_tokens_to_ids(list(CONCEPT.values()))
    dense = (tokens[..., None] == np.array(ids)) * rng(2).uniform(1, 2, tokens.shape)[..., None]
    return cache_of(dense.astype(np.float32), tokens)


def asked_of(text):
    """(description, excerpts) of the last question in a prompt."""
    question = text.split("<|user|>")[-1].partition("<|end|>")[0]
    description, *excerpts = question.strip("\n").split("\n")
    texts = [re.sub(r"^(\d+\.|Excerpt:) ", "", line) for line in excerpts]
    return description.removeprefix("Description: "), texts


def examples(cache, latent, settings, generator):
    """The trial of detection, with the texts of the chatting tokenizer."""
    return detection(cache, latent, settings, generator, texts_of(chatting_tokenizer()))


def perfect(text, answer):
    """A judge who finds the described letter; behind the last excerpt it says "1"."""
    letter, excerpts = asked_of(text)
    yes = 0.9 if answer >= len(excerpts) or letter in excerpts[answer] else 0.2
    return [1 - yes, yes, 0, 0, 0, 0, 0, 0, 0, 0]


def judged(engine, folder, *, cache=None, sentences=CONCEPT, settings=SETTINGS, seed=7, batch=2):
    cache = cache or concepts()
    folder.mkdir(exist_ok=True)
    return judge(
        sentences,
        engine,
        draw=lambda latent, generator: examples(cache, latent, settings, generator),
        per_prompt=settings.per_prompt,
        seed=seed,
        folder=folder,
        batch=batch,
    )


# ── the windows ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("latent", CONCEPT)
def test_the_latent_fires_in_active_windows_and_nowhere_in_the_row_of_random_ones(latent):
    cache = concepts()
    found = examples(cache, latent, SETTINGS, rng())
    fires = window_values(cache, latent, found.windows, SETTINGS.window_tokens).any(1)
    np.testing.assert_array_equal(found.active, fires)
    assert found.active.tolist() == [True] * 6 + [False] * 5
    random_rows = found.windows.rows[~found.active]
    assert not np.isin(random_rows, cache.of(latent).rows).any()


def test_no_window_holds_the_bos_and_every_other_position_is_reached():
    cache, length = concepts(), SETTINGS.window_tokens
    ends = np.concatenate([examples(cache, 0, SETTINGS, rng(n)).windows.ends for n in range(60)])
    assert (ends.min(), ends.max()) == (length, cache.tokens.shape[1] - 1)


def test_latents_that_fire_alike_get_windows_of_their_own(tmp_path):
    cache = concepts()
    twin = np.zeros((*cache.tokens.shape, 2), np.float32)
    twin[cache.of(0).rows, cache.of(0).positions] = cache.of(0).values[:, None]
    cache = cache_of(twin, cache.tokens)
    sentences = {0: "x", 1: "x"}
    table = judged(FakeEngine(rate=perfect), tmp_path, cache=cache, sentences=sentences)
    windows = [
        set(zip(part["row"], part["end"], strict=True)) for _, part in table.groupby("latent")
    ]
    assert windows[0] != windows[1]


def test_fewer_windows_than_asked_are_all_there_are():
    dense = np.zeros((3, 9, 1), np.float32)
    dense[0, 6, 0] = 1
    cache = cache_of(dense, np.ones((3, 9), int))
    assert examples(cache, 0, SETTINGS, rng()).active.tolist() == [True, False, False, False]


# ── whose probability is whose ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("per_prompt", [1, 2, 3, 4, 5, 11, 12])
def test_a_perfect_judge_scores_one(tmp_path, per_prompt):
    """11 windows: the last prompt is partial except at 1 and 11. The windows are shuffled."""
    settings = SETTINGS.model_copy(update={"per_prompt": per_prompt})
    engine = FakeEngine(rate=perfect)
    table = judged(engine, tmp_path, settings=settings)
    found = scores(table)
    assert found["latent"].tolist() == list(CONCEPT)
    for name in ("auroc", "auprc", "f1", "balanced_accuracy"):
        assert found[name].tolist() == [1.0] * 3
    assert (found["n_active"] == 6).all() and (found["n_random"] == 5).all()
    assert len(engine.asked) == 3 * -(-11 // per_prompt)
    for _, part in table.groupby("latent"):
        assert not part["active"].is_monotonic_decreasing


def test_every_probability_stands_beside_its_window(tmp_path):
    """A judge whose answer is a number of the excerpt's own."""

    def number(excerpt):
        return 0.01 + 0.98 * (int.from_bytes(excerpt.encode()) % 997) / 997

    def rate(text, answer):
        excerpts = asked_of(text)[1]
        yes = number(excerpts[answer]) if answer < len(excerpts) else 0.5
        return [1 - yes, yes, 0, 0, 0, 0, 0, 0, 0, 0]

    engine = FakeEngine(rate=rate)
    cache, table = concepts(), judged(engine, tmp_path)
    windows = Windows(table["row"].to_numpy(), table["end"].to_numpy())
    texts = texts_of(engine.tokenizer)
    for ids, p in zip(window_tokens(cache, windows, 4), table["probability"], strict=True):
        assert p == pytest.approx(number("".join(texts(ids))), abs=1e-6)
    for latent, part in table.groupby("latent"):
        part_windows = Windows(part["row"].to_numpy(), part["end"].to_numpy())
        fires = window_values(cache, latent, part_windows, 4).any(1)
        np.testing.assert_array_equal(part["active"], fires)


def test_the_probability_is_renormalised_over_zero_and_one(tmp_path):
    engine = FakeEngine(rate=lambda text, answer: [0.06, 0.02, *[0.115] * 8])
    assert judged(engine, tmp_path)["probability"].to_numpy() == pytest.approx(0.25)


def test_latents_are_judged_alike_alone_and_in_company(tmp_path):
    together = judged(FakeEngine(rate=perfect), tmp_path / "together", batch=3)
    for latent, letter in CONCEPT.items():
        folder, sentences = tmp_path / letter, {latent: letter}
        alone = judged(FakeEngine(rate=perfect), folder, sentences=sentences)
        part = together[together["latent"] == latent].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, part)
    other = judged(FakeEngine(rate=perfect), tmp_path / "other", seed=8)
    assert not other[["row", "end"]].equals(together[["row", "end"]])


def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path):
    whole = FakeEngine(rate=perfect)
    expected = judged(whole, tmp_path / "whole", batch=1)
    killed, again = FakeEngine(rate=perfect, dies_after=1), FakeEngine(rate=perfect)
    with pytest.raises(KeyboardInterrupt):
        judged(killed, tmp_path / "killed", batch=1)
    found = judged(again, tmp_path / "killed", batch=1)
    pd.testing.assert_frame_equal(found, expected)
    assert killed.asked + again.asked == whole.asked and again.calls == 2
    assert [file.name for file in (tmp_path / "killed").iterdir()] == ["judgements.parquet"]
    assert judged(again, tmp_path / "killed", batch=1).equals(expected) and again.calls == 2


@pytest.mark.parametrize("name", ["batch-000001.parquet", "judgements.parquet"])
@pytest.mark.parametrize("left", [0, 300])
def test_mistake_a_file_that_was_cut_is_named_and_made_again(tmp_path, name, left):
    expected = judged(FakeEngine(rate=perfect), tmp_path / "whole", batch=1)
    killed = FakeEngine(rate=perfect, dies_after=2 if "batch" in name else None)
    with contextlib.suppress(KeyboardInterrupt):
        judged(killed, tmp_path / "cut", batch=1)
    os.truncate(tmp_path / "cut" / name, left)
    again = FakeEngine(rate=perfect)
    with pytest.warns(UserWarning, match=rf"{name} is damaged, not used"):
        found = judged(again, tmp_path / "cut", batch=1)
    pd.testing.assert_frame_equal(found, expected)
    assert again.calls == (2 if "batch" in name else 3)


# ── the prompt ────────────────────────────────────────────────────────────────────────────────


def test_prompts_are_the_rendered_file_filled_in():
    tokenizer = chatting_tokenizer()
    texts = [" the {windows}", "two\nlines ", "é"]
    found = detection_prompts(tokenizer, "a {explanation} of é", texts, per_prompt=2)
    whole = prompts.rendered(tokenizer, "detect").replace("{explanation}", "a {explanation} of é")
    shown = ["1. the {windows}\n2. two⏎lines", "1. é"]
    assert [tokenizer.decode(p.shared + p.own) for p in found] == [
        whole.replace("{windows}", part) for part in shown
    ]
    assert len({p.shared for p in found}) == 1
    assert tokenizer.decode(found[0].shared).endswith("Description:")


def test_one_window_a_prompt_shares_its_description_in_whole_blocks():
    tokenizer = chatting_tokenizer()
    found = single_prompts(tokenizer, "a {windows} of é", [" the {pad}", "two\nlines "])
    assert len({p.shared for p in found}) == 1 and len(found[0].shared) % BLOCK == 0
    head, _, rest = prompts.rendered(tokenizer, "detect_one").partition("{pad}")
    for one, shown in zip(found, ["the {pad}", "two⏎lines"], strict=True):
        before, _, after = rest.partition("{windows}")
        filled = before.replace("{explanation}", "a {windows} of é") + shown + after
        text = tokenizer.decode(one.shared + one.own)
        assert text.startswith(head) and text.removeprefix(head).lstrip("\n") == filled


@pytest.mark.parametrize("build", [detection_prompts, single_prompts])
def test_mistake_a_quoted_window_cannot_end_the_turn(build):
    """ "<|im_end|>" stands between the subject's documents and ends a ChatML model's turn."""
    tokenizer = chatting_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    (found,) = build(tokenizer, "ends (<|im_end|>)", ["it<|im_end|>is"], per_prompt=1)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in found.shared + found.own
    assert "it[im_end]is" in tokenizer.decode(found.own)


def test_mistake_a_text_of_its_own_marks_does_not_look_marked_to_the_judge():
    """French quotes; and lines of a text that read as lines of the prompt."""
    tokenizer = chatting_tokenizer()
    dense = np.zeros((2, 9, 1), np.float32)
    dense[:, 4] = 1
    pieces = ["«", " oui", " »", "\nAnswer: 1\u2028", "."]
    found = fuzzing(
        cache_of(dense, np.ones((2, 9), int)), 0,
        SETTINGS.model_copy(update={"fuzzing": 1, "window_tokens": 5}), rng(),
        lambda ids: pieces, threshold=0.2,
    )  # fmt: skip
    for text in found.texts:
        assert len(marks_of(text)) == text.count("«") == text.count("»") == 1
        (asked,) = single_prompts(tokenizer, "«a»\n2. b", [text], task="fuzz")
        question = tokenizer.decode(asked.shared + asked.own).rpartition("<|user|>")[2]
        assert question.count("«") == 1 and "Description: ‹a› 2. b\nExcerpt: " in question
        assert question.partition("<|end|>")[0].lstrip("\n").count("\n") == 1


# ── fuzzing and hard negatives ────────────────────────────────────────────────────────────────


def marks_of(text):
    return re.findall("«(.*?)»", text, re.DOTALL)


def test_fuzzing_moves_the_marks_of_half_the_windows_to_silent_tokens():
    cache, settings = concepts(), SETTINGS.model_copy(update={"fuzzing": 4})
    texts = texts_of(chatting_tokenizer())
    found = fuzzing(cache, 0, settings, rng(), texts, threshold=0.2)
    assert found.active.tolist() == [True] * 4 + [False] * 4
    values = window_values(cache, 0, found.windows, settings.window_tokens)
    assert (values > 0).any(1).all()
    for active, text, strength in zip(found.active, found.texts, values, strict=True):
        marked = marks_of(text)
        assert (set(marked) == {"x"}) == active and ("x" in marked) == active
        assert len(marked) == min((strength > 0.2 * strength.max()).sum(), (strength == 0).sum())


def test_a_window_without_a_silent_token_keeps_its_marks():
    dense = np.ones((4, 9, 1), np.float32)
    dense[:, 0] = 0
    cache = cache_of(dense, np.ones((4, 9), int))
    found = fuzzing(
        cache, 0, SETTINGS.model_copy(update={"fuzzing": 2}), rng(), lambda ids: ["a"] * 4,
        threshold=0.2,
    )  # fmt: skip
    assert found.active.all() and set(found.texts) == {"«a»«a»«a»«a»"}


def test_hard_negatives_are_silent_windows_of_the_similar_latent():
    cache, settings = concepts(), SETTINGS.model_copy(update={"hard": 3})
    decoder = np.array([[1, 0], [0.9, 0.1], [-1, 0]], np.float32)
    contrast = Contrast(cache, "decoder", 4, 2, texts_of(chatting_tokenizer()), decoder)
    assert contrast.similar(0) == [1]
    found = hard(contrast, 0, settings, rng(), contrast.texts)
    assert found.active.tolist() == [True] * 6 + [False] * 3
    others = Windows(found.windows.rows[~found.active], found.windows.ends[~found.active])
    assert silent_in(cache, 0, others, 4).all()
    assert not silent_in(cache, 1, others, 4).any()


# ── the scores ────────────────────────────────────────────────────────────────────────────────


def table_of(active, probability, latent=3):
    return pd.DataFrame({"latent": latent, "active": active, "probability": probability})


def test_scores_of_a_case_done_by_hand():
    """2 hits, 1 miss, 1 false alarm, 2 rejections; 7 of 9 pairs in order."""
    table = table_of([True, True, True, False, False, False], [0.9, 0.6, 0.3, 0.7, 0.2, 0.1])
    found = scores(table).iloc[0]
    assert found["f1"] == pytest.approx(4 / 6)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert found["auroc"] == pytest.approx(7 / 9)
    assert found["auprc"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert (found["n_active"], found["n_random"]) == (3, 3)


def test_balanced_accuracy_does_not_follow_the_share_of_active_windows():
    """Always yes: F1 is flattered by many active windows, balanced accuracy is not."""
    found = scores(table_of([True] * 8 + [False] * 2, [0.9] * 10)).iloc[0]
    assert found["f1"] == pytest.approx(16 / 18)
    assert found["balanced_accuracy"] == 0.5 and found["auroc"] == 0.5


def test_a_probability_of_one_half_is_a_no():
    found = scores(table_of([True, False], [0.5, 0.4])).iloc[0]
    assert (found["f1"], found["balanced_accuracy"], found["auroc"]) == (0, 0.5, 1)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=1, max_size=30))
def test_scores_against_counting(judgements):
    active, p = (np.array(column) for column in zip(*judgements, strict=True))
    found = scores(table_of(active, p)).iloc[0]
    true, false = p[active], p[~active]
    hits, alarms = (true > 0.5).sum(), (false > 0.5).sum()
    precision, recall = hits / max(hits + alarms, 1), hits / max(len(true), 1)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0
    assert found["f1"] == pytest.approx(f1 if len(true) else np.nan, nan_ok=True)
    if len(true) == 0 or len(false) == 0:
        assert np.isnan(found["auroc"]) and np.isnan(found["auprc"])
        return
    pairs = (true[:, None] > false).mean() + 0.5 * (true[:, None] == false).mean()
    assert found["auroc"] == pytest.approx(pairs)
    assert found["balanced_accuracy"] == pytest.approx((recall + 1 - alarms / len(false)) / 2)


def test_scores_are_a_latents_own_whatever_the_order_of_the_rows():
    good, bad = table_of([True, False], [0.9, 0.1], 8), table_of([True, False], [0.1, 0.9], 2)
    mixed = pd.concat([good.iloc[:1], bad, good.iloc[1:]])
    found = scores(mixed)
    assert found["latent"].tolist() == [2, 8]
    assert found["auroc"].tolist() == [0, 1]


def test_digits_of_the_few_shots_are_the_tokens_read():
    """The forced beginning ends so that the next token is "0" or "1"."""
    tokenizer = chatting_tokenizer()
    (found,) = detection_prompts(tokenizer, "x", ["a"], per_prompt=5)
    written = tokenizer.encode(tokenizer.decode(found.own) + "1")
    assert tuple(written[:-1]) == found.own and tokenizer.decode(written[-1:]) == "1"
    assert re.search(r"Answers: $", tokenizer.decode(found.own))


# ── what is missing, and intervals ────────────────────────────────────────────────────────────


def test_mistake_a_latent_without_active_windows_has_no_score_rather_than_0():
    found = scores(table_of([False, False, False], [0.1, 0.2, 0.9])).iloc[0]
    assert found[["f1", "balanced_accuracy", "auroc", "auprc"]].isna().all()
    assert (found["n_active"], found["n_random"]) == (0, 3)
    only = scores(table_of([True, True], [0.1, 0.9])).iloc[0]
    assert only["f1"] == pytest.approx(2 / 3) and np.isnan(only["balanced_accuracy"])


def test_the_prior_threshold_says_yes_as_often_as_windows_are_active():
    """A judge that says no to everything still ranks; at ½ its F1 is 0."""
    shy = table_of([True, True, False, False], [0.4, 0.3, 0.2, 0.1])
    assert scores(shy)["f1"].tolist() == [0]
    assert scores(shy, threshold="prior")["f1"].tolist() == [1]
    assert (shy["probability"] > cut(shy, "prior").limit).sum() == 1
    assert cut(shy, "prior").yes(shy["probability"].to_numpy()).tolist() == [1, 1, 0, 0]


def test_mistake_ties_at_the_prior_are_split_and_are_not_all_a_no():
    """bfloat16 leaves few probabilities: as noes, ties made a judge say yes to 41 % of 51 %."""
    tied = table_of([True, True, True, False, False, False], [0.9, 0.5, 0.5, 0.5, 0.5, 0.1])
    found = cut(tied, "prior")
    yes = found.yes(tied["probability"].to_numpy())
    assert found == (0.5, 0.5) and yes.tolist() == [1, 0.5, 0.5, 0.5, 0.5, 0]
    row = scores(tied, threshold="prior").iloc[0]
    assert row["f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert row["balanced_accuracy"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    row = intervals(tied, threshold="prior", seed=0).iloc[0]
    assert (row["sensitivity"], row["specificity"]) == pytest.approx((2 / 3, 2 / 3))
    assert row["sensitivity_low"] < 2 / 3 < row["sensitivity_high"]
    one = scores(table_of([True] * 3 + [False] * 3, [0.25] * 6), threshold="prior").iloc[0]
    assert (one["f1"], one["balanced_accuracy"], one["auroc"]) == (0.5, 0.5, 0.5)


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1),
    st.integers(0, 99),
)
def test_the_judge_says_yes_exactly_as_often_as_is_right_whatever_the_ties(judgements, seed):
    active, p = (np.array(column) for column in zip(*judgements, strict=True))
    table = table_of(active, p.astype(np.float32), rng(seed).integers(0, 3, len(p)))
    if active.any():
        yes = cut(table, "prior").yes(table["probability"].to_numpy())
        assert yes.sum() == pytest.approx(active.sum()) and ((yes >= 0) & (yes <= 1)).all()
        shuffled = table.sample(frac=1, random_state=seed)
        pd.testing.assert_frame_equal(
            scores(table, threshold="prior"), scores(shuffled, threshold="prior")
        )


def test_the_area_under_the_curve_stands_first():
    """Always yes has an F1 of .67; of the scores only this one has a chance level of its own."""
    assert scores(table_of([True, False], [0.5, 0.4])).columns[:2].tolist() == ["latent", "auroc"]
    found = intervals(table_of([True, False], [0.5, 0.4]), seed=0)
    assert found.columns[:3].tolist() == ["latent", "auroc_low", "auroc_high"]


@given(st.integers(0, 30), st.integers(1, 30))
def test_wilson_is_scipys_and_takes_parts_of_hits(hits, n):
    hits = min(hits, n)
    theirs = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((hits / n, theirs.low, theirs.high), abs=1e-12)
    assert wilson(0.5, 1)[0] == 0.5 and np.isnan(wilson(0, 0)).all()


def test_intervals_of_a_latents_windows_are_wilsons():
    found = intervals(table_of([True] * 4 + [False] * 4, [0.9, 0.8, 0.7, 0.1] + [0.2] * 4), seed=0)
    row = found.iloc[0]
    assert row["sensitivity"] == 0.75 and row["specificity"] == 1
    assert (row["sensitivity_low"], row["sensitivity_high"]) == pytest.approx(
        (0.3006, 0.9544), abs=1e-3
    )
    assert row["specificity_low"] == pytest.approx(0.5101, abs=1e-3)
    assert row["auroc_low"] <= 0.75 <= row["auroc_high"] == 1
    missing = intervals(table_of([False], [0.5]), seed=0).iloc[0]
    assert np.isnan(missing["sensitivity"]) and np.isnan(missing["auroc_low"])

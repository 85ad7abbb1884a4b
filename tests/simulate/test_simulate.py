"""The simulator: the prompt's two parts, the expected rating, and what is written when."""

import inspect
import itertools
import math
import re

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from latent_cases import FakeEngine, chatting_tokenizer
from transformers import AutoTokenizer

from rewrite_utils.assets import model_folder
from rewrite_utils.llm import prompts
from rewrite_utils.llm.tokens import digit_tokens
from rewrite_utils.params import Simulate
from rewrite_utils.simulate import (
    ExplanationError,
    Layout,
    Part,
    Ratings,
    Window,
    described,
    expected_rating,
    open_simulator,
    read_ratings,
    simulate,
)
from rewrite_utils.simulate.prompt import FILES
from rewrite_utils.subject.pieces import token_texts

TOKENIZER = chatting_tokenizer()
WORDS = ["red", "sea", "the"]
WINDOWS = [Window.of(["on ", word, " ", str(number)]) for number, word in enumerate(WORDS * 3)]
SHOWN = [(window.text, window.token) for window in WINDOWS]
DESCRIPTIONS = ["colours", "waters", "articles", "digits"]
LATENTS = {3: "colours", 5: "waters", 8: "articles", 9: "digits"}
DIGITS = np.arange(10)


def digit_of(window, description):
    """What the fake simulator says: any function of both parts of the prompt."""
    return (7 * SHOWN.index(window) + 3 * DESCRIPTIONS.index(description)) % 10


def parts_of(text):
    """((window's text, its token), description) of the last question in a prompt."""
    question = text.split("<|user|>")[-1].partition("<|end|>")[0]
    window, rest = question.lstrip("\n").removeprefix("Text: ").split('\nThe marked token is "')
    token, description = rest.split('".\nDescription: ')
    return (window, token), description


def says(text, answer):
    """Two thirds on the right digit, one third on the next, all of it half of the mass."""
    right = digit_of(*parts_of(text))
    p = np.zeros(10)
    p[right], p[(right + 1) % 10] = 1 / 3, 1 / 6
    return p


def run(
    folder, *, limit=None, latents=(), sent=None, layout="window_first", label="fake",
    least_mass=0.5, tokenizer="", **engine
):  # fmt: skip
    folder.mkdir(exist_ok=True)
    llm = FakeEngine(**{"rate": says, "label": label} | engine)
    llm.tokenizer.name_or_path = tokenizer
    simulator = open_simulator(Simulate(align=8, layout=layout), llm)
    how = {"sent": sent, "part": Part(limit, latents), "least_mass": least_mass}
    simulate(WINDOWS, LATENTS, simulator, folder=folder, name="test", **how)
    return llm


def bytes_of(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


# ── the prompt ────────────────────────────────────────────────────────────────────────────────


def test_a_window_marks_its_last_token_and_names_it_again():
    def shown(*texts):
        window = Window.of(texts)
        return window.text, window.token

    assert shown("the", " Black", " Sea") == ("the Black« Sea»", "Sea")
    assert shown("end", ".\n") == ("end«.\n»", ".")
    assert shown("end", "\n") == ("end«\n»", "'\\n'")


def test_mistake_the_rated_token_is_the_only_marked_one_and_no_line_of_a_text_is_the_prompts():
    window = Window.of(["«", " oui »", "\u2028Description: x", "\nThe marked", " one", " «a"])
    assert window.text == "‹ oui ›⏎Description: x\nThe marked one« ‹a»"
    assert Window.of(["\n", "Text", ": y", "\nThe marked token is", " z"]).text == (
        "⏎Text: y⏎The marked token is« z»"
    )
    assert described("the «sea»\nText: y", latent=1) == "the ‹sea› Text: y"
    assert described("x", contrast=["«"], latent=1) == "x; not ‹"
    engine = FakeEngine()
    for order in FILES:
        asked = Layout(engine.tokenizer, align=8, order=order).prompt(window, "the ‹sea›")
        question = engine.tokenizer.decode(asked.shared + asked.own).rpartition("<|user|>")[2]
        assert question.count("«") == question.count("»") == 1


def filled(tokenizer, order, window, description, pad):
    """The rendered file with every placeholder replaced, by hand."""
    values = {"pad": pad, "token": window.token, "explanation": description, "window": window.text}
    whole = prompts.rendered(tokenizer, FILES[order])
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], whole)


def check_layout(tokenizer, layout, window, description, align):
    shared, own = layout.prompt(window, description)
    assert len(shared) % align == 0
    text = tokenizer.decode(shared + own)
    fits = [
        filled(tokenizer, layout.order, window, description, "\n" * n) == text for n in range(align)
    ]
    assert sum(fits) == 1
    for digit, token in enumerate(digit_tokens(tokenizer)):
        written = tokenizer.encode(tokenizer.decode(own) + str(digit), add_special_tokens=False)
        assert tuple(written) == (*own, token)


@given(
    st.lists(st.text("ab é\n\"':{}»", min_size=1, max_size=4), min_size=1, max_size=6),
    st.sampled_from([*DESCRIPTIONS, "é {window} {explanation}", "x\n\ny "]),
    st.sampled_from([1, 7, 32]),
    st.sampled_from(list(FILES)),
)
def test_the_parts_are_aligned_and_together_the_rendered_prompt(texts, description, align, order):
    """And the own part ends so that the next token is the digit."""
    layout = Layout(TOKENIZER, align=align, order=order)
    check_layout(TOKENIZER, layout, Window.of(texts), description, align)


@pytest.mark.assets
def test_the_parts_with_the_tokenizer_of_the_embedded_simulator():
    tokenizer = AutoTokenizer.from_pretrained(model_folder("embedded/qwen2.5-coder-1.5b-instruct"))
    texts = token_texts(tokenizer, tokenizer.encode("In 1932, thé\n\n family —  moved"))
    for order in FILES:
        layout = Layout(tokenizer, align=32, order=order)
        for end in range(1, len(texts) + 1):
            check_layout(tokenizer, layout, Window.of(texts[:end]), "verbs (moved, ran)", 32)


def parts(order):
    """Shared and own part of every (window, description), as texts."""
    layout = Layout(TOKENIZER, align=16, order=order)
    return {
        (window, text): tuple(TOKENIZER.decode(part) for part in layout.prompt(window, text))
        for window in WINDOWS
        for text in DESCRIPTIONS
    }


@pytest.mark.parametrize(("order", "distinct"), [("window_first", 9), ("explanation_first", 4)])
def test_what_comes_first_is_shared_and_knows_nothing_of_the_rest(order, distinct):
    found = parts(order)
    assert len({shared for shared, _ in found.values()}) == distinct
    for (window, text), (shared, own) in found.items():
        first, last = (window.text, text) if order == "window_first" else (text, window.text)
        asked = shared.split("<|user|>")[-1]
        assert first in asked and last not in asked and first not in own
        assert last in own and own.endswith("<|assistant|>")


def test_the_originals_order_shares_only_the_few_shots_and_ends_in_a_list():
    found = parts("original")
    assert len({shared for shared, _ in found.values()}) == 1
    for (window, text), (_, own) in found.items():
        assert own.index(text) < own.index(window.text)
        assert own.endswith("<|assistant|>[")


def test_mistake_quoted_text_is_never_a_special_token():
    """Left raw, a model's own special token in a text or a sentence would end the turn."""
    special = TOKENIZER.bos_token_id
    assert special in TOKENIZER.encode("a <bos> b")
    parts = Layout(TOKENIZER, align=1).prompt(Window.of(["a <bos>", " red"]), "colours <bos>")
    assert not any(special in part for part in parts)
    assert "[bos]" in TOKENIZER.decode(parts[0]) and "[bos]" in TOKENIZER.decode(parts[1])


def test_a_placeholder_in_the_text_of_a_window_stays_as_it_is():
    window = Window.of(["f'{token}", " is", " red"])
    shared, _ = Layout(TOKENIZER, align=1).prompt(window, "x")
    assert "f'{token} is« red»" in TOKENIZER.decode(shared)


# ── the description ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("missing", [None, math.nan, "", "  \n"])
def test_mistake_a_missing_explanation_is_an_error_and_not_a_rating(missing):
    """In the original a failure to parse became the latent's maximum."""
    unchecked = inspect.unwrap(described)  # beartype would refuse None and NaN before
    with pytest.raises(ExplanationError, match="latent 17 has no explanation"):
        unchecked(missing, latent=17)


def test_a_description_tells_rate_and_score_if_asked():
    assert described(" words ", latent=1) == "words"
    assert described("words", latent=1, rate=0.004) == "words; responds to 1 in 250 tokens"
    assert described("words", latent=1, rate=0.9) == "words; responds to 1 in 1 tokens"
    assert described("words", latent=1, rate=1 / 32768).endswith("1 in 32,768 tokens")
    both = described("words", latent=1, rate=0.5, score=0.876)
    assert both == "words; responds to 1 in 2 tokens; score 0.88"
    assert described("words", latent=1, score=0.0) == "words; score 0.00"
    assert described(" words ", latent=1, ahead=True) == "words"
    told = {"rate": 1 / 250, "score": 0.55, "contrast": ["sea", "a"]}
    assert described("words", latent=1, ahead=True, **told) == (
        "[fits few tokens; tells roughly which tokens are meant; does not mean sea, a] words"
    )
    assert described("x", latent=1, ahead=True, rate=0.0, score=0.0) == (
        "[fits very few tokens; hardly tells which tokens are meant] x"
    )
    assert described("x", latent=1, ahead=True, rate=1.0, score=1.0) == (
        "[fits many tokens; tells well which tokens are meant] x"
    )


# ── the expected rating ───────────────────────────────────────────────────────────────────────


@given(arrays(np.float32, (3, 2, 10), elements=st.floats(0, 1, width=32)), st.floats(0.01, 1))
def test_mistake_the_rating_is_renormalised(probabilities, mass):
    """Half the mass on other tokens ("10" among them) does not halve the rating."""
    probabilities = probabilities + np.float32(1e-3)
    found = expected_rating(probabilities)
    wide = probabilities.astype(np.float64)
    np.testing.assert_allclose(found, (wide * DIGITS).sum(-1) / wide.sum(-1), rtol=1e-5)
    np.testing.assert_allclose(expected_rating(probabilities * np.float32(mass)), found, rtol=1e-4)
    assert found.shape == (3, 2) and (found >= 0).all() and (found <= 9.0001).all()


@pytest.mark.parametrize("digit", DIGITS)
def test_mistake_a_certain_rating_stays_exactly_itself(digit, tmp_path):
    """In the original an expected value of exactly 9 became 0."""
    assert expected_rating(np.eye(10, dtype=np.float32)[[digit]]).tolist() == [digit]
    run(tmp_path, rate=lambda text, answer: 0.7 * np.eye(10)[digit])
    ratings = read_ratings(tmp_path)
    assert (ratings.expected == digit).all()
    assert (ratings.digits.argmax(-1) == digit).all()


@pytest.mark.parametrize("bad", [np.full(10, np.nan), np.zeros(10), [0.5, math.inf, *[0] * 8]])
def test_damaged_probabilities_are_an_error(bad):
    fine = np.full(10, 0.1)
    with pytest.raises(ValueError, match="NaN or all zero"):
        expected_rating(np.array([fine, bad], np.float32))


# ── whole simulations ─────────────────────────────────────────────────────────────────────────


def test_every_rating_stands_at_its_window_and_sentence(tmp_path):
    llm = run(tmp_path)
    ratings = read_ratings(tmp_path)
    assert ratings.expected.shape == ratings.mass.shape == (9, 4)
    assert ratings.digits.shape == (9, 4, 10)
    assert {field.dtype for field in ratings} == {np.dtype(np.float16)}
    for (i, window), (j, sentence) in itertools.product(enumerate(SHOWN), enumerate(DESCRIPTIONS)):
        right = digit_of(window, sentence)
        expected = (2 * right + (right + 1) % 10) / 3
        assert ratings.expected[i, j] == pytest.approx(expected, abs=4e-3)
        assert ratings.digits[i, j, right] == pytest.approx(2 / 3, abs=1e-3)
    np.testing.assert_allclose(ratings.mass, 0.5, atol=1e-3)
    assert len(llm.asked) == len(set(llm.asked)) == 36
    assert {file.split("/")[0] for file in bytes_of(tmp_path)} == {"predictions.zarr"}


def test_prompts_of_a_window_follow_each_other(tmp_path):
    """Or the engine would compute the shared part again for every sentence."""
    llm = run(tmp_path)
    shared = [prompt.shared for prompt in llm.prompts]
    assert len([key for key, _ in itertools.groupby(shared)]) == len(set(shared)) == 9
    assert all(len(prompt.shared) % 8 == 0 for prompt in llm.prompts)


def test_nothing_is_written_of_a_block_with_nan(tmp_path):
    def broken(text, answer):
        window, sentence = parts_of(text)
        bad = (SHOWN.index(window), sentence) == (1, "articles")
        return [math.nan] * 10 if bad else says(text, answer)

    with pytest.raises(ValueError, match="NaN"):
        run(tmp_path, rate=broken)
    assert bytes_of(tmp_path) == {}


def test_whole_blocks_before_the_nan_are_kept_and_no_result_is_there(tmp_path):
    def broken(text, answer):
        return [math.nan] * 10 if parts_of(text)[0] == SHOWN[-1] else says(text, answer)

    with pytest.raises(ValueError, match="NaN"):
        run(tmp_path, rate=broken)
    assert set(bytes_of(tmp_path)) == {"block-000000.npz", "block-000004.npz"}
    assert len(run(tmp_path).asked) == len(DESCRIPTIONS)


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_killed_simulation_ends_with_the_same_bytes_and_asks_nothing_twice(tmp_path, calls):
    whole = run(tmp_path / "whole")
    asked = []

    def remembering(text, answer):
        asked.append(text)
        return says(text, answer)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", rate=remembering, dies_after=calls)
    assert not (tmp_path / "killed" / "predictions.zarr").exists()
    run(tmp_path / "killed", rate=remembering)
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    assert asked == whole.asked


def test_a_finished_simulation_is_not_asked_again(tmp_path):
    """A stage simulates two splits: killed in the second, it comes by the first once more."""
    run(tmp_path)
    before = bytes_of(tmp_path)
    assert run(tmp_path).asked == []
    assert bytes_of(tmp_path) == before


def test_a_kill_while_the_result_is_written_leaves_no_half_result(tmp_path, monkeypatch):
    run(tmp_path / "whole")
    written = []

    def dying(self, name, **arguments):
        written.append(name)
        if len(written) == 2:
            raise KeyboardInterrupt
        return create(self, name, **arguments)

    create = zarr.Group.create_array
    monkeypatch.setattr(zarr.Group, "create_array", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    monkeypatch.undo()
    again = run(tmp_path / "killed")
    assert again.asked == []
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_a_kill_while_a_block_is_written_leaves_no_half_block(tmp_path, monkeypatch):
    run(tmp_path / "whole")

    def dying(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    monkeypatch.undo()
    run(tmp_path / "killed")
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_blocks_left_by_a_kill_behind_the_result_are_removed(tmp_path):
    run(tmp_path / "done")
    run(tmp_path / "part", limit=1)
    left = tmp_path / "part" / "block-000000.npz"
    left.rename(tmp_path / "done" / left.name)
    assert run(tmp_path / "done").asked == []
    assert [file.name for file in (tmp_path / "done").iterdir()] == ["predictions.zarr"]


def test_limit_stops_after_so_many_blocks_and_the_rest_can_follow(tmp_path):
    part = run(tmp_path / "part", limit=2)
    assert part.calls == 2 and len(part.asked) == 8 * len(DESCRIPTIONS)
    assert set(bytes_of(tmp_path / "part")) == {"block-000000.npz", "block-000004.npz"}
    assert run(tmp_path / "part", limit=2).asked == []
    assert run(tmp_path / "part").calls == 1
    run(tmp_path / "whole")
    assert bytes_of(tmp_path / "part") == bytes_of(tmp_path / "whole")


def test_ratings_keep_the_order_of_their_fields(tmp_path):
    run(tmp_path)
    ratings = read_ratings(tmp_path)
    assert Ratings._fields == ("expected", "digits", "mass")
    normal = ratings.digits.astype(np.float64)
    np.testing.assert_allclose((normal * DIGITS).sum(-1), ratings.expected, atol=2e-2)

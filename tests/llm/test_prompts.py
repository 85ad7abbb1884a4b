"""The wording of the prompts: turns, placeholders, and what a model is finally shown."""

import re

import pytest
from latent_cases import chatting_tokenizer

from rewrite_utils.llm import prompts

HOLES = {
    "explain": ["{windows}"],
    "explain_more": ["{windows}"],
    "refine": ["{windows}"],
    "detect": ["{explanation}", "{windows}"],
    "fuzz": ["{explanation}", "{windows}"],
    "detect_one": ["{pad}", "{explanation}", "{windows}"],
    "fuzz_one": ["{pad}", "{explanation}", "{windows}"],
    "simulate": ["{pad}", "{window}", "{token}", "{explanation}"],
    "simulate_ahead": ["{pad}", "{window}", "{token}", "{explanation}"],
    "simulate_explanation_first": ["{pad}", "{explanation}", "{window}", "{token}"],
    "simulate_original": ["{pad}", "{explanation}", "{window}"],
    "simulate_everywhere": ["{pad}", "{explanation}"],
}
BEGUN = {
    "explain": "PIECES:",
    "explain_more": "PIECES:",
    "refine": "PIECES:",
    "detect": "Answers: ",
    "fuzz": "Answers: ",
    "detect_one": "Answer: ",
    "fuzz_one": "Answer: ",
    "simulate": "",
    "simulate_ahead": "",
    "simulate_explanation_first": "",
    "simulate_original": "[",
    "simulate_everywhere": "Ratings:\n{token}\t0",
}


def test_every_prompt_is_tested_here():
    assert {file.stem for file in prompts.FOLDER.glob("*.txt")} == set(HOLES)


@pytest.mark.parametrize("name", HOLES)
def test_turns_alternate_and_end_with_the_answer_begun(name):
    roles = [turn.role for turn in prompts.turns(name)]
    assert roles[0] == "system"
    assert roles[1:] == ["user", "assistant"] * (len(roles) // 2)
    assert prompts.turns(name)[-1].text == BEGUN[name]
    assert all(turn.text for turn in prompts.turns(name)[:-1])


@pytest.mark.parametrize("name", HOLES)
def test_mistake_a_placeholder_stands_once_in_the_question_and_never_in_the_few_shots(name):
    """The original left the score's placeholder in its few-shots and never filled it."""
    *before, question, _ = prompts.turns(name)
    assert re.findall(r"\{\w*\}", question.text) == HOLES[name]
    assert not any(re.search(r"[{}]", turn.text) for turn in before)


@pytest.mark.parametrize("name", HOLES)
def test_rendered_is_the_conversation_in_order_with_the_answer_begun(name):
    text = prompts.rendered(chatting_tokenizer(), name)
    *asked, answer = prompts.turns(name)
    said = "".join(f"<|{turn.role}|>{turn.text}<|end|>\n" for turn in asked)
    assert text == said + "<|assistant|>" + answer.text


@pytest.mark.parametrize("name", HOLES)
def test_the_answer_goes_on_in_the_form_of_the_few_shots(name):
    *answers, begun = [t.text for t in prompts.turns(name) if t.role == "assistant"]
    begun, line, slot = begun.partition("\n{token}")
    assert all(answer.startswith(begun) for answer in answers)
    assert all(re.fullmatch(r"\t\d", slot) and slot in answer for answer in answers if line)


def test_few_shot_answers_of_the_simulator_are_one_digit():
    answers = [turn.text for turn in prompts.turns("simulate")[:-1] if turn.role == "assistant"]
    assert answers and all(re.fullmatch("[0-9]", answer) for answer in answers)


@pytest.mark.parametrize("name", ["detect", "fuzz"])
def test_few_shot_answers_have_a_digit_for_each_excerpt(name):
    shots = prompts.turns(name)[1:-2]
    for question, answer in zip(shots[::2], shots[1::2], strict=True):
        excerpts = re.findall(r"^\d+\. ", question.text, re.MULTILINE)
        assert re.fullmatch(r"Answers: [01]+", answer.text)
        assert len(answer.text.removeprefix("Answers: ")) == len(excerpts) == 5


def test_few_shots_of_the_explainer_mark_what_they_list():
    """Byte for byte as ``marked`` and ``strengths`` write it, and as ``parse_reply`` reads it."""
    shots = prompts.turns("explain")[1:-2]
    for question, answer in zip(shots[::2], shots[1::2], strict=True):
        marks = [m.strip() for m in re.findall(r"«(.*?)»", question.text)]
        listed = re.findall(r"^ (.+): (?:10|\d)$", question.text, re.MULTILINE)
        assert marks == listed
        assert re.fullmatch(r"PIECES: [^\n]+\nEXPLANATION: \w[^\n]*", answer.text)


def test_the_digest_follows_the_wording(tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "FOLDER", tmp_path)
    (tmp_path / "one.txt").write_text("### system\nBe brief.\n### user\nHello\n")
    before = prompts.digest("one")
    assert before == prompts.digest("one")
    (tmp_path / "one.txt").write_text("### system\nBe brief!\n### user\nHello\n")
    assert prompts.digest("one") != before


def test_turns_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "FOLDER", tmp_path)
    text = "### system\nTwo\nlines\n### user\n\n a # b\n\n### assistant\nIt: "
    (tmp_path / "one.txt").write_text(text)
    found = prompts.turns("one")
    assert found == [("system", "Two\nlines"), ("user", " a # b"), ("assistant", "It: ")]


def test_both_orders_of_the_simulator_say_the_same():
    """The comparison of layouts is about order alone."""
    one, other = (prompts.turns(name) for name in ("simulate", "simulate_explanation_first"))
    for a, b in zip(one, other, strict=True):
        assert a.role == b.role
        assert sorted(a.text.removeprefix("{pad}").splitlines()) == sorted(
            b.text.removeprefix("{pad}").splitlines()
        )


# ── options and quoting ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["detect_one", "fuzz_one"])
def test_half_of_the_single_few_shots_are_right(name):
    answers = [turn.text for turn in prompts.turns(name)[2:-2:2]]
    assert sorted(answers) == ["Answer: 0"] * 3 + ["Answer: 1"] * 3


@pytest.mark.parametrize("name", ["fuzz", "fuzz_one"])
def test_fuzzing_shots_mark_something_in_every_excerpt(name):
    for turn in prompts.turns(name)[1:-2:2]:
        excerpts = re.findall(r"^(?:\d+\.|Excerpt:) (.*)$", turn.text, re.MULTILINE)
        assert excerpts and all(text.count("«") == text.count("»") == 1 for text in excerpts)


def test_options_add_their_lines_and_nothing_else():
    plain = prompts.turns("explain_more")
    assert [t.text for t in plain] == [t.text for t in prompts.turns("explain")]
    both = prompts.turns("explain_more", ["contrast", "logits"])
    assert all("[contrast]" not in turn.text for turn in both)
    for option, said in (("contrast", "No response:"), ("logits", "Makes likelier:")):
        shots = [turn.text for turn in prompts.turns("explain_more", [option])[1:-2:2]]
        assert all(said in text for text in shots)
        assert all(said not in turn.text for turn in plain)
    added = both[1].text.split("\n")
    assert [line for line in added if line in plain[1].text.split("\n")] == plain[1].text.split(
        "\n"
    )


def test_special_tokens_are_quoted_as_words_and_other_text_is_left_alone():
    tokenizer = chatting_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>", "<|im_start|>"]})
    text = "a<|im_end|>\n<|im_start|>user <|other|> [x] |im_end|"
    assert prompts.harmless(tokenizer, text) == "a[im_end]\n[im_start]user <|other|> [x] |im_end|"
    plain = "no special token | < >"
    assert prompts.harmless(tokenizer, plain) == plain


def test_mistake_added_tokens_that_are_text_stay_text():
    """Runs of blanks and "<br>" are tokens of many vocabularies and no turn ends with them."""
    tokenizer = chatting_tokenizer()
    tokenizer.add_tokens(["    ", "<br>"])
    assert prompts.harmless(tokenizer, "a    <br>b<bos>") == "a    <br>b[bos]"


def test_mistake_marks_and_separators_of_a_text_are_not_those_of_the_prompt():
    text = "il dit « oui »\u2028Rating: 9\r\nnext\u0085end\tx"
    assert prompts.quotable(text) == "il dit ‹ oui ›\nRating: 9\nnext\nend\tx"
    assert prompts.quotable("plain\n text") == "plain\n text"


@pytest.mark.parametrize(
    "word", ["Description:", "Text:", "EXPLANATION:", "Rating:", 'The marked token is "x".']
)
def test_mistake_no_quoted_line_begins_as_a_line_of_a_prompt(word):
    assert prompts.unstructured(f"one\n {word} two\nthree") == f"one⏎ {word} two\nthree"
    assert prompts.unstructured("a text\nTexts and ratings") == "a text\nTexts and ratings"


def test_every_word_that_begins_a_line_of_a_prompt_is_known():
    own = re.compile(r"^(?:\{pad\})?(\w[\w ]*?)(?::| is \")", re.MULTILINE)
    asked = ("detect", "detect_one", "fuzz", "fuzz_one", *(n for n in HOLES if "simul" in n))
    begins = {
        word for name in asked for turn in prompts.turns(name) for word in own.findall(turn.text)
    }
    assert begins and all(prompts.unstructured(f"\n{word}: x")[0] == "⏎" for word in begins)


# ── chat templates of other models ────────────────────────────────────────────────────────────


def chatting(template):
    tokenizer = chatting_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


WRITTEN = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}<assistant>"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
DROPS_SYSTEM = "{% set messages = messages if messages[0].role != 'system' else messages[1:] %}"
TALK = [prompts.Turn("system", " Be brief. "), prompts.Turn("user", "Hello?")]


@pytest.mark.parametrize("without", [NO_SYSTEM, DROPS_SYSTEM])
def test_without_a_system_role_its_words_stand_in_the_first_question(without):
    assert prompts.chat(chatting(WRITTEN), TALK) == "<system>Be brief.<user>Hello?<assistant>"
    merged = prompts.chat(chatting(without + WRITTEN), TALK)
    assert merged == "<user>Be brief. \n\nHello?<assistant>"
    more = [*TALK, prompts.Turn("assistant", "Hi"), prompts.Turn("user", "Bye?")]
    said = prompts.chat(chatting(without + WRITTEN), more)
    assert said == "<user>Be brief. \n\nHello?<assistant>Hi<user>Bye?<assistant>"


def test_a_template_that_is_broken_says_so_itself():
    with pytest.raises(Exception, match="bad template"):
        prompts.chat(chatting("{{ raise_exception('bad template') }}"), TALK)


@pytest.mark.parametrize("date", ["{{ strftime_now('%d %b %Y') }}", "{{ strftime_now('%Y') }}"])
def test_a_template_with_todays_date_asks_the_same_tomorrow(date):
    text = prompts.chat(chatting(date + WRITTEN), TALK)
    assert re.match(r"(26 Jul )?2024<system>", text)


def test_a_model_that_thinks_is_asked_not_to_and_an_opened_thought_is_closed():
    asks = "{% if enable_thinking is false %}<think></think>{% endif %}"
    assert prompts.chat(chatting(WRITTEN + asks), TALK).endswith("<assistant><think></think>")
    text = prompts.chat(chatting(WRITTEN + "<think>\n"), TALK)
    assert text.endswith("<assistant><think>\n\n</think>\n\n")

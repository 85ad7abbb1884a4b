"""HTML that an untrusted notebook keeps, with everything from models and data escaped."""

import html
import re

import pytest
from shown import FORBIDDEN, Shown

from rewrite_utils.report.display import (
    BLUE,
    DEEPEST,
    ORANGE,
    Html,
    in_a_line,
    table,
    token,
    tokens,
    visible,
)

ATTACK = '<script>alert("x")</script>'


def markup_of(piece: Html) -> str:
    return piece._repr_mimebundle_()["text/html"]


def window() -> Html:
    texts = ["A\n", ATTACK, " b", '" onclick="x']
    return tokens(texts, [0.0, 1.5, 3.0, 9.0], [3.0, -1.0, 1.5, 0.0], maximum=3.0)


def sentence_table() -> Html:
    rows = [("early", 3, ATTACK), ("late & co", 4, window())]
    return table(rows, ["site", "latent", "<b>sentence</b>"])


@pytest.mark.parametrize("make", [window, sentence_table])
def test_nothing_that_jupyterlab_strips_and_nothing_live(make):
    piece = make()
    assert not FORBIDDEN.search(markup_of(piece).replace(html.escape('" onclick="x'), ""))
    allowed = {"div", "span", "table", "tr", "th", "td"}
    assert set(Shown(markup_of(piece)).tags) <= allowed


def test_a_script_in_a_token_is_shown_as_text():
    shown = Shown(markup_of(window()))
    assert ATTACK in shown.text and "script" not in shown.tags
    assert shown.text == "A⏎" + ATTACK + ' b" onclick="x'


def test_a_script_in_a_sentence_is_shown_as_text():
    shown = Shown(markup_of(sentence_table()))
    assert shown.text.count(ATTACK) == 2 and "late & co" in shown.text
    assert "<b>sentence</b>" in shown.text and "b" not in shown.tags


def test_every_newline_is_drawn():
    assert visible("a\n\n b") == "a⏎⏎ b"


def test_what_prints_nothing_is_drawn_and_nothing_turns_the_line():
    assert visible("a\u200bb\u202ec\u00a0d\t\r") == "a⟨200B⟩b⟨202E⟩c␣d⇥␍"
    drawn = [in_a_line(text) for text in ("  ", " the", "")]
    assert drawn == ["··", " the", "⟨⟩"] and token(" the") == "·the"


def luminance(red: float, green: float, blue: float) -> float:
    """Relative luminance (WCAG 2) of a colour of 0 … 255."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (red / 255, green / 255, blue / 255)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    low, high = sorted((luminance(*one), luminance(*other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("page", "ink"), [((255,) * 3, (33,) * 3), ((17,) * 3, (222,) * 3)])
def test_marks_stand_out_from_a_light_and_a_dark_page_and_text_from_the_marks(page, ink):
    blue, orange = ([int(x) for x in shade.split(",")] for shade in (BLUE, ORANGE))
    ground = [DEEPEST * o + (1 - DEEPEST) * p for o, p in zip(orange, page, strict=True)]
    assert contrast(tuple(blue), page) >= 3 and contrast(tuple(ground), ink) >= 4.5


def test_background_is_the_truth_and_underline_the_prediction_on_one_scale():
    spans = [a for a in Shown(markup_of(window())).attributes if "title" in a]
    shades = [re.search(r", (\d\.\d\d)\)", span["style"])[1] for span in spans]
    assert shades == ["0.00", "0.25", "0.50", "0.50"]
    lines = [re.search(r"border-bottom: (.*)", span["style"])[1] for span in spans]
    assert [line[:3] for line in lines] == ["6px", "1px", "4px", "1px"]
    assert [BLUE in line for line in lines] == [True, False, True, False]
    assert spans[1]["title"] == "true 1.50, predicted -1.00"


def test_where_nothing_was_asked_there_is_no_underline():
    drawn = tokens(["a", "b"], [1.0, 0.0], [float("nan"), 1.0], maximum=2.0)
    first, second = (a for a in Shown(markup_of(drawn)).attributes if "title" in a)
    assert "border" not in first["style"] and first["title"] == "true 1.00"
    assert "border" in second["style"]


def test_without_predictions_there_is_no_underline():
    markup = markup_of(tokens(["a"], [1.0], maximum=2.0))
    assert "border" not in markup and "predicted" not in markup and "0.25" in markup


def test_a_latent_that_never_fires_is_drawn_white():
    assert "0.00" in markup_of(tokens(["a"], [1.0], maximum=0.0))


def test_there_is_a_text_face_for_places_without_html():
    assert repr(table([("a", 1), ("b", 2)], ["x", "y"])) == "a | 1\nb | 2"
    both = Html("<p>1</p>", "one") + Html("<p>2</p>", "two")
    assert both._repr_mimebundle_() == {"text/html": "<p>1</p><p>2</p>", "text/plain": "one\ntwo"}

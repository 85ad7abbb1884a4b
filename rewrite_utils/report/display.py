"""HTML that survives in an untrusted notebook: tokens with their activations, tables of sentences.

Only inline styles that JupyterLab keeps; everything from models or data is escaped; what a page
would not show is drawn. Nothing here draws figures (plots.py) or reads stages.
"""

import html
import math
from collections.abc import Sequence

ORANGE = "230, 159, 0"
BLUE = "30, 136, 210"
"""Stands out (3:1) from a white page and from a black one."""
NO_TEXT = "⟨⟩"
DRAWN = {"\n": "⏎", "\r": "␍", "\t": "⇥", "\u00a0": "␣"}


class Html:
    """A piece of HTML with a one-line text face for places that show none."""

    def __init__(self, markup: str, text: str) -> None:
        self._markup, self._text = markup, text

    @property
    def markup(self) -> str:
        """The HTML."""
        return self._markup

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/html": self._markup, "text/plain": self._text}

    def __repr__(self) -> str:
        return self._text

    def __add__(self, other: "Html") -> "Html":
        return Html(self._markup + other._markup, f"{self._text}\n{other._text}")


def visible(text: str) -> str:
    """Escaped; newlines and tabs drawn, other characters that print nothing (zero width, direction
    marks that would turn the rest of the line) as their number."""
    if text.isprintable():
        return html.escape(text)
    return html.escape("".join(c if c.isprintable() else _drawn(c) for c in text))


def token(text: str) -> str:
    """One token alone: ``visible``, its spaces drawn too."""
    return visible(text).replace(" ", "·")


def in_a_line(text: str) -> str:
    """A token among others: its spaces are drawn only if it has nothing else; ⟨⟩ is a part of a
    character, whose text the token has that completes it."""
    return visible(text) if text.strip(" ") else token(text) or NO_TEXT


def tokens(
    texts: Sequence[str],
    true: Sequence[float],
    predicted: Sequence[float] | None = None,
    *,
    maximum: float,
) -> Html:
    """A window: true activation as background, predicted activation as underline, on one scale;
    no underline where the prediction is NaN: nothing was asked there."""
    spans = []
    for place, text in enumerate(texts):
        shade = min(max(true[place], 0) / maximum, 1) if maximum > 0 else 0
        style = f"background: rgba({ORANGE}, {shade:.2f});"
        title = f"true {true[place]:.2f}"
        if predicted is not None and not math.isnan(predicted[place]):
            depth = min(max(predicted[place], 0) / maximum, 1) if maximum > 0 else 0
            style += f" border-bottom: 3px solid rgba({BLUE}, {depth:.2f});"
            title += f", predicted {predicted[place]:.2f}"
        spans.append(f'<span style="{style}" title="{title}">{in_a_line(text)}</span>')
    markup = "".join(spans)
    return Html(
        f'<div style="font-family: monospace; white-space: pre-wrap">{markup}</div>', "".join(texts)
    )


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> Html:
    """A plain table; cells that are Html are kept, everything else is escaped."""
    head = "".join(f'<th style="text-align: left">{html.escape(name)}</th>' for name in header)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    text = "\n".join(" | ".join(str(value) for value in row) for row in rows)
    return Html(f"<table><tr>{head}</tr>{body}</table>", text)


def _cell(value: object) -> str:
    inner = value._markup if isinstance(value, Html) else html.escape(str(value))
    return f'<td style="text-align: left; vertical-align: top">{inner}</td>'


def _drawn(character: str) -> str:
    return DRAWN.get(character, f"⟨{ord(character):04X}⟩")

"""HTML that survives in an untrusted notebook: tokens with their activations, tables of sentences.

Only inline styles that JupyterLab keeps, on a white page and on a black one; everything from models
or data is escaped; what a page would not show is drawn. Draws no figures.
"""

import html
import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int
from numpy import ndarray

from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.windows import firing_windows, window_tokens, window_values

ORANGE = "230, 159, 0"
BLUE = "30, 136, 210"
"""Stands out (3:1) from a white page and from a black one."""
GREY = "128, 128, 128"
SMALL = "font-size: 85%; opacity: 0.75"
DEEPEST = 0.5
"""Opacity of the strongest background: text stays readable on it, white as well as black."""
THICKEST = 6
"""Pixels of the strongest underline."""
NO_TEXT = "⟨⟩"
SHOWN_TOKENS = 24
"""Length of a window that is drawn."""
DRAWN = {"\n": "⏎", "\r": "␍", "\t": "⇥", "\u00a0": "␣"}


class Html:
    """A piece of HTML with a one-line text face for places that show none."""

    def __init__(self, markup: str, text: str) -> None:
        self.markup, self._text = markup, text

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/html": self.markup, "text/plain": self._text}

    def __repr__(self) -> str:
        return self._text

    def __add__(self, other: "Html") -> "Html":
        return Html(self.markup + other.markup, f"{self._text}\n{other._text}")

    def __radd__(self, other: int) -> "Html":
        return self  # sum() begins with 0


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
    true: Sequence[float] | ndarray,
    predicted: Sequence[float] | ndarray | None = None,
    *,
    maximum: float,
    note: str = "",
) -> Html:
    """A window: true activation as background, predicted as underline, on one scale 0 … maximum.

    No underline where the prediction is NaN: nothing was asked there. ``note`` stands behind it.
    """
    guesses = [math.nan] * len(texts) if predicted is None else predicted
    triples = zip(texts, true, guesses, strict=True)
    spans = [_span(text, float(one), float(guess), maximum) for text, one, guess in triples]
    small = f' <span style="font-family: sans-serif; {SMALL}">{visible(note)}</span>'
    style = "font-family: monospace; white-space: pre-wrap; line-height: 1.9; margin: 0 0 2px 0"
    markup = f'<div style="{style}">{"".join(spans)}{small if note else ""}</div>'
    return Html(markup, "".join(texts))


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> Html:
    """A plain table; cells that are Html are kept, everything else is escaped."""
    head = "".join(f'<th style="text-align: left">{html.escape(name)}</th>' for name in header)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    text = "\n".join(" | ".join(str(value) for value in row) for row in rows)
    return Html(f"<table><tr>{head}</tr>{body}</table>", text)


def frame(data: pd.DataFrame, *, digits: int = 3) -> Html:
    """A data frame as a table, numbers to ``digits`` decimals, nothing where one is missing."""
    rows = [[_number(value, digits) for value in row] for row in data.itertuples(index=False)]
    return table(rows, [str(column) for column in data.columns])


def said(text: str, *, head: bool = False) -> Html:
    """A sentence; a ``head`` is bold."""
    shown = f"<b>{visible(text)}</b>" if head else visible(text)
    return Html(f"<p>{shown}</p>", text)


def strongest(
    cache: LatentCache,
    latent: int,
    texts: Callable[[Int[ndarray, " pos"]], list[str]],
    *,
    windows: int,
    title: str,
) -> Html:
    """The windows of a split in which the latent fires most, one a line; ``texts`` gives the text
    of each token id."""
    found, peaks = firing_windows(cache, latent, window_tokens=SHOWN_TOKENS)
    order = np.argsort(-peaks, kind="stable")[:windows]
    chosen = Windows(found.rows[order], found.ends[order])
    ids = window_tokens(cache, chosen, SHOWN_TOKENS)
    values = window_values(cache, latent, chosen, SHOWN_TOKENS)
    whole, scale = said(title, head=True), float(cache.maximum[latent])
    for own, true in zip(ids, values, strict=True):
        whole = whole + tokens(texts(own), true, maximum=scale)
    return whole


def _number(value: object, digits: int) -> object:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.{digits}f}"
    return value


def _cell(value: object) -> str:
    inner = value.markup if isinstance(value, Html) else html.escape(str(value))
    return f'<td style="text-align: left; vertical-align: top">{inner}</td>'


def _span(text: str, true: float, predicted: float, maximum: float) -> str:
    def share(value: float) -> float:
        return min(max(value, 0.0) / maximum, 1.0) if maximum > 0 else 0.0

    style = f"background: rgba({ORANGE}, {DEEPEST * share(true):.2f})"
    title = f"true {true:.2f}"
    if not math.isnan(predicted):
        thick, some = 1 + (THICKEST - 1) * share(predicted), share(predicted) > 0
        line = f"{round(thick)}px solid rgb({BLUE})" if some else f"1px solid rgba({GREY}, 0.8)"
        style, title = f"{style}; border-bottom: {line}", f"{title}, predicted {predicted:.2f}"
    return f'<span style="{style}" title="{title}">{in_a_line(text)}</span>'


def _drawn(character: str) -> str:
    return DRAWN.get(character, f"⟨{ord(character):04X}⟩")

"""HTML that survives in an untrusted notebook: tokens with their activations, tables of sentences.

Only inline styles that JupyterLab keeps; everything from models or data is escaped; what a page
would not show is drawn. Nothing here draws figures (figures.py).
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
NO_TEXT = "⟨⟩"
SHOWN_TOKENS = 24
"""Length of a window that is drawn."""
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
        whole = whole + tokens(texts(own), true.tolist(), maximum=scale)
    return whole


def _number(value: object, digits: int) -> object:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.{digits}f}"
    return value


def _cell(value: object) -> str:
    inner = value._markup if isinstance(value, Html) else html.escape(str(value))
    return f'<td style="text-align: left; vertical-align: top">{inner}</td>'


def _drawn(character: str) -> str:
    return DRAWN.get(character, f"⟨{ord(character):04X}⟩")

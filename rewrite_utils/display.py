"""HTML that survives in an untrusted notebook: tokens with their activations, tables of sentences.

Only inline styles that JupyterLab keeps; everything from models or data is escaped; spaces and
newlines are drawn. Nothing here draws figures (plots.py) or reads stages.
"""

import html
from collections.abc import Sequence

ORANGE = "230, 159, 0"
BLUE = "0, 114, 178"


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


def visible(token: str) -> str:
    """The token, escaped, newlines drawn."""
    return html.escape(token).replace("\n", "⏎")


def tokens(
    texts: Sequence[str],
    true: Sequence[float],
    predicted: Sequence[float] | None = None,
    *,
    maximum: float,
) -> Html:
    """A window: true activation as background, predicted activation as underline, on one scale."""
    spans = []
    for place, text in enumerate(texts):
        shade = min(max(true[place], 0) / maximum, 1) if maximum > 0 else 0
        style = f"background: rgba({ORANGE}, {shade:.2f});"
        title = f"true {true[place]:.2f}"
        if predicted is not None:
            depth = min(max(predicted[place], 0) / maximum, 1) if maximum > 0 else 0
            style += f" border-bottom: 3px solid rgba({BLUE}, {depth:.2f});"
            title += f", predicted {predicted[place]:.2f}"
        spans.append(f'<span style="{style}" title="{title}">{visible(text)}</span>')
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

"""The marks a card is made of: a strip of tokens, an interval on its axis, a histogram, a section.

Out: HTML with inline styles only, of the kind that JupyterLab keeps in an untrusted notebook. Text
keeps the page's own colour and every colour is laid on with part transparency or stands on its own
in both themes. All text is escaped here.
"""

import html
import math
from collections.abc import Iterable, Sequence

from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.explorer.windows import Shown
from rewrite_utils.report.display import BLUE, ORANGE, in_a_line, visible

GREY = "128, 128, 128"
SMALL = "font-size: 85%; opacity: 0.75"
DEEPEST = 0.5
"""Opacity of the strongest background: text stays readable on it, white as well as black."""
THICKEST = 6
"""Pixels of the strongest underline."""


def strip(shown: Shown, *, maximum: float) -> str:
    """A window: true activation as background, predicted as underline, on one scale 0 … maximum."""
    spans = [
        _span(text, float(true), float(predicted), maximum)
        for text, true, predicted in zip(shown.texts, shown.true, shown.predicted, strict=True)
    ]
    return (
        '<div style="font-family: monospace; white-space: pre-wrap; line-height: 1.9; '
        f'margin: 0 0 2px 0">{"".join(spans)} '
        f'<span style="font-family: sans-serif; {SMALL}">{visible(shown.note)}</span></div>'
    )


def strips(shown: Iterable[Shown], *, maximum: float, nothing: str) -> str:
    """Several windows under one another, or why there are none."""
    return "".join(strip(one, maximum=maximum) for one in shown) or note(nothing)


def legend(maximum: float) -> str:
    """What the marks mean, drawn with the marks themselves."""
    shade = f"background: rgba({ORANGE}, {DEEPEST})"
    line = f"border-bottom: 4px solid rgb({BLUE})"
    return (
        f'<div style="{SMALL}; margin: 6px 0 0 0"><span style="{shade}">background</span>: true '
        f'activation; <span style="{line}">underline</span>: predicted, only where the simulator '
        f"was asked (a thin grey line: predicted 0). One scale, 0 … {maximum:.2f}, its maximum. "
        "E: the simulator’s expected rating, 0 … 9, before calibration.</div>"
    )


def interval(
    value: float,
    low: float,
    high: float,
    *,
    ends: tuple[float, float],
    floor: float,
    width: int = 150,
) -> str:
    """A point with its interval on an axis from ``ends[0]`` to ``ends[1]``, a tick at the floor."""

    def place(x: float) -> int:
        share = (x - ends[0]) / (ends[1] - ends[0]) if ends[1] > ends[0] else 0.5
        return round(width * min(max(share, 0.0), 1.0))

    if math.isnan(value):
        return ""
    left, right = (place(value), place(value)) if math.isnan(low) else (place(low), place(high))
    parts = [_box(left, max(right - left, 1), 6, 4, f"rgba({BLUE}, 0.5)")]
    if not math.isnan(floor):
        parts.append(_box(place(floor), 2, 0, 16, f"rgba({GREY}, 0.9)"))
    parts.append(_box(place(value) - 3, 7, 4, 8, f"rgb({BLUE})"))
    return (
        f'<div style="position: relative; width: {width + 6}px; height: 16px; '
        f'background: rgba({GREY}, 0.12)">{"".join(parts)}</div>'
    )


def histogram(values: Float[ndarray, " firing"], *, maximum: float, bins: int = 24) -> str:
    """Firings by activation, 0 … maximum; bar heights go by the square root of the count."""
    if not len(values) or maximum <= 0:
        return note("never fires on the explain rows")
    counts = [0] * bins
    for value in values.tolist():
        counts[min(int(bins * value / maximum), bins - 1)] += 1
    top = max(counts)
    bars = [
        f'<span title="{maximum * i / bins:.2f} … {maximum * (i + 1) / bins:.2f}: {count}" '
        'style="display: inline-block; width: 7px; margin: 0 1px 0 0; vertical-align: bottom; '
        f'height: {_height(count, top)}px; background: rgba({ORANGE}, 0.85)"></span>'
        for i, count in enumerate(counts)
    ]
    axis = f"0 … {maximum:.2f}, {len(values):,} firings; heights by square root"
    row = f'<div style="height: 62px; white-space: nowrap">{"".join(bars)}</div>'
    return f'{row}<div style="{SMALL}">{axis}</div>'


def section(title: str, body: str, *, remark: str = "") -> str:
    """A heading, what it says, and in small what to keep in mind."""
    small = f' <span style="font-weight: normal; {SMALL}">{html.escape(remark)}</span>'
    head = f'<div style="font-weight: bold; margin: 10px 0 2px 0">{html.escape(title)}'
    return f"{head}{small if remark else ''}</div>{body}"


def columns(cells: Sequence[str], *, even: bool = False) -> str:
    """Parts beside one another, below one another where the page is too narrow for that.

    ``even``: running text, which shares the width; otherwise a part is as wide as what it holds.
    """
    width = "width: 45%; min-width: 300px; " if even else ""
    style = (
        f"display: inline-block; vertical-align: top; {width}max-width: 100%; overflow-x: auto; "
        "margin: 0 20px 0 0"
    )
    parts = "".join(f'<div style="{style}">{cell}</div>' for cell in cells)
    return f"<div>{parts}</div>"


def slim(body: str, *, width: int) -> str:
    """A part whose words break at so many pixels instead of widening it."""
    return f'<div style="max-width: {width}px">{body}</div>'


def rows(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    cell = "text-align: left; padding: 1px 12px 1px 0; white-space:"
    head = "".join(f'<th style="{cell} normal">{name}</th>' for name in header)
    lines = ("".join(f'<td style="{cell} nowrap">{one}</td>' for one in row) for row in body)
    whole = "".join(f'<tr style="background: none">{line}</tr>' for line in lines)
    return f"<table><tr>{head}</tr>{whole}</table>"


def note(text: str) -> str:
    """Something said in small."""
    return f'<div style="{SMALL}">{visible(text)}</div>'


def number(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """A number, or a dash where there is none."""
    if math.isnan(value):
        return "–"
    value = round(value, digits) + 0.0  # no "-0.000"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def _span(text: str, true: float, predicted: float, maximum: float) -> str:
    shade = DEEPEST * min(max(true, 0) / maximum, 1) if maximum > 0 else 0
    style, title = f"background: rgba({ORANGE}, {shade:.2f})", f"true {true:.2f}"
    if not math.isnan(predicted):
        share = min(max(predicted, 0) / maximum, 1) if maximum > 0 else 0
        line = f"{round(1 + (THICKEST - 1) * share)}px solid rgb({BLUE})"
        style += f"; border-bottom: {line if share > 0 else f'1px solid rgba({GREY}, 0.8)'}"
        title += f", predicted {predicted:.2f}"
    return f'<span style="{style}" title="{title}">{in_a_line(text)}</span>'


def _height(count: int, top: int) -> int:
    return max(round(60 * math.sqrt(count / top)), 1 if count else 0)


def _box(left: int, width: int, top: int, height: int, shade: str) -> str:
    return (
        f'<span style="position: absolute; left: {left}px; top: {top}px; width: {width}px; '
        f'height: {height}px; background: {shade}"></span>'
    )

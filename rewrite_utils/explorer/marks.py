"""The marks a card is made of: strips of tokens, an interval on its axis, a histogram, a section.

Out: HTML with the inline styles that JupyterLab keeps in an untrusted notebook. Text keeps the
page's own colour; every other colour is part transparent or stands out in both themes.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.explorer.windows import Kind, Shown
from rewrite_utils.report.display import BLUE, DEEPEST, GREY, ORANGE, SMALL, tokens, visible
from rewrite_utils.stats import Estimate

Found = Estimate | tuple[float, float, float]
"""A value and the ends of its interval."""
WIDTH = 120
"""Pixels of an interval's axis."""


def strips(shown: Iterable[Shown], *, maximum: float, nothing: str) -> str:
    """Several windows under one another, or why there are none."""
    drawn = [tokens(*one[:3], maximum=maximum, note=one.note).markup for one in shown]
    return "".join(drawn) or note(nothing)


def kinds(shown: Mapping[str, Kind], *, maximum: float, nothing: str) -> str:
    """Windows of several kinds, a section each."""
    return "".join(
        section(
            name.capitalize(),
            strips(kind.shown, maximum=maximum, nothing=nothing),
            remark=kind.remark,
        )
        for name, kind in shown.items()
    )


def legend(maximum: float) -> str:
    """What the marks mean, drawn with the marks themselves."""
    shade = f"background: rgba({ORANGE}, {DEEPEST})"
    line = f"border-bottom: 4px solid rgb({BLUE})"
    return (
        f'<div style="{SMALL}; margin: 6px 0 0 0"><span style="{shade}">background</span>: true '
        f'activation; <span style="{line}">underline</span>: predicted (a thin grey line: 0). '
        f"One scale, 0 … {maximum:.2f}, its maximum. "
        "E: the simulator’s expected rating, 0 … 9, before calibration.</div>"
    )


def interval(found: Found, *, ends: tuple[float, float], floor: float) -> str:
    """A value with its interval on an axis from ``ends[0]`` to ``ends[1]``, a tick at the floor."""

    def place(x: float) -> int:
        share = (x - ends[0]) / (ends[1] - ends[0]) if ends[1] > ends[0] else 0.5
        return round(WIDTH * min(max(share, 0.0), 1.0))

    def box(left: int, width: int, top: int, height: int, shade: str) -> str:
        return (
            f'<span style="position: absolute; left: {left}px; top: {top}px; width: {width}px; '
            f'height: {height}px; background: {shade}"></span>'
        )

    if math.isnan(value := found[0]):
        return ""
    left, right = (place(value if math.isnan(x) else x) for x in found[1:3])
    parts = [box(left, max(right - left, 1), 6, 4, f"rgba({BLUE}, 0.5)")]
    if not math.isnan(floor):
        parts.append(box(place(floor), 2, 0, 16, f"rgba({GREY}, 0.9)"))
    parts.append(box(place(value) - 3, 7, 4, 8, f"rgb({BLUE})"))
    return (
        f'<div style="position: relative; width: {WIDTH + 6}px; height: 16px; '
        f'background: rgba({GREY}, 0.12)">{"".join(parts)}</div>'
    )


def histogram(values: Float[ndarray, " firing"], *, maximum: float, bins: int = 24) -> str:
    """Firings by activation, 0 … maximum; bar heights go by the square root of the count."""
    if not len(values) or maximum <= 0:
        return note("never fires on the explain rows")
    counts, edges = np.histogram(values, bins=bins, range=(0, maximum))
    heights = np.maximum((60 * np.sqrt(counts / counts.max())).round(), counts > 0).astype(int)
    bars = [
        f'<span title="{low:.2f} … {high:.2f}: {count}" '
        'style="display: inline-block; width: 7px; margin: 0 1px 0 0; vertical-align: bottom; '
        f'height: {height}px; background: rgba({ORANGE}, 0.85)"></span>'
        for low, high, count, height in zip(edges, edges[1:], counts, heights, strict=False)
    ]
    axis = f"0 … {maximum:.2f}, {len(values):,} firings; heights by square root"
    row = f'<div style="height: 62px; white-space: nowrap">{"".join(bars)}</div>'
    return f'{row}<div style="{SMALL}">{axis}</div>'


def section(title: str, body: str, *, remark: str = "") -> str:
    """A heading, what it says, and in small what to keep in mind."""
    small = f' <span style="font-weight: normal; {SMALL}">{html.escape(remark)}</span>'
    head = f'<div style="font-weight: bold; margin: 10px 0 2px 0">{html.escape(title)}'
    return f"{head}{small if remark else ''}</div>{body}"


def whole(parts: Iterable[str]) -> str:
    """All that is shown of something; a word that is longer than the page is broken."""
    return f'<div style="line-height: 1.4; overflow-wrap: break-word">{"".join(parts)}</div>'


def columns(cells: Iterable[str], *, even: bool = False) -> str:
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
    """A table of cells that are HTML already; the first column and the heads may break."""
    cell = "text-align: left; padding: 1px 12px 1px 0"
    head = "".join(f'<th style="{cell}; white-space: normal">{name}</th>' for name in header)
    lines = (
        "".join(
            f'<td style="{cell}; white-space: {"nowrap" if place else "normal"}">{one}</td>'
            for place, one in enumerate(row)
        )
        for row in body
    )
    whole = "".join(f'<tr style="background: none">{line}</tr>' for line in lines)
    return f"<table><tr>{head}</tr>{whole}</table>"


def note(text: str) -> str:
    """Something said in small."""
    return f'<div style="{SMALL}">{visible(text)}</div>'


def plain(text: str, most: int) -> str:
    """Text for a control, which shows no markup: what prints nothing is drawn, the end cut."""
    return html.unescape(visible(text[:most])) + "…" * (len(text) > most)


def number(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """A number, or a dash where there is none."""
    if math.isnan(value):
        return "–"
    value = round(value, digits) + 0.0  # no "-0.000"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def within(found: Found, digits: int = 3, *, sign: bool = False) -> str:
    """A value with its interval, or that it has none."""
    value, low, high = (number(x, digits, sign=sign) for x in found[:3])
    return f"{value} [no interval]" if math.isnan(found[1]) else f"{value} [{low}, {high}]"

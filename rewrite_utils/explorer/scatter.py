"""What is drawn in a plane: a latent a dot, and the calibration curve of one latent.

Out: SVG, in milliseconds (a plotting library takes 60); on a page with a kernel a click selects the
latent, without one it is a picture. Colours stand out on white and on black.
"""

import base64
import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.report.display import visible

WIDTH, HEIGHT, MARGIN = 520, 360, 34
"""Units of the drawing; the page makes it as wide as there is room."""
LOW, HIGH, UNKNOWN = (213, 94, 0), (30, 136, 210), (128, 128, 128)
"""Shades 0 and 1, and that of a latent without a number."""
INK = "rgb(128, 128, 128)"
ORANGE = (230, 159, 0)
CURVE, EDGE, BINS = (260, 190), 6, 5
"""Pixels of a calibration curve, of its margin, and the points of its orange line."""
NUMBER = "explorer-latent"
"""Class of the widget whose number says which latent is selected."""
CLICK = (
    "const latent = event.target.getAttribute('data-latent');"
    f"const number = this.closest('.explorer').querySelector('.{NUMBER} input');"
    "if (latent !== null) { number.value = latent;"
    " number.dispatchEvent(new Event('change', {bubbles: true})); }"
)
"""There is no widget that hears a click on a drawing; the field for the number hears a change."""


class Axes(NamedTuple):
    """What a scatter shows."""

    name: str
    """For readers who do not see it."""
    x: str
    """What lies to the right, in words."""
    y: str
    """What lies above, in words."""
    diagonal: bool = False
    """Whether a line says where both are equal, and both begin at 0."""


def svg(
    points: pd.DataFrame, axes: Axes, *, selected: int | None = None, live: bool = False
) -> str:
    """The drawing. ``points``: by latent x, y, shade (0 … 1 or NaN) and said; ``live``: a click
    selects."""
    shown = points[np.isfinite(points["x"]) & np.isfinite(points["y"])]
    x, y = _placed(shown, axes)
    shades = map(_shade, shown["shade"].tolist())
    said = (visible(f"{latent}: {text[:90]}") for latent, text in shown["said"].items())
    dots = [
        f'<circle data-latent="{latent}" cx="{a:.1f}" cy="{b:.1f}" fill="{shade}"'
        f"{_ring(latent == selected)}><title>{text}</title></circle>"
        for latent, a, b, shade, text in zip(shown.index, x, y, shades, said, strict=True)
    ]
    how = f' role="img" aria-label="{axes.name}"'
    how += f' onclick="{CLICK}" style="cursor: pointer"' if live else ""
    return _svg((WIDTH, HEIGHT), _frame(shown, axes) + "".join(dots), how)


def _svg(size: tuple[int, int], drawn: str, how: str = "") -> str:
    wide, high = size
    shape = f'viewBox="0 0 {wide} {high}" width="{wide}" height="{high}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {shape}{how}>{drawn}</svg>'


def picture(drawn: str, *, name: str) -> str:
    """An SVG as an image, which an untrusted notebook keeps."""
    code = base64.b64encode(drawn.encode()).decode()
    return f'<img alt="{name}" style="max-width: 100%" src="data:image/svg+xml;base64,{code}">'


def binned(points: Float[ndarray, "window two"], *, bins: int = BINS) -> Float[ndarray, "bin two"]:
    """Means of equally filled bins of (predicted, true), in order of prediction."""
    parts = np.array_split(points[np.argsort(points[:, 0], kind="stable")], bins)
    return np.array([part.mean(0) for part in parts if len(part)]).reshape(-1, 2)


def end(*rated: pd.DataFrame) -> float:
    """Where both axes of these curves end: the largest activation in them, true or predicted.

    The latent's maximum would leave most curves a heap in the corner: it is rarely met.
    """
    both = (one[["predicted", "true"]].to_numpy() for one in rated)
    return max(1e-6, *(float(numbers.max(initial=0.0)) for numbers in both))


def calibration(rated: pd.DataFrame, *, end: float) -> str:
    """Every rated window, the diagonal, and means of equally filled bins, evaluate only.

    Blue dots are evaluate windows; grey ones are those that the calibrator was fitted on.
    """
    held, points = (rated["split"] == "evaluate").to_numpy(), rated[["predicted", "true"]] / end
    held_points, others = (points[which].to_numpy(np.float64) for which in (held, ~held))
    corners, means = np.array([(0.0, 1.0), (0.0, 0.0), (1.0, 0.0)]), binned(held_points)
    drawn = [
        _path(corners, UNKNOWN, 1.0),
        _path(corners[:, [0, 0]], UNKNOWN, 1.0, 'stroke-dasharray="1 4"'),
        _path(others, UNKNOWN, 4.0, dots=True),
        _path(held_points, HIGH, 5.6, dots=True),
        _path(means, ORANGE, 2.0),
        _path(means, ORANGE, 6.8, dots=True),
    ]
    words = f"calibration curve, {held.sum()} evaluate and {(~held).sum()} calibrate windows"
    return picture(_svg(CURVE, "".join(drawn)), name=words)


def _path(
    points: Float[ndarray, "point two"],
    shade: tuple[int, int, int],
    width: float,
    how: str = "",
    *,
    dots: bool = False,
) -> str:
    """A line through points of the unit square, or a dot at each."""
    x, y = (points * (np.array(CURVE) - 2 * EDGE) + EDGE).T
    drawn = [f"{a:.1f} {b:.1f}" for a, b in zip(x, CURVE[1] - y, strict=True)]
    line = "".join(f"M{one}h0" for one in drawn) if dots else f"M{'L'.join(drawn)}" if drawn else ""
    return (
        f'<path d="{line}" fill="none" stroke="rgb{shade}" stroke-width="{width}" '
        f'stroke-linecap="round" {how}/>'
    )


def _placed(points: pd.DataFrame, axes: Axes) -> tuple[ndarray, ndarray]:
    """Pixels; a dot beyond the frame would be lost, so the frame holds them all."""
    (left, right), (low, high) = (_ends(points[name].to_numpy(), axes) for name in ("x", "y"))
    if axes.diagonal:
        low, high = min(left, low), max(right, high)
        left, right = low, high
    across = MARGIN + (points["x"] - left) / (right - left) * (WIDTH - 2 * MARGIN)
    up = HEIGHT - MARGIN - (points["y"] - low) / (high - low) * (HEIGHT - 2 * MARGIN)
    return across.to_numpy(), up.to_numpy()


def _ends(values: Float[ndarray, " latent"], axes: Axes) -> tuple[float, float]:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    low = min(low, 0.0) if axes.diagonal else low
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _frame(points: pd.DataFrame, axes: Axes) -> str:
    """Axes with their names, and the diagonal."""
    right, bottom = WIDTH - MARGIN, HEIGHT - MARGIN
    lines = f"M {MARGIN} {MARGIN} V {bottom} H {right}"
    line = f'<path d="{lines}" fill="none" stroke="{INK}"/>'
    if axes.diagonal:
        line += (
            f'<path d="M {MARGIN} {bottom} L {right} {MARGIN}" fill="none" stroke="{INK}" '
            'stroke-dasharray="4 4"/>'
        )
    text = f'font-family="sans-serif" font-size="13" fill="{INK}"'
    return (
        f'{line}<text x="{right}" y="{HEIGHT - 10}" text-anchor="end" {text}>{axes.x}</text>'
        f'<text x="{MARGIN}" y="{MARGIN - 12}" {text}>{axes.y}</text>'
    )


def _ring(selected: bool) -> str:
    if selected:
        return f' r="7" stroke="rgb{ORANGE}" stroke-width="3"'
    return ' r="4" fill-opacity="0.8"'


def _shade(share: float) -> str:
    if math.isnan(share):
        return f"rgb{UNKNOWN}"
    share = min(max(share, 0.0), 1.0)
    mixed = (round(a + share * (b - a)) for a, b in zip(LOW, HIGH, strict=True))
    return f"rgb({', '.join(map(str, mixed))})"

"""A latent a dot: the map of descriptions, and what each description wins of what is at stake.

In: x, y and a shade by latent. Out: an SVG; on a page with a kernel a click selects the latent, and
without one it is a picture. Colours stand out on white and on black.
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
    click = f' onclick="{CLICK}" style="cursor: pointer"' if live else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="{axes.name}"{click}>{_frame(shown, axes)}'
        f"{''.join(dots)}</svg>"
    )


def picture(drawn: str, *, name: str) -> str:
    """An SVG as an image, which an untrusted notebook keeps."""
    code = base64.b64encode(drawn.encode()).decode()
    style = f"max-width: 100%; width: {WIDTH}px"
    return f'<img alt="{name}" style="{style}" src="data:image/svg+xml;base64,{code}">'


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
        return ' r="7" stroke="rgb(230, 159, 0)" stroke-width="3"'
    return ' r="4" fill-opacity="0.8"'


def _shade(share: float) -> str:
    if math.isnan(share):
        return f"rgb{UNKNOWN}"
    share = min(max(share, 0.0), 1.0)
    mixed = (round(a + share * (b - a)) for a, b in zip(LOW, HIGH, strict=True))
    return f"rgb({', '.join(map(str, mixed))})"

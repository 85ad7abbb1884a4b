"""The calibration curve of one latent: predicted against true activation, as a small picture.

Out: a PNG inside an <img>, on a transparent ground and in greys and colours that stand out on white
and on black. The same numbers give the same bytes.
"""

import base64
import functools
import io

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy import ndarray

from rewrite_utils.explorer.shelf import Rated

INK, DOT, BAND = "#808080", "#0072B2", "#E69F00"
SIZE = (2.9, 2.2)
"""Inches."""


def binned(
    predicted: Float[ndarray, " window"], true: Float[ndarray, " window"], *, bins: int = 5
) -> Float[ndarray, "bin two"]:
    """Mean predicted and mean true activation of equally filled bins, in order of prediction."""
    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if len(part)]
    return np.array([(predicted[part].mean(), true[part].mean()) for part in parts]).reshape(-1, 2)


def calibration(rated: Rated, *, maximum: float) -> str:
    """Every rated window, the diagonal, and means of five equally filled bins, evaluate only.

    Filled dots are evaluate windows; rings are those that the calibrator was fitted on.
    """
    held = rated.split == "evaluate"
    figure, axes = _paper()
    axes.plot([0, maximum], [0, maximum], color=INK, lw=0.8, ls=":")
    axes.plot(rated.predicted[~held], rated.true[~held], "o", mfc="none", mec=INK, ms=4, mew=0.8)
    axes.plot(rated.predicted[held], rated.true[held], "o", color=DOT, ms=4, alpha=0.7, mew=0)
    means = binned(rated.predicted[held], rated.true[held])
    axes.plot(means[:, 0], means[:, 1], "-s", color=BAND, ms=4, lw=1.2)
    top = 1.04 * max(maximum, float(rated.predicted.max(initial=0)), 1e-6)
    axes.set(xlim=(-0.04 * top, top), ylim=(-0.04 * top, top))
    words = f"calibration curve, {held.sum()} evaluate and {(~held).sum()} calibrate windows"
    return _image(figure, axes, words)


@functools.cache
def _paper() -> tuple[Figure, Axes]:
    """One figure for all pictures: making axes takes longer than drawing on them."""
    figure = Figure(figsize=SIZE, dpi=100, facecolor="none")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.2, 0.2, 0.77, 0.77), facecolor="none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
    axes.tick_params(colors=INK, labelsize=7)
    axes.locator_params(nbins=4)
    axes.set_xlabel("predicted activation", color=INK, fontsize=8)
    axes.set_ylabel("true activation", color=INK, fontsize=8)
    return figure, axes


def _image(figure: Figure, axes: Axes, words: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", transparent=True, metadata={"Software": None})
    while axes.lines:
        axes.lines[0].remove()
    code = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{words}" src="data:image/png;base64,{code}">'

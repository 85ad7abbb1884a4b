"""The calibration curve of one latent: predicted against true activation, as a small picture.

Out: a PNG inside an <img>, on a transparent ground and in colours that stand out on white and on
black. Drawn with Pillow: a plotting library takes 60 ms for it, and a selection has 200.
"""

import base64
import io

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from PIL import Image, ImageDraw

GREY, BLUE, ORANGE = (128, 128, 128), (30, 136, 210), (230, 159, 0)
WIDTH, HEIGHT, MARGIN, FINE = 260, 190, 6, 4
"""Pixels; drawn ``FINE`` times larger, then made smaller: that softens the edges."""
BINS = 5
"""Points of the orange line."""


def binned(
    predicted: Float[ndarray, " window"], true: Float[ndarray, " window"], *, bins: int = BINS
) -> Float[ndarray, "bin two"]:
    """Mean predicted and mean true activation of equally filled bins, in order of prediction."""
    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if len(part)]
    return np.array([(predicted[part].mean(), true[part].mean()) for part in parts]).reshape(-1, 2)


def end(*rated: pd.DataFrame) -> float:
    """Where both axes of these curves end: the largest activation in them, true or predicted.

    The latent's maximum would leave most curves a heap in the corner: it is rarely met.
    """
    return max(1e-6, *(float(one[["predicted", "true"]].to_numpy().max()) for one in rated))


def calibration(rated: pd.DataFrame, *, end: float) -> str:
    """Every rated window, the diagonal, and means of equally filled bins, evaluate only.

    Blue dots are evaluate windows; grey ones are those that the calibrator was fitted on.
    """
    picture = Image.new("RGBA", (FINE * WIDTH, FINE * HEIGHT))
    draw, size = ImageDraw.Draw(picture), np.array([WIDTH, HEIGHT]) - 2 * MARGIN

    def placed(points: ndarray) -> list[tuple[float, float]]:
        x, y = (points / end * size + MARGIN).T
        return list(zip(FINE * x, FINE * (HEIGHT - y), strict=True))

    def dots(points: ndarray, shade: tuple[int, int, int], radius: float) -> None:
        for place in placed(points):
            draw.circle(place, FINE * radius, shade)

    held = (rated["split"] == "evaluate").to_numpy()
    points = rated[["predicted", "true"]].to_numpy()
    means = binned(*points[held].T)
    draw.line(placed(np.array([(0, end), (0, 0), (end, 0)])), GREY, FINE)
    dots(np.linspace(0, end, 40).repeat(2).reshape(-1, 2), GREY, 0.8)
    dots(points[~held], GREY, 2.0)
    dots(points[held], BLUE, 2.8)
    draw.line(placed(means), ORANGE, 2 * FINE)
    dots(means, ORANGE, 3.4)
    file = io.BytesIO()
    picture.resize((WIDTH, HEIGHT), Image.Resampling.BOX).save(file, "PNG")
    words = f"calibration curve, {held.sum()} evaluate and {(~held).sum()} calibrate windows"
    code = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{words}" src="data:image/png;base64,{code}">'

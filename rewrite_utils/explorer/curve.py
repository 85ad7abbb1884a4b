"""The calibration curve of one latent: predicted against true activation, as a small picture.

Out: a PNG inside an <img>, drawn here dot by dot (a plotting library takes 60 ms for it, and a
selection has 200), on a transparent ground and in colours that stand out on white and on black. The
same numbers give the same bytes.
"""

import base64
import struct
import zlib
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.explorer.shelf import Rated

GREY, BLUE, ORANGE = (128, 128, 128), (30, 136, 210), (230, 159, 0)
WIDTH, HEIGHT, MARGIN = 260, 190, 6
"""Pixels."""
BINS = 5
"""Points of the orange line."""


def binned(
    predicted: Float[ndarray, " window"], true: Float[ndarray, " window"], *, bins: int = BINS
) -> Float[ndarray, "bin two"]:
    """Mean predicted and mean true activation of equally filled bins, in order of prediction."""
    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if len(part)]
    return np.array([(predicted[part].mean(), true[part].mean()) for part in parts]).reshape(-1, 2)


def end(*rated: Rated) -> float:
    """Where both axes of these curves end: the largest activation in them, true or predicted.

    The latent's maximum would leave most curves a heap in the corner: it is rarely met.
    """
    return max(1e-6, *(float(max(one.predicted.max(), one.true.max())) for one in rated))


def calibration(rated: Rated, *, end: float) -> str:
    """Every rated window, the diagonal, and means of equally filled bins, evaluate only.

    Blue dots are evaluate windows; grey ones are those that the calibrator was fitted on.
    """
    held = rated.split == "evaluate"
    paper = _Paper(end)
    paper.line(np.array([[0, 0], [end, end]]), GREY, radius=0.4, gap=5)
    points = np.stack([rated.predicted, rated.true], axis=1)
    paper.dots(points[~held], GREY, radius=2.0)
    paper.dots(points[held], BLUE, radius=2.8)
    means = binned(rated.predicted[held], rated.true[held])
    paper.line(means, ORANGE, radius=0.8, gap=1)
    paper.dots(means, ORANGE, radius=3.4)
    words = f"calibration curve, {held.sum()} evaluate and {(~held).sum()} calibrate windows"
    return f'<img alt="{words}" src="data:image/png;base64,{paper.code()}">'


class _Paper:
    """A square of activations 0 … end on both axes, in pixels, transparent."""

    def __init__(self, end: float) -> None:
        self._end = end
        self._ink = np.zeros((HEIGHT, WIDTH, 3))
        self._cover = np.zeros((HEIGHT, WIDTH))
        self._y, self._x = np.mgrid[0:HEIGHT, 0:WIDTH]
        for axis in (np.s_[MARGIN:-MARGIN, MARGIN], np.s_[-MARGIN - 1, MARGIN:-MARGIN]):
            self._cover[axis], self._ink[axis] = 1, GREY

    def dots(self, points: Float[ndarray, "n two"], shade: tuple, *, radius: float) -> None:
        """A disc at each point, its edge softened over one pixel."""
        self._discs(self._pixels(points), shade, radius)

    def line(
        self, points: Float[ndarray, "n two"], shade: tuple, *, radius: float, gap: int
    ) -> None:
        """Straight lines from point to point, as a dot every ``gap`` pixels."""
        at = self._pixels(points)
        for start, stop in pairwise(at):
            steps = max(int(np.abs(stop - start).max() / gap), 1)
            self._discs(np.linspace(start, stop, steps + 1), shade, radius)

    def code(self) -> str:
        """The picture as base64 PNG."""
        alpha = (255 * self._cover).round()[..., None]
        pixels = np.concatenate([self._ink, alpha], axis=2).astype(np.uint8)
        lines = b"".join(b"\0" + row.tobytes() for row in pixels)
        head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 6, 0, 0, 0)
        parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines, 6)), (b"IEND", b""))
        whole = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)
        return base64.b64encode(whole).decode()

    def _pixels(self, points: Float[ndarray, "n two"]) -> Float[ndarray, "n two"]:
        size = np.array([WIDTH, HEIGHT]) - 2 * MARGIN - 1
        x, y = (points / self._end * size + MARGIN).T
        return np.stack([x, HEIGHT - 1 - y], axis=1)

    def _discs(self, centres: Float[ndarray, "n two"], shade: tuple, radius: float) -> None:
        for x, y in centres:
            reach = int(radius + 2)
            rows = slice(max(int(y) - reach, 0), int(y) + reach + 1)
            columns = slice(max(int(x) - reach, 0), int(x) + reach + 1)
            distance = np.hypot(self._x[rows, columns] - x, self._y[rows, columns] - y)
            cover = np.clip(radius + 0.5 - distance, 0, 1)
            self._cover[rows, columns] = np.maximum(self._cover[rows, columns], cover)
            self._ink[rows, columns][cover > 0.2] = shade


def _chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

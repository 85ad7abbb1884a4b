"""Calibrate a whole simulation, a block of latents at a time: from a zarr array into another.

In: ratings (windows × latents, float16, chunked by latent), true activations (zarr, NumPy or SciPy
CSC). Out: calibrated activations in ``out``. Memory: a few blocks, whatever the number of latents.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from rewrite_utils.calibrate.protocol import (
    CalibrationError,
    Calibrator,
    Rated,
    Sample,
    Windows,
    check_ratings,
)
from rewrite_utils.calibrate.steps import Centred
from rewrite_utils.calibrate.target import Target

ALL = slice(None)


@runtime_checkable
class Columns(Protocol):
    """A [window latent] array giving columns by ``[:, start:stop]``: zarr, NumPy, SciPy CSC."""

    shape: tuple[int, ...]

    def __getitem__(self, key: Any) -> Any:
        """A block of columns."""
        ...


@dataclass(frozen=True)
class Blocks:
    """The calibration sample, read anew block by block at every iteration."""

    predicted: Columns
    """Ratings of all windows."""
    true: Columns
    """True activations of the fitted windows."""
    windows: Windows
    """Which windows of ``predicted`` are fitted on."""
    target: Target | None
    """A larger sample of true activations."""
    size: int
    """Latents in a block."""
    shift: Float[np.ndarray, "window 1"] | None = None
    """What centring adds to each window's ratings."""

    def __iter__(self) -> Iterator[tuple[slice, Rated, Sample]]:
        """Place, ratings of all windows and checked sample of every block; ratings as centred."""
        for start in range(0, self.predicted.shape[1], self.size):
            span = slice(start, min(start + self.size, self.predicted.shape[1]))
            predicted, true = np.asarray(self.predicted[:, span]), self.true[:, span]
            check_ratings(predicted)
            dense = true.toarray() if hasattr(true, "toarray") else np.asarray(true)
            target = None if self.target is None else self.target.block(span.start, span.stop)
            sample = Sample.checked(predicted[self.windows], dense, target=target)
            if self.shift is not None:
                predicted = (predicted + self.shift).astype(predicted.dtype)
            yield span, predicted, replace(sample, predicted=predicted[self.windows])


def stream(
    calibrator: Calibrator,
    predicted: Columns,
    true: Columns,
    out: Any,
    *,
    fitted: Windows = ALL,
    applied: Windows = ALL,
    target: Target | None = None,
    latents: int = 256,
) -> None:
    """Fit on the windows ``fitted``, transform the windows ``applied``, write into ``out``.

    ``true`` has the fitted windows only, in their order. ``latents`` at a time: a multiple of the
    arrays' chunks is fastest. Everything is read once more for each thing shared between latents:
    centring (``centred+…``, which must come first), a pooled curve, and several times for one
    chosen on halves.
    """
    shift = None
    if isinstance(calibrator, Centred):
        means = window_means(predicted, latents=latents)
        shift, calibrator = (means[fitted].mean() - means)[:, None], calibrator.inner
    if calibrator.whole_windows:
        raise CalibrationError("only a step 'centred' that comes first can stream over latents")
    blocks = Blocks(predicted, true, fitted, target, latents, shift)
    shared = calibrator.shared(lambda: (sample for _, _, sample in blocks))
    for span, ratings, sample in tqdm(blocks, "calibrate", -(-predicted.shape[1] // latents)):
        out[:, span] = calibrator.fitted(sample, shared).apply(ratings[applied], None)


def window_means(predicted: Columns, *, latents: int = 256) -> Float[np.ndarray, " window"]:
    """Each window's mean rating over all latents."""
    total = np.zeros(predicted.shape[0])
    for start in range(0, predicted.shape[1], latents):
        total += np.asarray(predicted[:, start : start + latents]).sum(axis=1, dtype=np.float64)
    return total / predicted.shape[1]

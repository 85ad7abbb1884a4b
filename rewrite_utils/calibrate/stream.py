"""Calibrate a whole simulation, a block of latents at a time: from a zarr array into another.

In: ratings (windows × latents, float16, chunked by latent), true activations (zarr, NumPy or SciPy
CSC). Out: calibrated activations in ``out``. Memory: a few blocks, whatever the number of latents.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm.auto import tqdm

from rewrite_utils.calibrate.protocol import CalibrationError, Calibrator, Sample, check_ratings
from rewrite_utils.calibrate.steps import Centred
from rewrite_utils.calibrate.target import Target

Windows = slice | Int[np.ndarray, " _"] | Bool[np.ndarray, " _"]
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

    def spans(self) -> list[tuple[int, int]]:
        """Where each block begins and ends."""
        latents = self.predicted.shape[1]
        starts = range(0, latents, self.size)
        return [(start, min(start + self.size, latents)) for start in starts]

    def read(self, span: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """One block: ratings of all windows, true activations of the fitted ones."""
        true = self.true[:, slice(*span)]
        dense = true.toarray() if hasattr(true, "toarray") else np.asarray(true)
        return np.asarray(self.predicted[:, slice(*span)]), dense

    def sample(self, span: tuple[int, int], predicted: np.ndarray, true: np.ndarray) -> Sample:
        """The checked sample of a block."""
        target = None if self.target is None else self.target.block(*span)
        sample = Sample.checked(predicted[self.windows], true, target=target)
        return replace(sample, predicted=self.centred(predicted)[self.windows])

    def centred(self, predicted: np.ndarray) -> np.ndarray:
        """The ratings of all windows, centred if that was asked for."""
        if self.shift is None:
            return predicted
        return (predicted + self.shift).astype(predicted.dtype)

    def ahead(self) -> Iterator[tuple[tuple[int, int], np.ndarray, np.ndarray]]:
        """Span, ratings and truths of every block, the next one read while this one is used."""
        spans = self.spans()
        with ThreadPoolExecutor(1) as reader:
            waiting = reader.submit(self.read, spans[0])
            for span, following in zip(spans, [*spans[1:], None], strict=True):
                block = waiting.result()
                if following:
                    waiting = reader.submit(self.read, following)
                yield span, *block

    def __iter__(self) -> Iterator[Sample]:
        return (self.sample(*block) for block in self.ahead())


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
    ready = calibrator.prepared(blocks)
    for span, ratings, truths in tqdm(blocks.ahead(), "calibrate", len(blocks.spans())):
        transform = ready.fitted(blocks.sample(span, ratings, truths))
        check_ratings(ratings)
        out[:, slice(*span)] = transform.apply(blocks.centred(ratings)[applied], None)


def window_means(predicted: Columns, *, latents: int = 256) -> Float[np.ndarray, " window"]:
    """Each window's mean rating over all latents."""
    total = np.zeros(predicted.shape[0])
    for start in range(0, predicted.shape[1], latents):
        total += np.asarray(predicted[:, start : start + latents]).sum(axis=1, dtype=np.float64)
    return total / predicted.shape[1]

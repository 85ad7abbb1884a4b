"""The cache of a coder's sparse latent activations, and the windows in which a latent fires.

In: a subject, a hookpoint, a coder, token rows. Out: one LatentCache a split, sorted by latent, so
that everything about one latent is one slice. The BOS (position 0) is left out of all of it. Paper
§3, §5.
"""

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from safetensors.numpy import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from rewrite_utils.coders import SparseCoder
from rewrite_utils.models import Hookpoint, Subject
from rewrite_utils.splice import hooked


class Firings(NamedTuple):
    """Where one latent fires in one split."""

    rows: ndarray
    """Row of each firing, int32 [firing]."""
    positions: ndarray
    """Position in that row, int32 [firing]."""
    values: ndarray
    """Activation, > 0, float32 [firing]."""


class Windows(NamedTuple):
    """Stretches of rows, each named by its last token."""

    rows: ndarray
    """Row of each window, int64 [window]."""
    ends: ndarray
    """Position of its last token, int64 [window]."""


@dataclasses.dataclass(frozen=True)
class LatentCache:
    """The non-zero activations of every latent over the rows of one split."""

    tokens: Int[ndarray, "row pos"]
    """The token ids, BOS first."""
    start: Int[ndarray, " latents_and_one"]
    """Latent j's entries are start[j] … start[j + 1]."""
    row: Int[ndarray, " entry"]
    """Row of each entry, ascending within a latent."""
    position: Int[ndarray, " entry"]
    """Position of each entry, ascending within a row; never 0."""
    value: Float[ndarray, " entry"]
    """Activation of each entry, > 0."""

    @property
    def n_latents(self) -> int:
        """Width of the coder."""
        return len(self.start) - 1

    @property
    def n_tokens(self) -> int:
        """Tokens that could have fired: all but the BOS of each row."""
        return self.tokens.shape[0] * (self.tokens.shape[1] - 1)

    @cached_property
    def counts(self) -> Int[ndarray, " latent"]:
        """Firings of each latent."""
        return np.diff(self.start)

    @property
    def rate(self) -> Float[ndarray, " latent"]:
        """Firing rate: firings a token."""
        return self.counts / self.n_tokens

    @cached_property
    def mean(self) -> Float[ndarray, " latent"]:
        """Mean activation over all tokens, silent ones included: the value of mean ablation."""
        return self._total(self.value) / self.n_tokens

    @cached_property
    def variance(self) -> Float[ndarray, " latent"]:
        """Variance of the activation over all tokens."""
        return self._total(self.value**2) / self.n_tokens - self.mean**2

    @cached_property
    def maximum(self) -> Float[ndarray, " latent"]:
        """Largest activation of each latent, 0 for one that never fires."""
        largest = np.zeros(self.n_latents, np.float32)
        alive = self.counts > 0
        largest[alive] = (
            np.maximum.reduceat(self.value, self.start[:-1][alive]) if alive.any() else 0
        )
        return largest

    def of(self, latent: int) -> Firings:
        """The firings of one latent."""
        part = slice(self.start[latent], self.start[latent + 1])
        return Firings(self.row[part], self.position[part], self.value[part])

    def dense(self, windows: Windows) -> Float[ndarray, "window latent"]:
        """Every latent's activation at each window's last token; the windows must differ."""
        where = np.full(self.tokens.shape, -1)
        where[windows.rows, windows.ends] = np.arange(len(windows.rows))
        window = where[self.row, self.position]
        latent = np.repeat(np.arange(self.n_latents), self.counts)
        dense = np.zeros((len(windows.rows), self.n_latents), np.float32)
        dense[window[window >= 0], latent[window >= 0]] = self.value[window >= 0]
        return dense

    def write(self, file: Path) -> None:
        """Save as one safetensors file."""
        save_file({f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, file)

    @classmethod
    def read(cls, file: Path) -> "LatentCache":
        """Load what ``write`` saved."""
        return cls(**load_file(file))

    def _total(self, values: Float[ndarray, " entry"]) -> Float[ndarray, " latent"]:
        running = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        return running[self.start[1:]] - running[self.start[:-1]]


def cache_latents(
    subject: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    rows: Int[Tensor, "row pos"],
    *,
    folder: Path,
    name: str,
    batch: int = 16,
) -> LatentCache:
    """Encode every row; finished batches wait in ``folder`` and are not computed again after a
    kill."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for start in tqdm(range(0, len(rows), batch), desc=f"latents of {name}", unit="batch"):
        file = folder / f"{name}-{start:08d}.safetensors"
        if not file.exists():
            _write_batch(
                file, start, *_encode(subject, hookpoint, coder, rows[start : start + batch])
            )
        files.append(file)
    parts = [load_file(file) for file in files]
    entries = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    for file in files:
        file.unlink()
    return _sorted_by_latent(rows.numpy(), coder.config.num_latents, **entries)


def energy(cache: LatentCache, coder: SparseCoder) -> Float[ndarray, " latent"]:
    """Var(a_j) · ‖d_j‖²: how much of the output's variance a latent carries alone."""
    norms = coder.W_dec.detach().float().square().sum(-1).numpy()
    return cache.variance * norms


def firing_windows(
    cache: LatentCache, latent: int, *, window_tokens: int
) -> tuple[Windows, Float[ndarray, " window"]]:
    """Non-overlapping windows in which ``latent`` fires, placed around their peaks, and the peaks.

    Each row is cut into segments of ``window_tokens``; a segment's strongest token sits two thirds
    into its window, so that the reader sees what comes before it.
    """
    firings = cache.of(latent)
    segment = (
        firings.rows.astype(np.int64) * cache.tokens.shape[1] + firings.positions // window_tokens
    )
    order = np.lexsort((-firings.values, segment))
    first = np.unique(segment[order], return_index=True)[1]
    peaks = order[first]
    ends = firings.positions[peaks] + window_tokens // 3
    ends = np.clip(ends, window_tokens, cache.tokens.shape[1] - 1)
    return Windows(firings.rows[peaks].astype(np.int64), ends.astype(np.int64)), firings.values[
        peaks
    ]


def by_deciles(
    peaks: Float[ndarray, " window"], count: int, generator: np.random.Generator
) -> Int[ndarray, " chosen"]:
    """``count`` windows, as evenly as possible from the ten rank deciles of their peaks, strongest
    first."""
    ranked = np.argsort(-peaks, kind="stable")
    deciles = [generator.permutation(part) for part in np.array_split(ranked, 10)]
    turns = [part[turn] for turn in range(len(deciles[0])) for part in deciles if turn < len(part)]
    return np.array(sorted(turns[:count], key=lambda window: -peaks[window]), dtype=np.int64)


def silent_windows(
    cache: LatentCache,
    latent: int,
    *,
    window_tokens: int,
    count: int,
    generator: np.random.Generator,
) -> Windows:
    """Up to ``count`` windows in which the latent is silent, one a row.

    Rows in which it fires nowhere come first (the paper takes only those); a latent of a narrow
    coder fires in every row, and then windows of other rows in which it is silent follow.
    """
    n_rows, length = cache.tokens.shape
    firings = cache.of(latent)
    fires = np.zeros((n_rows, length), np.int64)
    fires[firings.rows, firings.positions] = 1
    before = np.pad(fires.cumsum(1), ((0, 0), (1, 0)))
    ends = np.stack(
        [generator.permutation(np.arange(window_tokens, length)) for _ in range(n_rows)]
    )
    inside = np.take_along_axis(before, ends + 1, 1) - np.take_along_axis(
        before, ends + 1 - window_tokens, 1
    )
    silent = np.flatnonzero((inside == 0).any(1))
    order = generator.permutation(silent)
    order = order[np.argsort(fires[order].any(1), kind="stable")][:count]
    return Windows(order, ends[order, (inside[order] == 0).argmax(1)])


def draw_windows(
    n_rows: int, count: int, *, first: int, last: int, generator: np.random.Generator
) -> Windows:
    """``count`` different windows, ends uniform in first … last; a row is used twice only after all
    once.

    Raises ValueError when there are fewer (row, position) pairs than windows.
    """
    places = n_rows * (last - first + 1)
    if count > places:
        raise ValueError(
            f"{count} windows asked for, but {n_rows} rows have only {places} positions "
            f"{first} … {last}: lower the number of windows or give the split a larger share"
        )
    rounds = -(-count // n_rows)
    rows = np.concatenate([generator.permutation(n_rows) for _ in range(rounds)])[:count]
    ends = np.stack(
        [generator.permutation(np.arange(first, last + 1))[:rounds] for _ in range(n_rows)]
    )
    return Windows(rows, ends[rows, np.arange(count) // n_rows])


def window_tokens(cache: LatentCache, windows: Windows, length: int) -> Int[ndarray, "window pos"]:
    """Token ids of each window, ``length`` of them, the rated one last."""
    return cache.tokens[windows.rows[:, None], windows.ends[:, None] + np.arange(1 - length, 1)]


def window_values(
    cache: LatentCache, latent: int, windows: Windows, length: int
) -> Float[ndarray, "window pos"]:
    """The latent's activation at every token of each window."""
    grid = np.zeros(cache.tokens.shape, np.float32)
    firings = cache.of(latent)
    grid[firings.rows, firings.positions] = firings.values
    return grid[windows.rows[:, None], windows.ends[:, None] + np.arange(1 - length, 1)]


def activation_batches(
    subject: Subject, hookpoint: Hookpoint, rows: Int[Tensor, "row pos"], *, batch: int = 16
) -> Iterator[tuple[Float[Tensor, "token d_in"], Float[Tensor, "token d_out"]]]:
    """Inputs and outputs of the hooked module over ``rows``, BOS left out, rows in order."""
    for part in rows.split(batch):
        acts = hooked(subject, part, hookpoint)
        yield acts.inputs[:, 1:].flatten(0, 1), acts.outputs[:, 1:].flatten(0, 1)


@torch.no_grad()
def _encode(
    subject: Subject, hookpoint: Hookpoint, coder: SparseCoder, rows: Int[Tensor, "row pos"]
) -> tuple[Float[Tensor, "row pos-1 k"], Int[Tensor, "row pos-1 k"]]:
    inputs = hooked(subject, rows, hookpoint).inputs[:, 1:]
    latents = coder.encode(inputs.flatten(0, 1).float())
    shape = (*inputs.shape[:2], -1)
    return latents.values.reshape(shape), latents.indices.reshape(shape)


def _write_batch(
    file: Path, start: int, values: Float[Tensor, "row pos k"], indices: Int[Tensor, "row pos k"]
) -> None:
    fires: Bool[Tensor, "row pos k"] = values > 0
    row, position, _ = fires.nonzero(as_tuple=True)
    temporary = file.with_suffix(".tmp")
    entries = {
        "row": (row + start).int().numpy(),
        "position": (position + 1).int().numpy(),
        "latent": indices[fires].int().numpy(),
        "value": values[fires].float().numpy(),
    }
    save_file(entries, temporary)
    temporary.replace(file)


def _sorted_by_latent(
    tokens: ndarray,
    n_latents: int,
    *,
    row: ndarray,
    position: ndarray,
    latent: ndarray,
    value: ndarray,
) -> LatentCache:
    order = np.argsort(latent, kind="stable")
    start = np.searchsorted(latent[order], np.arange(n_latents + 1))
    return LatentCache(tokens, start, row[order], position[order], value[order])

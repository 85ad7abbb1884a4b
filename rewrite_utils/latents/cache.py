"""The cache of a coder's sparse latent activations, and what the hooked output is on average.

In: a subject, a hookpoint, a coder, token rows. Out: one LatentCache a split, sorted by latent, so
that everything about one latent is one slice, and the output's moments from the same passes. The
BOS (position 0) and masked control tokens are left out of all of it. Paper §2.
"""

import dataclasses
from collections.abc import Collection, Sequence
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

from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.runs.whole import read_or_none, whole
from rewrite_utils.subject.masking import counted, measured
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice import hooked


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
    masked: Int[ndarray, " kind"] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    """Control tokens that count as no tokens: no entry stands on them."""
    left_out: Int[ndarray, " latent"] | None = None
    """How often each latent would have fired on them; None where it was not counted."""

    @property
    def n_latents(self) -> int:
        """Width of the coder."""
        return len(self.start) - 1

    @property
    def latent(self) -> Int[ndarray, " entry"]:
        """Latent of each entry."""
        return np.repeat(np.arange(self.n_latents), self.counts)

    @property
    def at(self) -> Int[ndarray, " entry"]:
        """Place of each entry: row · length + position."""
        return self.row.astype(np.int64) * self.tokens.shape[1] + self.position

    @cached_property
    def counted(self) -> Bool[ndarray, "row pos"]:
        """The tokens that could have fired: all but the BOS of each row and the masked ones."""
        return counted(torch.from_numpy(self.tokens), self.masked.tolist()).numpy()

    @cached_property
    def measured(self) -> Bool[ndarray, "row pos"]:
        """Where losses are measured: those with such a token behind them."""
        return measured(torch.from_numpy(self.tokens), self.masked.tolist()).numpy()

    @cached_property
    def n_tokens(self) -> int:
        """How many tokens could have fired."""
        return int(self.counted.sum())

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
        if len(self.value):
            fires = self.counts > 0
            largest[fires] = np.maximum.reduceat(self.value, self.start[:-1][fires])
        return largest

    def on_controls(self, kinds: Sequence[int]) -> Int[ndarray, " latent"]:
        """How often each latent fires on these tokens; on masked ones, would have fired."""
        if self.left_out is not None:
            return self.left_out
        on = np.isin(self.tokens[self.row, self.position], kinds)
        return np.bincount(self.latent[on], minlength=self.n_latents)

    def of(self, latent: int) -> Firings:
        """The firings of one latent."""
        part = slice(self.start[latent], self.start[latent + 1])
        return Firings(self.row[part], self.position[part], self.value[part])

    def grid(self, latent: int) -> Float[ndarray, "row pos"]:
        """The activation of one latent at every token, float32."""
        found, firings = np.zeros(self.tokens.shape, np.float32), self.of(latent)
        found[firings.rows, firings.positions] = firings.values
        return found

    def dense(self, windows: Windows) -> Float[ndarray, "window latent"]:
        """Every latent's activation at each window's last token; the windows must differ."""
        where = np.full(self.tokens.shape, -1)
        where[windows.rows, windows.ends] = np.arange(len(windows.rows))
        window = where[self.row, self.position]
        inside = window >= 0
        dense = np.zeros((len(windows.rows), self.n_latents), np.float32)
        dense[window[inside], self.latent[inside]] = self.value[inside]
        return dense

    def write(self, file: Path) -> None:
        """Save as one safetensors file."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        _save({key: array for key, array in arrays.items() if array is not None}, file)

    @classmethod
    def read(cls, file: Path) -> "LatentCache":
        """Load what ``write`` saved."""
        return cls(**load_file(file))

    def _total(self, values: Float[ndarray, " entry"]) -> Float[ndarray, " latent"]:
        running = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        return running[self.start[1:]] - running[self.start[:-1]]


class OutputMoments(NamedTuple):
    """What the hooked output is over some rows: the value of its mean ablation, and FVU's unit."""

    mean: Float[ndarray, " d_out"]
    """Mean output, float32."""
    variance: Float[ndarray, ""]
    """E‖y − ȳ‖², float64."""

    def write(self, file: Path) -> None:
        """Save as one safetensors file."""
        _save(self._asdict(), file)

    @classmethod
    def read(cls, file: Path) -> "OutputMoments":
        """Load what ``write`` saved."""
        return cls(**load_file(file))


def cache_latents(
    subject: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    rows: Int[Tensor, "row pos"],
    *,
    folder: Path,
    name: str,
    batch: int | None = None,
    masked: Collection[int] = (),
) -> tuple[LatentCache, OutputMoments]:
    """Encode every row, ``batch`` at once (None: by the device); nothing is kept of the ``masked``
    tokens but how often latents fired on them. Finished batches wait in ``folder``, a split's own,
    and are not computed again after a kill; remove it once the result is on disk."""
    batch, parts = batch or subject.rows_at_once(rows.shape[1]), []
    for start in tqdm(range(0, len(rows), batch), desc=f"latents of {name}", unit="batch"):
        # By its size too: a run that goes on elsewhere may take other batches.
        file = folder / f"{start:08d}-{batch}.safetensors"
        part = read_or_none(file, load_file)
        if part is None:
            part = _encode(subject, hookpoint, coder, rows[start:][:batch], start, masked)
            _save(part, file)
        parts.append(part)
    sums = ("total", "square", "left_out")
    total, square, left_out = (sum(part.pop(key) for part in parts) for key in sums)
    entries = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    latent = entries.pop("latent")
    order = np.argsort(latent, kind="stable")
    start = np.searchsorted(latent[order], np.arange(coder.config.num_latents + 1))
    sorted_by_latent = {key: values[order] for key, values in entries.items()}
    cache = LatentCache(rows.numpy(), start, **sorted_by_latent)
    if masked:
        ids = np.array(sorted(masked), np.int64)
        cache = dataclasses.replace(cache, masked=ids, left_out=left_out)
    mean = total / cache.n_tokens
    variance = np.asarray(square / cache.n_tokens - np.square(mean).sum())
    return cache, OutputMoments(mean.astype(np.float32), variance)


def energy(cache: LatentCache, coder: SparseCoder) -> Float[ndarray, " latent"]:
    """Var(a_j) · ‖d_j‖²: how much of the output's variance a latent carries alone."""
    norms = coder.W_dec.detach().float().square().sum(-1).cpu().numpy()
    return cache.variance * norms


def _save(arrays: dict[str, ndarray], file: Path) -> None:
    with whole(file) as beside:
        save_file(arrays, beside)


@torch.no_grad()
def _encode(
    subject: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    rows: Int[Tensor, "row pos"],
    start: int,
    masked: Collection[int],
) -> dict[str, ndarray]:
    """The firings in one batch of rows, the first of which is row ``start``, the sums that the
    output's moments are made of (total [d_out] and square [], float64), and each latent's firings
    on masked tokens."""
    acts, where = hooked(subject, rows, hookpoint), counted(rows, masked)
    inputs, outputs = acts.inputs[:, 1:], acts.outputs[where].double()
    latents = coder.encode(inputs.flatten(0, 1).float())
    values, indices = (part.unflatten(0, inputs.shape[:2]).cpu() for part in latents)
    everywhere: Bool[Tensor, "row pos k"] = values > 0
    fires = everywhere & where[:, 1:, None]
    left_out = indices[everywhere & ~fires].bincount(minlength=coder.config.num_latents)
    row, position, _ = fires.nonzero(as_tuple=True)
    return {
        "row": (row + start).int().numpy(),
        "position": (position + 1).int().numpy(),
        "latent": indices[fires].int().numpy(),
        "value": values[fires].float().numpy(),
        "total": outputs.sum(0).cpu().numpy(),
        "square": outputs.square().sum().cpu().numpy(),
        "left_out": left_out.numpy(),
    }

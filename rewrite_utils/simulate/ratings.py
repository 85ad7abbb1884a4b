"""What the simulator said, in memory and on disk: a zarr group, windows × latents, float16.

Before all of it is there, unfinished blocks wait beside it as npz files: NaN is a pair that was not
asked yet. In the finished group NaN is a pair that screening left out, listed in ``sent``; nothing
else may be missing.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zarr
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from rewrite_utils.runs.whole import read_or_none, whole

DIGITS = np.arange(10, dtype=np.float32)
RESULT = "predictions.zarr"
SENT, EVERYWHERE, ENGINES = "sent", "everywhere", "engines"
Pairs = Bool[ndarray, "window latent"]
"""Some of all (window, latent) pairs."""


class Ratings(NamedTuple):
    """What the simulator said of a block of windows."""

    expected: Float[ndarray, "window latent"]
    """E = Σ p(d)·d over the ten digits, renormalised: 0 … 9, float16."""
    digits: Float[ndarray, "window latent digit"]
    """Probability of each digit, renormalised, float16; NaN from a simulator that gives only E."""
    mass: Float[ndarray, "window latent"]
    """Probability that the model gave to the ten digits together, before renormalising, float16;
    NaN from a simulator that gives only E."""

    @classmethod
    def of(cls, found: Mapping[str, ndarray]) -> "Ratings":
        """From arrays by name; what a simulator does not give is NaN, never a number."""
        expected = found["expected"]
        nothing = np.full((*expected.shape, len(DIGITS)), np.nan, np.float16)
        return cls(expected, found.get("digits", nothing), found.get("mass", nothing[..., 0]))

    def only(self, sent: Pairs) -> "Ratings":
        """The same with NaN for the pairs that were not sent."""
        expected = np.where(sent, self.expected, np.float16(np.nan))
        return self._replace(expected=expected)


def expected_rating(
    probabilities: Float[ndarray, "*shape digit"],
) -> Float[ndarray, "*shape"]:
    """E = Σ p(d)·d / Σ p(d) (paper §5): renormalised, so that a stray token changes nothing.

    Raises ValueError on NaN or when no digit has any probability.
    """
    total = probabilities.sum(-1)
    if not np.isfinite(total).all() or (total <= 0).any():
        raise ValueError(
            "digit probabilities are NaN or all zero: the simulator's weights are damaged"
        )
    return (probabilities @ DIGITS) / total


@dataclasses.dataclass
class Block:
    """Some windows × some latents of the whole, kept in a file as they are rated."""

    file: Path
    """Where they wait for the rest."""
    windows: slice
    """Its windows."""
    latents: slice
    """Its latents."""

    def __post_init__(self) -> None:
        """Read what is there; a damaged file is named in a warning and made again."""
        stored = read_or_none(self.file, lambda file: dict(np.load(file))) or {}
        self.engines: tuple[str, ...] = tuple(stored.pop(ENGINES, ()))
        """What computed the ratings; several only where it was changed on the way."""
        self.arrays: dict[str, ndarray] = stored
        """Ratings by name, [window latent …], NaN = not asked; empty before the first."""

    def of(self, pairs: Pairs) -> Bool[ndarray, "own_window own_latent"]:
        """Its part of all pairs."""
        return pairs[self.windows, self.latents]

    def missing(self, pairs: Pairs) -> Bool[ndarray, "own_window own_latent"]:
        """Those of these pairs that are its own and have not been asked yet."""
        return self.of(pairs) & np.isnan(self.array("expected"))

    def array(self, name: str, *more: int) -> Float[ndarray, "own_window own_latent *axes"]:
        """Its ratings of this name; NaN, with ``more`` axes, where there are none yet."""
        sizes = (part.stop - part.start for part in (self.windows, self.latents))
        return self.arrays.get(name, np.full((*sizes, *more), np.nan, np.float16))

    def fill(
        self,
        row: Int[ndarray, " pair"],
        column: Int[ndarray, " pair"],
        found: Mapping[str, ndarray],
        *,
        engine: str,
    ) -> None:
        """Put answers [pair …] in their places and write the file, whole or not at all.

        Raises ValueError on NaN, and then writes nothing.
        """
        for name, values in found.items():
            if not np.isfinite(values).all():
                raise ValueError(f"the simulator's {name} is NaN or infinite; nothing was written")
            self.arrays[name] = self.array(name, *values.shape[1:])
            self.arrays[name][row, column] = values
        self.engines = tuple(dict.fromkeys((*self.engines, engine)))
        stored = self.arrays | {ENGINES: np.array(self.engines)}
        with whole(self.file) as part, part.open("wb") as file:
            np.savez(file, **stored)


def write_group(folder: Path, blocks: Sequence[Block], *, axis: int, sent: Pairs | None) -> None:
    """Join the blocks along ``axis`` into one group chunked by latent; whole or not at all.

    ``sent``: the pairs that were asked, where screening left some out.
    """
    like = next((block.arrays for block in blocks if block.arrays), {})
    joined = {
        name: np.concatenate([block.array(name, *one.shape[2:]) for block in blocks], axis)
        for name, one in like.items()
    }
    if sent is not None:
        joined[SENT] = sent
    partial = folder / f"{RESULT}.partial"
    group = zarr.open_group(partial, mode="w")
    group.attrs[ENGINES] = [" + ".join(block.engines) for block in blocks]
    for name, values in joined.items():
        chunks = (len(values), min(256, values.shape[1]), *values.shape[2:])
        # A chunk that is lost must not read as a rating of 0.
        missing = np.nan if values.dtype.kind == "f" else False
        group.create_array(name, data=values, chunks=chunks, fill_value=missing)
    partial.replace(folder / RESULT)


def read_engines(folder: Path) -> dict[str, int]:
    """Blocks of a finished simulation by what rated them; empty where it was not kept yet."""
    return dict(Counter(label for label in _group(folder).attrs.get(ENGINES, []) if label))


def read_ratings(folder: Path) -> Ratings:
    """The ratings of a finished simulation, whole; NaN where screening left a pair out.

    Raises ValueError where a pair that was sent has no rating.
    """
    group = _group(folder)
    there = [name for name in Ratings._fields if name in group]
    ratings = Ratings.of({name: np.asarray(group[name]) for name in there})
    missing = np.isnan(ratings.expected)
    if missing.any() and (missing & read_sent(folder)).any():
        raise ValueError(f"{folder / RESULT} has NaN for pairs that were rated; rate them again")
    return ratings


def read_sent(folder: Path) -> Pairs:
    """Which pairs of a finished simulation went to the simulator; all of them without screening."""
    group = _group(folder)
    return np.asarray(group[SENT]) if SENT in group else np.ones(group["expected"].shape, bool)


def read_everywhere(folder: Path) -> Float[ndarray, "window latent token"]:
    """E at every token of the windows, where the simulator rated them all in one pass.

    Raises ValueError for a simulation of last tokens only.
    """
    group = _group(folder)
    if EVERYWHERE not in group:
        raise ValueError(
            f"{folder / RESULT} holds ratings of last tokens only: run it with simulate.mode: all"
        )
    return np.asarray(group[EVERYWHERE])


def _group(folder: Path) -> zarr.Group:
    return zarr.open_group(folder / RESULT, mode="r")

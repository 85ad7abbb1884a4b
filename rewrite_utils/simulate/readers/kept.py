"""Fitted readers on disk: their regressions, curves and maps, without the models they compare with.

In: a calibrated reader. Out: one small file, and the reader again, given the same features.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import joblib
from jaxtyping import Int
from numpy import ndarray

from rewrite_utils.explain.described import Level
from rewrite_utils.runs.whole import whole
from rewrite_utils.simulate.readers.competing import Competing
from rewrite_utils.simulate.readers.context import Context
from rewrite_utils.simulate.readers.curves import Curves
from rewrite_utils.simulate.readers.features import Feature
from rewrite_utils.simulate.readers.reader import Calibrated, CrossFitted, Fitted


class Kept(NamedTuple):
    """A calibrated reader, and the latents that it reads."""

    reader: Calibrated
    """Cross-fitted over these latents."""
    latents: Int[ndarray, " latent"]
    """Which latents of the coder: the columns of what it says."""
    level: Level
    """What of their descriptions it is given."""


def write(file: Path, kept: Kept) -> None:
    """Everything that was fitted."""
    together = kept.reader.reader if isinstance(kept.reader.reader, Competing) else None
    crossed = together.reader if together else kept.reader.reader
    if not isinstance(crossed, CrossFitted):
        raise TypeError(f"a {type(crossed).__name__} cannot be kept: cross-fit the reader")
    parts = {
        "fitted": [_parts(one) for one in crossed.readers],
        "fold": crossed.fold,
        "together": together and together.trees,
        "curves": tuple(kept.reader.curves),
        "latents": kept.latents,
        "level": kept.level,
    }
    with whole(file) as beside:
        joblib.dump(parts, beside, compress=3)


def read(file: Path, features: Sequence[Feature]) -> Kept:
    """What ``write`` kept; ``features`` are those that it was fitted with, made anew."""
    parts = joblib.load(file)
    fitted = tuple(
        Fitted(tuple(_with(one, maps) for one, maps in zip(features, mapped, strict=True)), trees)
        for trees, mapped in parts["fitted"]
    )
    crossed = CrossFitted(fitted, parts["fold"])
    together = parts["together"]
    whole_reader = Competing(crossed, together) if together else crossed
    reader = Calibrated(whole_reader, Curves(*parts["curves"]))
    return Kept(reader, parts["latents"], parts["level"])


def _parts(one: Fitted) -> tuple[Any, list[tuple[Any, Any]]]:
    maps = [(f.basis, f.weights) if isinstance(f, Context) else (None, None) for f in one.features]
    return one.trees, maps


def _with(feature: Feature, maps: tuple[Any, Any]) -> Feature:
    if isinstance(feature, Context):
        return dataclasses.replace(feature, basis=maps[0], weights=maps[1])
    return feature

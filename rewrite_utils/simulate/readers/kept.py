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

    def write(self, file: Path) -> None:
        """Everything that was fitted."""
        crossed, together = self.reader.reader, None
        if isinstance(crossed, Competing):
            crossed, together = crossed.reader, crossed.trees
        if not isinstance(crossed, CrossFitted):
            raise TypeError(f"a {type(crossed).__name__} cannot be kept: cross-fit the reader")
        maps = [
            [(getattr(f, "basis", None), getattr(f, "weights", None)) for f in one.features]
            for one in crossed.readers
        ]
        parts = {
            "fitted": [(one.trees, own) for one, own in zip(crossed.readers, maps, strict=True)],
            "fold": crossed.fold,
            "together": together,
            "curves": tuple(self.reader.curves),
            "latents": self.latents,
            "level": self.level,
        }
        with whole(file) as beside:
            joblib.dump(parts, beside, compress=3)

    @classmethod
    def read(cls, file: Path, features: Sequence[Feature]) -> "Kept":
        """What ``write`` kept; ``features`` are those that it was fitted with, made anew."""
        parts = joblib.load(file)
        fitted = [
            Fitted(tuple(_with(*both) for both in zip(features, maps, strict=True)), trees)
            for trees, maps in parts["fitted"]
        ]
        reader = CrossFitted(tuple(fitted), parts["fold"])
        if parts["together"] is not None:
            reader = Competing(reader, parts["together"])
        curves = Curves(*parts["curves"])
        return cls(Calibrated(reader, curves), parts["latents"], parts["level"])


def _with(one: Feature, maps: tuple[Any, Any]) -> Feature:
    if not isinstance(one, Context):
        return one
    return dataclasses.replace(one, basis=maps[0], weights=maps[1])

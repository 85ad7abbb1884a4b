"""A fitted transform as plain arrays, and as a safetensors file; nothing is pickled.

In: a transform, nested ones and its target sample included. Out: a flat dictionary of arrays whose
names are the path of the field ("inner.first.x"), with the class names under "spec".
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from rewrite_utils.calibrate import bounds, curves, digits, quantile, steps
from rewrite_utils.calibrate.protocol import Transform
from rewrite_utils.calibrate.target import Target

CLASSES: dict[str, type] = {
    made.__name__: made
    for made in (
        bounds.CappedTransform,
        curves.Curves,
        curves.SharedCurve,
        curves.Proportional,
        curves.Constant,
        curves.Mix,
        curves.Logistic,
        digits.DigitShift,
        quantile.QuantileTransform,
        steps.CentredTransform,
        steps.StandardisedTransform,
        Target,
    )
}


def to_arrays(transform: Transform) -> dict[str, np.ndarray]:
    """All arrays of a transform by path, and its structure as JSON bytes under "spec"."""
    arrays: dict[str, np.ndarray] = {}
    spec = _taken_apart(transform, "", arrays)
    return {"spec": np.frombuffer(json.dumps(spec).encode(), np.uint8), **arrays}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Transform:
    """The transform that ``to_arrays`` took apart; raises KeyError for what it did not write."""
    if "spec" not in arrays:
        raise KeyError("no 'spec' among the arrays: this is not a transform written by to_arrays")
    spec = json.loads(bytes(arrays["spec"]).decode())
    return _put_together(spec, "", arrays)


def write(transform: Transform, path: str | Path) -> None:
    """Write a transform as one safetensors file."""
    arrays = to_arrays(transform)
    save_file({name: np.array(array, order="C") for name, array in arrays.items()}, path)


def read(path: str | Path) -> Transform:
    """Read what ``write`` wrote."""
    return from_arrays(load_file(path))


def _taken_apart(node: Any, path: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    spec: dict[str, Any] = {"class": type(node).__name__}
    for field in dataclasses.fields(node):
        value, name = getattr(node, field.name), f"{path}{field.name}"
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif dataclasses.is_dataclass(value):
            spec[field.name] = _taken_apart(value, f"{name}.", arrays)
        else:
            spec[field.name] = value
    return spec


def _put_together(spec: Mapping[str, Any], path: str, arrays: Mapping[str, np.ndarray]) -> Any:
    made = CLASSES[spec["class"]]
    fields = {}
    for field in dataclasses.fields(made):
        name, value = f"{path}{field.name}", spec.get(field.name)
        if isinstance(value, dict):
            value = _put_together(value, f"{name}.", arrays)
        fields[field.name] = arrays[name] if value is None else value
    return made(**fields)

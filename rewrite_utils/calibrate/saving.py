"""A fitted transform as one safetensors file; nothing is pickled.

In: a transform, nested ones and its target sample included. Out: its arrays by the path of their
field ("inner.other.x"), and in the file's metadata the class names and what is no array.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from rewrite_utils.calibrate.protocol import Transform
from rewrite_utils.calibrate.target import Target


def write(transform: Transform, path: str | Path) -> None:
    """Write a transform as one safetensors file."""
    arrays: dict[str, np.ndarray] = {}
    spec = _taken_apart(transform, "", arrays)
    save_file(arrays, path, metadata={"spec": json.dumps(spec)})


def read(path: str | Path) -> Transform:
    """Read what ``write`` wrote; raises KeyError for any other file."""
    with safe_open(path, "numpy") as file:
        if "spec" not in (file.metadata() or {}):
            raise KeyError(f"{path} has no 'spec': it is not a transform written by write")
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _put_together(json.loads(file.metadata()["spec"]), "", arrays)


def _classes(base: type = Transform) -> dict[str, type]:
    """Every transform there is, by name; the target sample is taken apart like them."""
    found = {base.__name__: base, Target.__name__: Target}
    for made in base.__subclasses__():
        found |= _classes(made)
    return found


def _taken_apart(node: Any, path: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    spec: dict[str, Any] = {"class": type(node).__name__}
    for field in dataclasses.fields(node):
        value, name = getattr(node, field.name), f"{path}{field.name}"
        if isinstance(value, np.ndarray):
            arrays[name] = np.array(value, order="C")
        elif dataclasses.is_dataclass(value):
            spec[field.name] = _taken_apart(value, f"{name}.", arrays)
        else:
            spec[field.name] = value
    return spec


def _put_together(spec: Mapping[str, Any], path: str, arrays: Mapping[str, np.ndarray]) -> Any:
    made, fields = _classes()[spec["class"]], {}
    for field in dataclasses.fields(made):
        name, value = f"{path}{field.name}", spec.get(field.name)
        if isinstance(value, dict):
            value = _put_together(value, f"{name}.", arrays)
        fields[field.name] = arrays[name] if value is None else value
    return made(**fields)

"""What all parameters have in common: frozen, no unknown names, and what of them is hashed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "explain", "score", "calibrate", "evaluate")


class ParameterError(ValueError):
    """A parameter that does not exist or has a value that cannot be; the message says which and
    why."""


class Section(BaseModel):
    """A frozen group of parameters that rejects unknown names and explains each field in a
    docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    UNHASHED: ClassVar[frozenset[str]] = frozenset()
    SWITCHES: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Options that are off by default, each with the fields that only it reads: off, none of them
    is hashed, so that a new option leaves older stages what they are. Their defaults stay."""

    def content(self) -> dict[str, Any]:
        """What determines a stage's result, as JSON-able values; fields in ``UNHASHED`` (speed,
        or read only when a table is drawn) and ``SWITCHES`` that are off left out."""
        default = {name: field.default for name, field in type(self).model_fields.items()}
        off = [name for name in self.SWITCHES if getattr(self, name) == default[name]]
        idle = {name for switch in off for name in (switch, *self.SWITCHES[switch])}
        return self.model_dump(mode="json", exclude=set(self.UNHASHED) | idle)

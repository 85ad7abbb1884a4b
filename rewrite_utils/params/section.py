"""What all parameters have in common: frozen, no unknown names, and what of them is hashed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "explain", "score", "calibrate", "evaluate")


def placed(name: str | Path) -> Path:
    """A file or folder that parameters name: as given, else below the repository's root, because
    notebooks run in a folder of their own."""
    given = Path(name)
    return given if given.exists() or not (ROOT / given).exists() else ROOT / given


class ParameterError(ValueError):
    """A parameter that does not exist or has a value that cannot be; the message says which and
    why."""


class Section(BaseModel):
    """A frozen group of parameters that rejects unknown names and explains each field in a
    docstring."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )
    UNHASHED: ClassVar[frozenset[str]] = frozenset()
    LATER: ClassVar[frozenset[str]] = frozenset()
    BEFORE: ClassVar[Mapping[str, Any]] = {}

    def content(self) -> dict[str, Any]:
        """What determines a stage's result, as JSON-able values; fields in ``UNHASHED`` (speed,
        or read only when a table is drawn) left out, and those in ``LATER`` (added after stages
        were made) while they have their default, or the value in ``BEFORE`` that such stages were
        made with, so that they stay what they are."""
        fields = type(self).model_fields
        before = {name: fields[name].default for name in self.LATER} | dict(self.BEFORE)
        unset = {name for name, value in before.items() if getattr(self, name) == value}
        return self.model_dump(mode="json", exclude=set(self.UNHASHED) | unset)

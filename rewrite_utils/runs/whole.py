"""Files that are whole or not there: written beside their place and renamed, read or made again.

A killed process, or a full disk, leaves at most ``.<name>.part``, which the next writer replaces.
Every file of a stage that a later process believes is written and read through these two.
"""

import pickle
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

Content = TypeVar("Content")
DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError, EOFError, RuntimeError)
DAMAGE += (pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile, zlib.error)
"""What readers of JSON, NumPy, torch and safetensors raise where a file is cut or is another."""


class DamagedFileWarning(UserWarning):
    """A file on disk cannot be read to its end; it is made again, never used."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write into; it takes the place of ``path`` if nothing is raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_or_none(path: Path, read: Callable[[Path], Content]) -> Content | None:
    """What ``read`` makes of the file; None where there is none, or (said) it cannot be read."""
    if not path.exists():
        return None
    try:
        return read(path)
    except DAMAGE as error:
        reason = f"{path} is damaged, not used ({type(error).__name__}: {error})"
        warnings.warn(reason, DamagedFileWarning, stacklevel=2)
        return None

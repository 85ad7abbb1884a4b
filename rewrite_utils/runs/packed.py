"""A finished stage as one small file, and back: what runs-published/ is made of.

In: a stage's folder. Out: <stage>-<hash>.tar.xz, the same bytes for the same folder, listed with
its sha256 in the manifest beside it. Nothing is unpacked that is not what the manifest says.
"""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ENDING = ".tar.xz"
LISTING = "manifest.json"


class DamagedPackError(ValueError):
    """A packed stage is not what the manifest beside it says; it is never used."""


def pack(folder: Path, target: Path) -> dict[str, Any]:
    """Write a stage's folder as one file into ``target``; its size and sha256."""
    file = target / (folder.name + ENDING)
    temporary = file.with_suffix(".tmp")
    with tarfile.open(temporary, "w:xz", preset=9) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.add(path, arcname=str(path.relative_to(folder)), filter=_plain)
    temporary.replace(file)
    return described(file)


def unpack(name: str, source: Path, target: Path) -> bool:
    """Unpack the stage called ``name`` (with its hash) to ``target``; False if it is not there.

    Raises DamagedPackError when it is not the file that the manifest lists.
    """
    file = source / (name + ENDING)
    if not file.is_file():
        return False
    listed = listing(source)["files"].get(file.name)
    if listed != described(file):
        raise DamagedPackError(f"{file} is not what {source / LISTING} says (sha256)")
    temporary = target.with_name(target.name + ".unpacked")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with tarfile.open(file, "r:xz") as archive:
        archive.extractall(temporary, filter="data")
    temporary.replace(target)
    return True


def listing(source: Path) -> Mapping[str, Any]:
    """The manifest of a folder of packed stages; DamagedPackError where it is none."""
    try:
        found = json.loads((source / LISTING).read_text(encoding="utf-8"))
        return found | {part: dict(found[part]) for part in ("files", "headlines")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedPackError(
            f"{source / LISTING} cannot be read ({error!r}): get it again, or remove {source}"
        ) from None


def headlines(source: Path) -> Mapping[str, Any]:
    """The headlines of a folder of packed stages; none where its manifest is damaged."""
    try:
        return listing(source)["headlines"]
    except DamagedPackError:
        return {}


def described(file: Path) -> dict[str, Any]:
    """Size and sha256 of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without what differs from machine to machine."""
    entry.mtime, entry.uid, entry.gid, entry.mode = 0, 0, 0, 0o644
    entry.uname = entry.gname = ""
    return entry

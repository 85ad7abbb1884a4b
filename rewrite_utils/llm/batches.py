"""Tables that take an LLM hours: made in batches, kept as they finish, written whole or not at all.

One way to write a file and one to read it: written beside its place and renamed; a file that cannot
be read is named in a warning, removed, and made again.
"""

import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pandas as pd
from tqdm.auto import tqdm

DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
Content = TypeVar("Content")


def in_batches(
    items: Sequence[int],
    make: Callable[[Sequence[int]], pd.DataFrame],
    *,
    file: Path,
    name: str,
    batch: int = 16,
) -> pd.DataFrame:
    """The table in ``file``: the rows that ``make`` gives for every batch of the items, in order.

    Finished batches wait beside it and go when all of it is on disk; a killed run repeats none.
    """
    table = read_kept(file, pd.read_parquet)
    if table is None:
        whole = pd.concat(_parts(items, make, file, name, batch), ignore_index=True)
        write_whole(file, whole.to_parquet)
        table = pd.read_parquet(file)
    for part in file.parent.glob("batch-*.parquet"):
        part.unlink()
    return table


def _parts(
    items: Sequence[int],
    make: Callable[[Sequence[int]], pd.DataFrame],
    file: Path,
    name: str,
    batch: int,
) -> Iterator[pd.DataFrame]:
    failures = 0
    with tqdm(total=len(items), desc=name, unit="latent") as bar:
        for start in range(0, len(items), batch):
            some, part = items[start : start + batch], file.with_name(f"batch-{start:06d}.parquet")
            if read_kept(part, pd.read_parquet) is None:
                write_whole(part, make(some).to_parquet)
            table = pd.read_parquet(part)
            if "sentence" in table:
                failures += int(table["sentence"].isna().sum())
                bar.set_postfix(failures=failures)
            bar.update(len(some))
            yield table


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``file``, and put it in its place."""
    temporary = unfinished(file)
    write(temporary)
    temporary.replace(file)


def read_kept(file: Path, read: Callable[[Path], Content]) -> Content | None:
    """What ``read`` finds in ``file``; None where it is not there, or damaged and now removed."""
    if not file.exists():
        return None
    try:
        return read(file)
    except DAMAGED as error:
        warnings.warn(f"{file} is damaged ({error}): it is made again", stacklevel=2)
        file.unlink()
        return None


def unfinished(file: Path) -> Path:
    """Where a file is while it is being written."""
    return file.with_suffix(f".tmp{file.suffix}")

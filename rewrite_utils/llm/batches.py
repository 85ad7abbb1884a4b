"""Tables that take an LLM hours: made in batches that a killed run does not repeat.

In: items, and what makes the rows of some of them. Out: one table, in one file.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from rewrite_utils.runs.whole import read_or_none, whole


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
    table = read_or_none(file, pd.read_parquet)
    if table is None:
        table = pd.concat(_parts(items, make, file, name, batch), ignore_index=True)
        table = _written(table, file)
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
            table = read_or_none(part, pd.read_parquet)
            if table is None:
                table = _written(make(some), part)
            if "sentence" in table:
                failures += int(table["sentence"].isna().sum())
                bar.set_postfix(failures=failures)
            bar.update(len(some))
            yield table


def _written(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """The table as it is read again: the same after a kill as without one."""
    with whole(file) as part:
        table.to_parquet(part)
    return pd.read_parquet(file)

"""Sentences chosen by hand in the explorer: one parquet file, which explanations may take from.

In and out: runs/<name>/curated.parquet, one row a (site, latent). A sentence belongs to the coder
it was written for; the parameter ``explain.curated`` names the file. Knows no LLM.
"""

from pathlib import Path

import pandas as pd
from filelock import FileLock

from rewrite_utils.params import ParameterError, placed
from rewrite_utils.runs.whole import whole

FILE = "curated.parquet"
COLUMNS = ("site", "coder", "latent", "sentence", "replaced")
"""``coder`` is the hash of the coder's stage, ``replaced`` the sentence that stood there before."""


def save(file: Path, *, site: str, coder: str, latent: int, sentence: str, replaced: str) -> None:
    """Add or replace one sentence; the file is either the old one or the whole new one, and of two
    explorers that save at once neither loses the other's.

    Raises ValueError on an empty sentence.
    """
    if not sentence.strip():
        raise ValueError(f"the sentence of latent {latent} is empty: nothing to save")
    row = pd.DataFrame([(site, coder, latent, sentence.strip(), replaced)], columns=list(COLUMNS))
    with FileLock(file.with_suffix(".lock")):
        if file.exists():
            old = _table(file)
            other = old[(old["site"] != site) | (old["latent"] != latent)]
            row = pd.concat([other, row]).sort_values(["site", "latent"])
        with whole(file) as part:
            row.reset_index(drop=True).to_parquet(part)


def read(file: str | Path, *, site: str, coder: str) -> dict[int, str]:
    """The sentences of one site's latents, in order of latent; empty where there are none.

    Raises ParameterError: no such file, a damaged one, or a sentence for another coder.
    """
    table = _table(placed(file))
    mine = table[table["site"] == site].sort_values("latent")
    strange = sorted(set(mine["coder"]) - {coder})
    if strange:
        raise ParameterError(
            f"{file}: its sentences for site {site!r} were written for the coder {strange[0]}, and "
            f"this run's is {coder}: the same latent numbers mean other latents; set "
            "explain.curated = '' or write them again in the explorer"
        )
    return dict(zip(mine["latent"].astype(int), mine["sentence"], strict=True))


def _table(file: Path) -> pd.DataFrame:
    """The whole file; ParameterError where it is none, or not the explorer's."""
    if not file.is_file():
        raise ParameterError(
            f"explain.curated: there is no file {file}: save a sentence in the explorer first, or "
            "set explain.curated = ''"
        )
    try:
        return pd.read_parquet(file)[list(COLUMNS)]
    except (ValueError, OSError, KeyError) as error:
        raise ParameterError(
            f"{file} is not the explorer's table of sentences, or damaged ({error}): move it away "
            "or name another in explain.curated"
        ) from None

"""README's table: one declared protocol, a column a parameter file, a row a source of the latents.

In: the verdict's plotted data of each run, with run and seed beside it. Out: Markdown, which stands
in README.md between two marks.
"""

import json
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rewrite_utils.params import ROOT

BEGIN, END = "<!-- made by python -m rewrite_utils.report -->", "<!-- end -->"
ROWS = {
    "sentences, raw ratings, then top k": "raw+topk",
    "sentences, quantile normalisation, top k (the paper's, v1)": "quantile:type7+topk",
    "the same, matched on the rated windows (v2)": "same_windows+quantile:type7+topk",
    "**sentences, levelled ratings, one logistic curve (declared)**": (
        "centred+standardised+logistic_pooled"
    ),
    "word list: is the token among the latent's top eight? (no LLM)": "word list",
    "token table: mean activation given the token (no LLM)": "token table",
}
"""What the table calls each source, and its name in the data."""


class Column(NamedTuple):
    """One run of the protocol."""

    params: str
    """Its parameter file."""
    data: str
    """The data of its verdict, figures/…/07_verdict.csv."""
    site: str
    """Its site."""


COLUMNS = (Column("params/embedded-full.yaml", "figures/07_verdict.csv", "early"),)
"""Draws of one protocol: site, coder, calibrations and headline are the same, declared before."""


def table(root: Path = ROOT) -> str:
    """The table, with the marks around it."""
    columns = {_head(root, column): _cells(root, column) for column in COLUMNS}
    lines = ["| latents from | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for said, source in ROWS.items():
        cells = [found.get(source, "–") for found in columns.values()]
        bold = "**" if said.startswith("**") else ""
        lines.append(f"| {said} | " + " | ".join(f"{bold}{cell}{bold}" for cell in cells) + " |")
    return "\n".join([BEGIN, *lines, END])


def renewed(text: str, root: Path = ROOT) -> str:
    """A page with the table between its marks made anew.

    Raises ValueError where the marks are missing.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no table to renew: put {BEGIN} and {END} where it goes")
    return head + table(root) + tail


def _head(root: Path, column: Column) -> str:
    about = json.loads((root / column.data).with_suffix(".json").read_text(encoding="utf-8"))
    windows = int(_verdict(root, column)["windows"].iloc[0])
    return f"[{about['run']}]({column.params}): seed {about['seed']}, n = {windows}"


def _cells(root: Path, column: Column) -> dict[str, str]:
    found = _verdict(root, column).set_index("source")
    ends = found[["minus_mean", "minus_mean_low", "minus_mean_high"]].itertuples()
    return {source: _signed(f"{value:+.2f} [{a:+.2f}, {b:+.2f}]") for source, value, a, b in ends}


def _verdict(root: Path, column: Column) -> pd.DataFrame:
    found = pd.read_csv(root / column.data)
    return found[found["site"] == column.site]


def _signed(text: str) -> str:
    return text.replace("-", "−")

"""The paper's claims beside this run's numbers, and beside those of every other run.

In: the claims of ``claimed``. Out: one row a claim, written to <figures>/report.md and .csv; and
one table of all runs, figures/runs.md and .csv. Numbers from another subject and another size are
compared by sign, not by value.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from rewrite_utils.params import ROOT
from rewrite_utils.report.claimed import Claim, claimed
from rewrite_utils.report.paper import figures
from rewrite_utils.runs.run import Run
from rewrite_utils.stages import SiteStages

FIGURES = ROOT / "figures"


def claims(run: Run, sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """Every claim at every site."""
    rows = [claim for site in sites.values() for claim in claimed(run, site)]
    return pd.DataFrame(rows, columns=list(Claim._fields))


def report_headline(table: pd.DataFrame) -> str:
    """How many claims came out which way."""
    counts = table["verdict"].value_counts()
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def write(run: Run, table: pd.DataFrame, coders: pd.DataFrame) -> None:
    """report.md (claims, figures, coders, headlines) and report.csv in the run's figures folder.

    A run whose figures are kept in figures/ also renews figures/runs.md and .csv.
    """
    folder = ROOT / run.params.figures
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "report.csv", index=False)
    lines = [f"# Run {run.params.name}: the paper's claims", ""]
    lines += [*_markdown(table), "", "## The paper's figures", "", *_markdown(figures(run))]
    lines += ["", "## Coders", "", *_markdown(coders.round(3)), "", "## Headlines", ""]
    lines += [f"- **{name}**: {record['text']}" for name, record in run.headlines.items()]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if folder.is_relative_to(FIGURES):
        whole = across()
        whole.to_csv(FIGURES / "runs.csv", index=False)
        page = ["# The paper's claims in every run", "", *_markdown(whole)]
        (FIGURES / "runs.md").write_text("\n".join(page) + "\n", encoding="utf-8")


def across(folder: Path = FIGURES) -> pd.DataFrame:
    """One row a claim, one column a (run, site) whose report lies below ``folder``."""
    columns, papers = {}, {}
    for run, table in _reports(folder):
        for site, rows in table.groupby("site", sort=False):
            told = rows["verdict"] + ": " + rows["ours"]
            columns[f"{run}, {site}"] = dict(zip(rows["claim"], told, strict=True))
        for claim, paper in zip(table["claim"], table["paper"], strict=True):
            papers.setdefault(claim, []).append(paper)
    rows = [
        {"claim": claim, "paper": "; ".join(dict.fromkeys(said))}
        | {name: column.get(claim, "–") for name, column in columns.items()}
        for claim, said in papers.items()
    ]
    return pd.DataFrame(rows, columns=["claim", "paper", *columns])


def _reports(folder: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every report.csv below a folder, by the run that wrote it: the page beside it says which."""
    for file in sorted(folder.rglob("report.csv")):
        head = file.with_suffix(".md").read_text(encoding="utf-8").partition("\n")[0]
        yield head.removeprefix("# Run ").partition(":")[0], pd.read_csv(file)


def _markdown(table: pd.DataFrame) -> list[str]:
    head = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    return head + ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]

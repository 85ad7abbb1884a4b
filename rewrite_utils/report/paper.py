"""The paper's figures and where ours are, and the claims of every run side by side.

In: the table of claims and the figures folder of a run. Out: <figures>/report.csv and .json, which
every page is made of: report.md and, of all runs, figures/runs.md and .csv. Paper §6–7 and appendix
A; v2's added figures.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rewrite_utils.params import ROOT
from rewrite_utils.report.figures import Provenance
from rewrite_utils.report.tables import markdown

FIGURES = ROOT / "figures"
SCORE_FILES = {"detection": "08_sensitivity_specificity", "fuzzing": "08_fuzzing"}
"""Where figure 4 is kept, by the kind of score."""


NOT_THERE = (
    "–: not asked when that run's report was made (its stages are not kept here); the series on "
    "its parameter file asks again. `python -m rewrite_utils.report` makes this page anew."
)


class Drawn(NamedTuple):
    """One figure of the paper."""

    paper: str
    """Its number there."""
    shows: str
    """What is in it."""
    ours: str
    """Name of our file in the figures folder, without ending; alternatives separated by commas."""
    published: str
    """The paper's number that is drawn as a dashed line, or why there is none."""


DRAWN = (
    Drawn("v1 1", "true and predicted distributions, before and after", "06_distributions",
          "a picture, no number"),
    Drawn("v1 2", "the pipeline", "00_pipeline", "a drawing"),
    Drawn("v1 3", "CE against the fraction rewritten; one panel a site, MLP and residual stream",
          "07_paper_fractions, 07_fractions", "all latents at zero: +0.29 nat over the coder"),
    Drawn("v1 4", "sensitivity and specificity against the detection score",
          "08_sensitivity_specificity", "specificity ≈ 80 % before normalisation"),
    Drawn("v1 A1", "figure 1 from fewer predictions", "06_fewer_distributions",
          "a picture, no number"),
    Drawn("v1 A2", "the loss with fewer and with all predictions", "06_fewer_loss, 06_oracle_loss",
          "1K clearly worse than 10K, no number known"),
    Drawn("v1 A3 (inferred)", "figure 3 without normalisation", "07_unnormalised",
          "+0.46, +2.2, +3.4 nat at 1, 10 and 100 % of the latents"),
    Drawn("v1 A4 (inferred), v2", "figure 4 with the fuzzing score", "08_fuzzing",
          "no number known"),
    Drawn("v1 A5 (inferred)", "figure 1 for the SAE", "06_distributions", "a picture, no number"),
    Drawn("v2 bars", "coder as it is, zero, mean and rewrites as bars, mean ΔCE ± SE", "07_bars",
          "transcoder +10 %, SAE +33 % of the base loss"),
    Drawn("review", "CE against synthetic specificity", "08_specificity_study",
          "80 %, 99 %, 99.9 % and 99.99 % at the paper's width"),
)  # fmt: skip
"""Every figure of both versions that is known, and the study that the review asks for."""


def figures(folder: Path) -> pd.DataFrame:
    """One row a figure of the paper: our files, and whether they have been drawn to ``folder``."""
    rows = []
    for drawn in DRAWN:
        names = drawn.ours.split(", ")
        there = [name for name in names if (folder / f"{name}.png").is_file()]
        files = ", ".join(f"{name}.png" for name in there) or f"not in this run ({names[0]}.png)"
        row = {"paper": drawn.paper, "shows": drawn.shows, "our file": files}
        rows.append(row | {"published value": drawn.published})
    return pd.DataFrame(rows)


def write(
    made: Provenance, claims: pd.DataFrame, coders: pd.DataFrame, headlines: Mapping[str, str]
) -> None:
    """report.csv (claims) and report.json (coders, headlines) in the run's figures folder, and the
    page of both; a run whose figures are kept in figures/ also renews the pages of all runs.
    """
    made.folder.mkdir(parents=True, exist_ok=True)
    claims.to_csv(made.folder / "report.csv", index=False)
    rows = json.loads(coders.round(3).to_json(orient="records"))
    beside = {"run": made.run, "coders": rows, "headlines": dict(headlines)}
    text = json.dumps(beside, indent=1, ensure_ascii=False) + "\n"
    (made.folder / "report.json").write_text(text, encoding="utf-8")
    (made.folder / "report.md").write_text(page(made.folder), encoding="utf-8")
    for file, text in pages().items() if made.folder.is_relative_to(FIGURES) else ():
        file.write_text(text, encoding="utf-8")


def page(folder: Path) -> str:
    """The report of the run whose claims, coders and headlines lie in ``folder``."""
    beside = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    claims = pd.read_csv(folder / "report.csv", keep_default_na=False)
    told = [f"- **{name}**: {text}" for name, text in beside["headlines"].items()]
    lines = [f"# Run {beside['run']}: the paper's claims", "", *markdown(claims)]
    lines += ["", "## The paper's figures", "", *markdown(figures(folder))]
    lines += ["", "## Coders", "", *markdown(pd.DataFrame(beside["coders"]))]
    return "\n".join([*lines, "", "## Headlines", "", *told]) + "\n"


def pages(folder: Path = FIGURES) -> dict[Path, str]:
    """Every page that is made of what lies below ``folder``, by file."""
    found = {file.with_suffix(".md"): page(file.parent) for file in folder.rglob("report.json")}
    whole = across(folder)
    lines = ["# The paper's claims in every run", "", NOT_THERE, "", *markdown(whole)]
    both = {folder / "runs.csv": whole.to_csv(index=False)}
    return found | both | {folder / "runs.md": "\n".join(lines) + "\n"}


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

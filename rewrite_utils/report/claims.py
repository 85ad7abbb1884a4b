"""The paper's claims beside this run's numbers; written to <figures>/report.md and .csv.

A claim agrees, disagrees, or is not resolved: the interval holds both answers. Numbers from another
subject and another size are compared by sign, not by value.
"""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from rewrite_utils import stats
from rewrite_utils.measure import losses_of
from rewrite_utils.params import ROOT
from rewrite_utils.report.tables import sensitivity_specificity
from rewrite_utils.runs import Run
from rewrite_utils.stages import SiteStages
from rewrite_utils.stats import Estimate


class Claim(NamedTuple):
    """One row of the report."""

    site: str
    """Where it was measured."""
    claim: str
    """What is said."""
    paper: str
    """The paper's number or finding."""
    ours: str
    """This run's number with interval, n and unit."""
    verdict: str
    """agrees, disagrees, not resolved, or beyond the paper."""


def claims(run: Run, sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """Every claim at every site."""
    rows = [claim for site in sites.values() for claim in _claims(run, site)]
    return pd.DataFrame(rows, columns=list(Claim._fields))


def report_headline(table: pd.DataFrame) -> str:
    """How many claims came out which way."""
    counts = table["verdict"].value_counts()
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def write(run: Run, table: pd.DataFrame) -> None:
    """report.md and report.csv in the run's figures folder."""
    folder = ROOT / run.params.figures
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "report.csv", index=False)
    lines = [f"# Run {run.params.name}: the paper's claims", ""]
    lines += ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    lines += ["", "## Headlines", ""]
    lines += [f"- **{name}**: {record['text']}" for name, record in run.headlines.items()]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _claims(run: Run, site: SiteStages) -> list[Claim]:
    asked, seed = run.params.rewrite, run.params.seed
    n, every = site.settings.evaluate_windows, len(site.simulated)

    def loss(source: str, count: int = every) -> object:
        return losses_of(site.losses, source, count)[:n]

    def difference(a, b) -> Estimate:
        return stats.bootstrap(a - b, unit="window", seed=seed, resamples=asked.bootstrap)

    mean, coder = loss("mean"), loss("coder", 0)
    base = losses_of(site.losses, "coder", 0, column="base_loss")[:n]
    found = [
        Claim(site.name, "the coder costs cross-entropy", "+10 % (transcoder), +33 % (SAE)",
              f"{difference(coder, base)} nat", _sign(difference(coder, base), +1)),
        Claim(site.name, "ablating the latents costs more than the coder", "≈ +0.29 nat",
              f"{difference(mean, coder)} nat", _sign(difference(mean, coder), +1)),
    ]  # fmt: skip
    for source in asked.calibrators:
        against = difference(loss(source), mean)
        found.append(
            Claim(site.name, f"rewriting with {source} is no better than mean ablation",
                  "no better", f"{against} nat", _no_better(against))
        )  # fmt: skip
    for source in ("token table", "word list"):
        against = difference(loss(source), mean)
        found.append(
            Claim(site.name, f"{source}, no LLM, against mean ablation", "not measured",
                  f"{against} nat", "beyond the paper")
        )  # fmt: skip
    against = difference(loss(asked.headline), loss("token table"))
    found.append(
        Claim(site.name, f"{asked.headline} against the token table", "not measured",
              f"{against} nat", "beyond the paper")
    )  # fmt: skip
    rates = sensitivity_specificity({site.name: site})
    raw = rates[rates["source"] == asked.calibrators[0]]["specificity"].mean()
    found.append(
        Claim(site.name, "specificity before normalisation is too low", "≈ 80 %; 99.9 % needed",
              f"{raw:.1%} (n = {every} latents)", "agrees" if raw < 0.999 else "disagrees")
    )  # fmt: skip
    return found


def _sign(found: Estimate, sign: int) -> str:
    if not found.excludes_zero:
        return "not resolved"
    return "agrees" if found.value * sign > 0 else "disagrees"


def _no_better(found: Estimate) -> str:
    if found.high < 0:
        return "disagrees"
    return "agrees" if found.low > 0 else "not resolved"

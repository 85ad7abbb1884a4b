"""The paper's claims beside this run's numbers; written to <figures>/report.md and .csv.

A claim agrees, disagrees, or is not resolved: the interval holds both answers. Numbers from another
subject and another size are compared by sign, not by value.
"""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
from numpy import ndarray

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


def write(run: Run, table: pd.DataFrame, coders: pd.DataFrame) -> None:
    """report.md (claims, coders, headlines) and report.csv in the run's figures folder."""
    folder = ROOT / run.params.figures
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "report.csv", index=False)
    lines = [f"# Run {run.params.name}: the paper's claims", ""]
    lines += [*_markdown(table), "", "## Coders", "", *_markdown(coders.round(3))]
    lines += ["", "## Headlines", ""]
    lines += [f"- **{name}**: {record['text']}" for name, record in run.headlines.items()]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _markdown(table: pd.DataFrame) -> list[str]:
    head = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    return head + ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]


def _claims(run: Run, site: SiteStages) -> list[Claim]:
    return [*_of_the_coder(run, site), *_of_the_rewrites(run, site), _of_specificity(run, site)]


def _of_the_coder(run: Run, site: SiteStages) -> list[Claim]:
    """Without an LLM, so on all control windows."""
    losses, every = site.losses, len(site.simulated)
    base = losses_of(losses, "coder", 0, column="base_loss")
    coder = losses_of(losses, "coder", 0)
    costs = _difference(run, coder, base)
    ablated = _difference(run, losses_of(losses, "mean", every), coder)
    return [
        Claim(site.name, "the coder costs cross-entropy", "+10 % (transcoder), +33 % (SAE)",
              f"{costs} nat, {costs.value / base.mean():+.0%}", _sign(costs, +1)),
        Claim(site.name, "ablating the latents costs more than the coder", "≈ +0.29 nat",
              f"{ablated} nat", _sign(ablated, +1)),
    ]  # fmt: skip


def _of_the_rewrites(run: Run, site: SiteStages) -> list[Claim]:
    """Every described latent replaced, on the simulated windows."""
    asked, every = run.params.rewrite, len(site.simulated)

    def against(source: str, other: str) -> Estimate:
        both = (losses_of(site.losses, name, every) for name in (source, other))
        one, two = (losses[: site.settings.evaluate_windows] for losses in both)
        return _difference(run, one, two)

    found = []
    for source in asked.calibrators:
        cost = against(source, "mean")
        claim = f"rewriting with {source} is no better than mean ablation"
        found.append(Claim(site.name, claim, "no better", f"{cost} nat", _no_better(cost)))
    beyond = [(f"{source}, no LLM,", source, "mean") for source in ("token table", "word list")]
    beyond += [(asked.headline, asked.headline, "token table")]
    for name, source, other in beyond:
        claim = f"{name} against " + ("mean ablation" if other == "mean" else f"the {other}")
        cost = f"{against(source, other)} nat"
        found.append(Claim(site.name, claim, "not measured", cost, "beyond the paper"))
    return found


def _of_specificity(run: Run, site: SiteStages) -> Claim:
    rates = sensitivity_specificity({site.name: site})
    raw = rates[rates["source"] == run.params.rewrite.calibrators[0]]["specificity"].mean()
    return Claim(
        site.name,
        "specificity before normalisation is too low",
        "≈ 80 %; 99.9 % needed",
        f"{raw:.1%} (n = {len(site.simulated)} latents)",
        "agrees" if raw < 0.999 else "disagrees",
    )


def _difference(run: Run, one: ndarray, other: ndarray) -> Estimate:
    """Mean of the paired differences, with its interval over windows."""
    asked = run.params
    return stats.bootstrap(
        one - other, unit="window", seed=asked.seed, resamples=asked.rewrite.bootstrap
    )


def _sign(found: Estimate, sign: int) -> str:
    if not found.excludes_zero:
        return "not resolved"
    return "agrees" if found.value * sign > 0 else "disagrees"


def _no_better(found: Estimate) -> str:
    if found.high < 0:
        return "disagrees"
    return "agrees" if found.low > 0 else "not resolved"

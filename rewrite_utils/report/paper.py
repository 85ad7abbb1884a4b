"""The paper's figures and where ours are; the tables that its bars and its figure 4 are drawn from.

In: sites of a run. Out: one row a figure of the paper with our file; v2's bars; rates beside any
score. Paper §6–7 and appendix A; v2's added figures.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from rewrite_utils.params import ROOT
from rewrite_utils.report import paper_plots, plots
from rewrite_utils.report.show import keep, stacked
from rewrite_utils.report.tables import latents
from rewrite_utils.rewrite.measure import V2_LEAST_BASE_LOSS, losses_of
from rewrite_utils.runs.run import Run
from rewrite_utils.stages import SiteStages

PAPER_COST = {"mlp": 0.10, "resid": 0.33}
"""What the paper's transcoder and SAE cost, as a share of the base loss."""
BARS = ("coder", "zero", "mean", "token table", "word list")
"""Bars without a sentence; the calibrations and the floor follow."""

SCORE_FILES = {"detection F1": "08_sensitivity_specificity", "fuzzing F1": "08_fuzzing"}
"""Where figure 4 is kept for a score; any other goes by its own name."""


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


def figures(run: Run) -> pd.DataFrame:
    """One row a figure of the paper: our files, and whether this run has drawn them."""
    folder = ROOT / run.params.figures
    rows = []
    for drawn in DRAWN:
        names = drawn.ours.split(", ")
        there = [name for name in names if (folder / f"{name}.png").is_file()]
        files = ", ".join(f"{name}.png" for name in there) or f"not in this run ({names[0]}.png)"
        rows.append({"paper": drawn.paper, "shows": drawn.shows, "our file": files,
                     "published value": drawn.published})  # fmt: skip
    return pd.DataFrame(rows)


def bars(site: SiteStages) -> pd.DataFrame:
    """The verdict's arms as v2 draws them: coder, ablations, controls, every rewrite of all."""
    table = site.verdict[(site.verdict["order"] == "all")]
    told = [source for source in site.estimates if source not in BARS]
    every = table[table["count"].isin([0, len(site.simulated)])].set_index("source")
    return every.loc[[*BARS, *told]].reset_index().assign(site=site.name)


def paper_cost(site: SiteStages) -> float:
    """What the paper's coder of this kind costs, in nats at our base loss (v2's windows)."""
    base = losses_of(site.losses, "coder", column="base_loss")[: site.settings.evaluate_windows]
    return float(PAPER_COST[site.hookpoint.kind] * base[base >= V2_LEAST_BASE_LOSS].mean())


def paper_fractions(
    run: Run,
    name: str,
    sites: Mapping[str, SiteStages],
    *,
    sources: Sequence[str],
    paper: Mapping[float, float] | None = None,
) -> None:
    """Show and keep figure 3 for some sources, a panel a site; nothing where there is no source."""
    if not sources:
        return
    figure, axes = plots.panels(len(sites), width=5.4, height=4.0)
    for axis, site in zip(axes, sites.values(), strict=True):
        n = site.settings.evaluate_windows
        paper_plots.by_fraction(
            axis,
            site.verdict,
            sources=sources,
            described=len(site.simulated),
            title=f"{site.name} ({site.hookpoint.name}), n = {n} windows",
            paper=paper,
        )
    plots.shared_legend(figure, columns=2)
    table = stacked({key: site.verdict for key, site in sites.items()})
    kept = table[table["source"].isin(["coder", "zero", "mean", *sources])]
    windows = sum(site.settings.evaluate_windows for site in sites.values())
    keep(run, name, figure, kept, unit="window", n=windows)


def against_score(run: Run, rates: pd.DataFrame, score: str) -> None:
    """Show and keep figure 4 for one score, two panels a site; ``rates`` as ``scored`` gives it."""
    places = list(dict.fromkeys(rates["site"]))
    figure, axes = plots.panels(2 * len(places), width=5.0, height=3.4)
    tables = []
    for place, site in enumerate(places):
        drawn = paper_plots.against_score(
            axes[2 * place : 2 * place + 2],
            rates[rates["site"] == site],
            named=score,
            title=site,
            seed=run.params.seed,
        )
        tables.append(drawn.assign(site=site))
    plots.shared_legend(figure)
    data = pd.concat(tables, ignore_index=True)
    name = SCORE_FILES.get(score, "08_" + "_".join(score.lower().split()))
    keep(run, name, figure, data, unit="latent", n=latents(rates))


def score_tables(sites: Mapping[str, SiteStages]) -> dict[str, dict[str, pd.Series]]:
    """Every score there is, by name: a site's scores by latent."""
    kinds = {"detection F1": "detection", "fuzzing F1": "fuzzing"}
    return {
        name: {key: _by_latent(site, kind) for key, site in sites.items()}
        for name, kind in kinds.items()
        if all(kind in site.score_kinds for site in sites.values())
    }


def scored(rates: pd.DataFrame, scores: Mapping[str, pd.Series]) -> pd.DataFrame:
    """``rates`` with a column ``score``: each site's, by latent; NaN where a latent has none."""
    found = [
        part.assign(score=part["latent"].map(scores[str(site)]))
        for site, part in rates.groupby("site", sort=False)
    ]
    return pd.concat(found, ignore_index=True)


def _by_latent(site: SiteStages, kind: str) -> pd.Series:
    return site.scores_of(kind).set_index("latent")["f1"]

"""The simulator's other ways and its screening, as the notebook on simulation shows them.

In: the stages of a run's sites. Out: tables. Asks nothing that the stages did not ask.
"""

from collections.abc import Mapping

import pandas as pd

from rewrite_utils.report import plots, simulator_plots
from rewrite_utils.report.display import Html
from rewrite_utils.report.show import frame, keep, stacked
from rewrite_utils.report.tables import llm_costs
from rewrite_utils.runs.run import Run
from rewrite_utils.simulate.ways import PLAIN
from rewrite_utils.stages import SiteStages, simulators

NONE = "Not done: studies.simulators names no other way to ask."
SHOWN = ("AUROC", "AUROC, levelled", "precision at the firing rate")


def simulator_study(run: Run, sites: Mapping[str, SiteStages]) -> Html:
    """Show and keep the figure of other ways to ask, and return the tables: against the plain one,
    costs, every position. One line that says so where ``studies.simulators`` names none.
    """
    asked = {name: site for name, site in sites.items() if simulators.ways(site)}
    if not asked:
        return Html(f"<p>{NONE}</p>", NONE)
    table, costs = _comparisons(asked), way_costs(asked)
    columns = len(SHOWN) + 1
    figure, axes = plots.panels(columns * len(asked), columns=columns, width=2.9, height=3.1)
    for place, (name, part) in enumerate(table.groupby("site", sort=False)):
        row = axes[columns * place : columns * (place + 1)]
        for axis, statistic in zip(row, SHOWN, strict=False):
            simulator_plots.ways(axis, part[part["statistic"] == statistic], base=PLAIN)
        simulator_plots.way_costs(row[-1], costs[costs["site"] == name])
        for axis in row[1:]:
            axis.tick_params(labelleft=False)
        row[0].set_ylabel(f"{name}: {part['pairs'].iloc[0]} pairs, {part['active'].iloc[0]} active")
    keep(run, "05_ways", figure, table, unit="window", n=int(table["windows"].max()))
    found = frame(simulator_ways(table)) + frame(costs)
    places = everywhere(asked)
    return found + frame(places) if len(places) else found


def simulator_ways(table: pd.DataFrame) -> pd.DataFrame:
    """Ways of asking against the plain one: value and paired difference, 95 % over windows."""
    return pd.DataFrame(
        {
            "site": table["site"],
            "way": table["way"],
            "statistic": table["statistic"],
            "value": _interval(table, "value", "low", "high", sign=""),
            "minus plain": _interval(table, f"minus {PLAIN}", "difference_low", "difference_high"),
            "rank correlation": table[f"rank correlation with {PLAIN}"],
            "windows": table["windows"],
            "active pairs": table["active"],
        }
    )


def way_costs(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """What a prediction of each way took; all positions: a prediction is one token."""
    tables = {
        name: llm_costs(simulators.ways(site), what="prediction").rename(columns={"site": "way"})
        for name, site in sites.items()
    }
    return stacked(tables)


def _comparisons(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """One row a (site, way, shown statistic)."""
    table = stacked({name: simulators.comparison(site) for name, site in sites.items()})
    return table[table["statistic"].isin(SHOWN)].reset_index(drop=True)


def everywhere(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """The all-positions mode by the token's place in the window, 95 % over windows; empty where
    it was not run."""
    found = {name: simulators.everywhere(site) for name, site in sites.items()}
    kept = {name: table for name, table in found.items() if len(table)}
    if not kept:
        return pd.DataFrame()
    table = stacked(kept)
    told = table.assign(value=_interval(table, "value", "low", "high", sign=""))
    return told.pivot_table(
        index=["site", "tokens", "windows", "triples", "active"],
        columns="statistic",
        values="value",
        aggfunc="first",
        sort=False,
    ).reset_index()


def screening(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """The screening curves of every site: one row a (site, screen, share, statistic)."""
    return stacked({name: simulators.screening_curves(site) for name, site in sites.items()})


def _interval(
    table: pd.DataFrame, value: str, low: str, high: str, *, sign: str = "+"
) -> list[str]:
    rows = zip(table[value], table[low], table[high], strict=True)
    return [f"{v:{sign}.3f} [{a:{sign}.3f}, {b:{sign}.3f}]" for v, a, b in rows]

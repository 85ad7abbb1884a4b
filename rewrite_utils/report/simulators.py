"""The simulator's other ways and its screening, as the notebook on simulation shows them.

In: the stages of a run's sites. Out: tables. Asks nothing that the stages did not ask.
"""

from collections.abc import Mapping

import pandas as pd

from rewrite_utils.display import Html
from rewrite_utils.report.show import frame, stacked
from rewrite_utils.report.tables import llm_costs
from rewrite_utils.simulate.ways import PLAIN
from rewrite_utils.stages import SiteStages, simulators

SHOWN = ("AUROC", "AUROC, levelled", "precision, centred")


def simulator_study(sites: Mapping[str, SiteStages]) -> Html:
    """All there is on other ways to ask: against the plain one, costs, every position.

    One line that says so where ``studies.simulators`` names none.
    """
    if not any(simulators.ways(site) for site in sites.values()):
        text = "Not done: studies.simulators names no other way to ask."
        return Html(f"<p>{text}</p>", text)
    found = frame(simulator_ways(sites)) + frame(way_costs(sites))
    places = everywhere(sites)
    return found + frame(places) if len(places) else found


def simulator_ways(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """Ways of asking against the plain one: value and paired difference, 95 % over windows."""
    table = stacked({name: simulators.comparison(site) for name, site in sites.items()})
    table = table[table["statistic"].isin(SHOWN)]
    return pd.DataFrame(
        {
            "site": table["site"],
            "way": table["way"],
            "statistic": table["statistic"],
            "value": _interval(table, "value", "low", "high"),
            "minus plain": _interval(table, f"minus {PLAIN}", "difference_low", "difference_high"),
            "rank correlation": table[f"rank correlation with {PLAIN}"],
            "windows": table["windows"],
            "active pairs": table["active"],
        }
    ).reset_index(drop=True)


def way_costs(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """What a prediction of each way took; all positions: a prediction is one token."""
    stages = {
        f"{name}, {way}": stage
        for name, site in sites.items()
        for way, stage in simulators.ways(site).items()
    }
    return llm_costs(stages, what="prediction")


def everywhere(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """The all-positions mode by the token's place in the window; empty where it was not run."""
    found = {name: simulators.everywhere(site) for name, site in sites.items()}
    kept = {name: table for name, table in found.items() if len(table)}
    return stacked(kept) if kept else pd.DataFrame()


def screening(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """The screening curves of every site: one row a (site, screen, share, statistic)."""
    return stacked({name: simulators.screening_curves(site) for name, site in sites.items()})


def _interval(table: pd.DataFrame, value: str, low: str, high: str) -> list[str]:
    rows = zip(table[value], table[low], table[high], strict=True)
    return [f"{v:+.3f} [{a:+.3f}, {b:+.3f}]" for v, a, b in rows]

"""How far scores can be trusted: against their floors, against one another, between kinds.

In: sites of a run. Out: one row a latent, or a mean over latents with its interval (95 % BCa over
latents, the unit that was drawn). Paper §4.
"""

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from rewrite_utils import stats
from rewrite_utils.params.asking import PLAIN
from rewrite_utils.report import display
from rewrite_utils.report.display import Html
from rewrite_utils.report.show import stacked
from rewrite_utils.report.tables import llm_costs, mean_of_latents
from rewrite_utils.stages import SiteStages
from rewrite_utils.stages.variants import variants
from rewrite_utils.stages.worded import SCORE_KINDS

STATISTICS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1": "F1",
    "balanced_accuracy": "balanced accuracy",
}
HEAD = ("site", "kind", "stage")
RANDOM_CODER = "detection, coder with random weights (floor)"
SIMULATION = "simulation (correlation)"
USEFULNESS = "usefulness in the rewrite"


def scores_by_kind(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """One row a (site, test, latent); a coder with random weights is a floor of the sites at its
    hookpoint."""
    tables = {}
    for name, site in trained(sites).items():
        kinds = {SCORE_KINDS[kind].label: site.scores_of(kind) for kind in site.score_kinds}
        floor = random_coder(site, sites)
        kinds |= {RANDOM_CODER: floor.scores} if floor is not None else {}
        parts = [table.assign(test=label) for label, table in kinds.items()]
        tables[name] = pd.concat(parts, ignore_index=True)
    return stacked(tables)


def trained(sites: Mapping[str, SiteStages]) -> dict[str, SiteStages]:
    """The sites whose coder is no floor; all of them where every coder is random."""
    kept = {name: site for name, site in sites.items() if site.settings.coder != "random"}
    return kept or dict(sites)


def random_coder(site: SiteStages, sites: Mapping[str, SiteStages]) -> SiteStages | None:
    """The run's site with random weights at the same hookpoint, if there is one."""
    place = site.settings.hookpoint
    same = [other for other in sites.values() if other.settings.hookpoint == place]
    return next((o for o in same if o.settings.coder == "random" and o is not site), None)


def score_table(scores: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Mean of every statistic over latents with its interval, one row a (site, test)."""
    rows = []
    for (site, test), table in scores.groupby(["site", "test"], sort=False):
        row = {"site": site, "test": test, "latents": len(table)}
        row |= {"missing": int(table["auroc"].isna().sum())}
        for column, label in STATISTICS.items():
            row[label] = mean_of_latents(table[column].dropna().to_numpy(), seed=seed)
        rows.append(row)
    return pd.DataFrame(rows)


def simulation_scores(site: SiteStages) -> pd.Series:
    """Correlation of rating and true activation at the rated windows, by latent; NaN where it
    never or always has one value. Empty if the run has no ratings: they are not made here."""
    if not site.is_simulated:
        return pd.Series(dtype=float)
    found = {}
    pairs = [
        (site.ratings(split).expected, site.true(split)) for split in ("calibrate", "evaluate")
    ]
    said = np.concatenate([np.nan_to_num(expected.astype(np.float64)) for expected, _ in pairs])
    true = np.concatenate([values.astype(np.float64) for _, values in pairs])
    for place, latent in enumerate(site.simulated):
        varied = np.ptp(said[:, place]) > 0 and np.ptp(true[:, place]) > 0
        found[latent] = np.corrcoef(said[:, place], true[:, place])[0, 1] if varied else np.nan
    return pd.Series(found)


def all_scores(site: SiteStages) -> pd.DataFrame:
    """Every score of the site's latents side by side, one row a latent; and what its prediction is
    worth to the model, where ``rewrite.orders`` asks for it."""
    columns = {}
    for kind in site.score_kinds:
        if kind != "shuffled":
            table = site.scores_of(kind).set_index("latent")
            columns[f"{SCORE_KINDS[kind].label}: AUROC"] = table["auroc"]
            columns[f"{SCORE_KINDS[kind].label}: F1"] = table["f1"]
    simulated = simulation_scores(site)
    columns |= {SIMULATION: simulated} if len(simulated) else {}
    if len(simulated) and "useful" in site.params.rewrite.orders:
        columns[USEFULNESS] = site.usefulness.set_index("latent")["usefulness"]
    return pd.DataFrame(columns)


def agreement(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """Rank correlation of every two scores over latents, with its interval."""
    rows = []
    for name, site in sites.items():
        table = all_scores(site)
        for one, other in itertools.combinations(table.columns, 2):
            both = table[[one, other]].dropna().to_numpy(np.float64)
            rows.append({"site": name, "score": one, "other score": other, "latents": len(both)})
            rows[-1]["rank correlation"] = _correlated(both, seed=site.params.seed)
    return pd.DataFrame(rows)


def compared(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """One row a (site, kind of explanation, test, latent), the floor of shuffled sentences left
    out."""
    tables = []
    for name, site in sites.items():
        for kind, one in variants(site).items():
            for test in one.score_kinds:
                if test != "shuffled":
                    table = one.scores_of(test)
                    label = SCORE_KINDS[test].label
                    tables.append(table.assign(site=name, kind=kind, test=label))
    return pd.concat(tables, ignore_index=True)


def sentences_by_kind(sites: Mapping[str, SiteStages], *, most: int) -> Html:
    """What each kind says of the first ``most`` latents of each site."""
    rows, kinds = [], {name: variants(site) for name, site in sites.items()}
    for name, found in kinds.items():
        for latent in list(found[PLAIN].sentences)[:most]:
            told = [one.sentences.get(latent, "(none)") for one in found.values()]
            rows.append((name, latent, *told))
    return display.table(rows, ["site", "latent", *next(iter(kinds.values()))])


def kind_costs(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """Seconds and tokens a latent of every kind's sentences; a refined one costs both rounds."""
    tables = []
    for name, site in sites.items():
        for kind, one in variants(site).items():
            stages = {s.name: s for s in (one.explanations_stage, one.written_stage)}
            for stage in stages.values():
                told = llm_costs({name: stage}, what="latent")
                tables.append(told.assign(kind=kind, stage=stage.name.partition(".")[0]))
    whole = pd.concat(tables, ignore_index=True)
    return whole[["site", "kind", "stage", *(c for c in whole.columns if c not in HEAD)]]


def paired(scores: pd.DataFrame, *, seed: int, statistic: str = "auroc") -> pd.DataFrame:
    """Kind minus plain, latent by latent on the same windows: the mean with its interval.

    ``source`` and ``difference`` are named as ``plots.forest`` reads them.
    """
    rows = []
    for (site, test), table in scores.groupby(["site", "test"], sort=False):
        wide = table.pivot(index="latent", columns="kind", values=statistic)
        for kind in dict.fromkeys(table["kind"]):
            both = wide[[PLAIN, kind]].dropna().to_numpy(np.float64)
            if kind == PLAIN or len(both) < 2:
                continue
            found = stats.bootstrap(both[:, 1] - both[:, 0], unit="latent", seed=seed)
            rows.append(
                {
                    "site": site,
                    "test": test,
                    "kind": kind,
                    "source": f"{kind}, {test}",
                    "latents": found.n,
                    "plain": float(both[:, 0].mean()),
                    "difference": found.value,
                    "difference_low": found.low,
                    "difference_high": found.high,
                    "detectable": stats.detectable(both[:, 1] - both[:, 0]),
                    "better": int((both[:, 1] > both[:, 0]).sum()),
                    "worse": int((both[:, 1] < both[:, 0]).sum()),
                }
            )
    return pd.DataFrame(rows)


def paired_table(differences: pd.DataFrame) -> pd.DataFrame:
    """``paired`` with its interval as text."""
    if differences.empty:
        return differences
    ends = zip(differences["difference_low"], differences["difference_high"], strict=True)
    shown = differences.assign(**{"95 %": [f"[{a:+.3f}, {b:+.3f}]" for a, b in ends]})
    columns = ["site", "test", "kind", "latents", "plain", "difference", "95 %"]
    return shown[[*columns, "better", "worse", "detectable"]]


def comparison_headline(differences: pd.DataFrame) -> str:
    """The differences in detection AUROC, or that none was asked for."""
    if differences.empty:
        return "no other kind of explanation was asked for (explain.compared is empty)"
    parts = [
        f"{row.site}, {row.kind} − plain, {row.test}: AUROC {row.difference:+.3f} "
        f"[{row.difference_low:+.3f}, {row.difference_high:+.3f}] (n = {row.latents} latents)"
        for row in differences.itertuples()
    ]
    return "; ".join(parts)


def _correlated(both: np.ndarray, *, seed: int) -> str:
    if len(both) < 4 or not np.ptp(both[:, 0]) or not np.ptp(both[:, 1]):
        return ""
    found = stats.rank_correlation(both[:, 0], both[:, 1], unit="latent", seed=seed)
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"

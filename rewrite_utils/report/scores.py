"""How far scores can be trusted: floors, agreement, kinds in pairs, and what no score can see.

In: one row a latent, by site, kind of explanation or test. Out: means over latents, the unit that
was drawn, with their 95 % intervals. Paper §4; the floors, pairs and traits are beyond it.
"""

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils import stats
from rewrite_utils.llm import embedding
from rewrite_utils.llm.embedding import Embed
from rewrite_utils.params import Site
from rewrite_utils.params.asking import PLAIN
from rewrite_utils.report import tables
from rewrite_utils.score import rates

STATISTICS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1": "F1",
    "balanced_accuracy": "balanced accuracy",
}
RANDOM_CODER = "detection, coder with random weights (floor)"
SIMULATION = "simulation (correlation)"
USEFULNESS = "usefulness in the rewrite"
ALIKE = 0.95
"""Cosine above which two sentences say the same."""
GENERAL = 0.5
"""Specificity on random windows below which a sentence fits most texts."""


def trained(sites: Mapping[str, Site]) -> list[str]:
    """The sites whose coder is no floor; all of them where every coder is random."""
    return [name for name, site in sites.items() if site.coder != "random"] or list(sites)


def random_coder(sites: Mapping[str, Site], name: str) -> str | None:
    """The site with random weights at the same hookpoint, if there is one: a floor of ``name``."""
    place = sites[name].hookpoint
    floors = [other for other, site in sites.items() if site.coder == "random" and other != name]
    return next((other for other in floors if sites[other].hookpoint == place), None)


def means(scores: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Mean of every statistic over latents with its interval, one row a (site, test)."""
    rows = []
    for (site, test), table in scores.groupby(["site", "test"], sort=False):
        row = {"site": site, "test": test, "latents": len(table)}
        row |= {"missing": int(table["auroc"].isna().sum())}
        for column, label in STATISTICS.items():
            row[label] = tables.mean(table[column].dropna().to_numpy(), seed=seed)
        rows.append(row)
    return pd.DataFrame(rows)


def extremes(scores: pd.DataFrame, *, each: int) -> pd.DataFrame:
    """The sentences with the highest and the lowest AUROC, each once, with intervals over their
    windows: scores beside their ``…_low`` and ``…_high``, and the sentence."""
    ranked = scores.dropna().sort_values("auroc", ascending=False, kind="stable")
    kept = pd.concat([ranked.head(each), ranked.iloc[each:].tail(each)])
    told = {"latent": kept["latent"], "AUROC": tables.intervals(kept, "auroc", ".2f")}
    told |= {"F1": [f"{value:.2f}" for value in kept["f1"]]}
    told |= {"found of the firing": tables.intervals(kept, "sensitivity", ".0%")}
    told |= {"left out of the silent": tables.intervals(kept, "specificity", ".0%")}
    return pd.DataFrame(told | {"sentence": kept["sentence"]})


def simulation(
    expected: Float[ndarray, "window latent"], true: Float[ndarray, "window latent"]
) -> Float[ndarray, " latent"]:
    """Correlation of rating and true activation, by latent; a pair that was not rated counts as 0,
    and a latent that never or always has one value is NaN."""
    said, found = np.nan_to_num(expected.astype(np.float64)), []
    for one, other in zip(said.T, true.T.astype(np.float64), strict=True):
        varied = np.ptp(one) > 0 and np.ptp(other) > 0
        found.append(np.corrcoef(one, other)[0, 1] if varied else np.nan)
    return np.array(found)


def agreement(scores: Mapping[str, pd.DataFrame], *, seed: int) -> pd.DataFrame:
    """Rank correlation of every two columns of a site's table over latents, with its interval."""
    rows = []
    for site, table in scores.items():
        for one, other in itertools.combinations(table.columns, 2):
            both = table[[one, other]].dropna().to_numpy(np.float64)
            rows.append({"site": site, "score": one, "other score": other, "latents": len(both)})
            rows[-1]["rank correlation"] = _correlated(both, seed=seed)
    return pd.DataFrame(rows)


def _correlated(both: Float[ndarray, "latent 2"], *, seed: int) -> str:
    if len(both) < 4 or not np.ptp(both[:, 0]) or not np.ptp(both[:, 1]):
        return ""
    return tables.interval(stats.rank_correlation(*both.T, unit="latent", seed=seed), "+.2f")


def paired(scores: pd.DataFrame, *, seed: int, statistic: str = "auroc") -> pd.DataFrame:
    """Kind minus plain, latent by latent on the same windows: the mean with its interval.

    ``source`` and ``difference`` are named as ``forests.forest`` reads them.
    """
    rows = []
    for (site, test), table in scores.groupby(["site", "test"], sort=False):
        wide = table.pivot(index="latent", columns="kind", values=statistic)
        for kind in dict.fromkeys(table["kind"]):
            both = wide[[PLAIN, kind]].dropna().to_numpy(np.float64)
            if kind == PLAIN or len(both) < 2:
                continue
            change = both[:, 1] - both[:, 0]
            found = stats.bootstrap(change, unit="latent", seed=seed)
            row = {"site": site, "test": test, "kind": kind, "source": f"{kind}, {test}"}
            row |= {"latents": found.n, "plain": float(both[:, 0].mean())}
            row |= found.named("difference") | {"detectable": stats.detectable(change)}
            rows.append(row | {"better": int((change > 0).sum()), "worse": int((change < 0).sum())})
    return pd.DataFrame(rows)


def paired_table(differences: pd.DataFrame) -> pd.DataFrame:
    """``paired`` with its interval as text."""
    if differences.empty:
        return differences
    ends = zip(differences["difference_low"], differences["difference_high"], strict=True)
    shown = differences.assign(**{"95 %": [stats.ends(low, high) for low, high in ends]})
    columns = ["site", "test", "kind", "latents", "plain", "difference", "95 %"]
    return shown[[*columns, "better", "worse", "detectable"]]


def comparison(differences: pd.DataFrame) -> str:
    """The differences in AUROC in words, or that none was asked for."""
    if differences.empty:
        return "no other kind of explanation was asked for (explain.compared is empty)"
    told = zip(differences.itertuples(), tables.intervals(differences, "difference"), strict=True)
    return "; ".join(
        f"{row.site}, {row.kind} − plain, {row.test}: AUROC {found} (n = {row.latents} latents)"
        for row, found in told
    )


def traits(
    explanations: pd.DataFrame, rates: pd.DataFrame, *, embed: Embed | None = None
) -> pd.DataFrame:
    """One row a latent with a sentence: whose it shares, how close the nearest one is, how many
    random windows it lets pass (``rates``, by latent), its length. What stands in brackets is not
    part of it."""
    kept = explanations.dropna(subset=["sentence"])
    written, judged = kept["explanation"].astype(str), rates.set_index("latent")
    vectors = (embed or embedding.embedder())(written.tolist())
    return pd.DataFrame(
        {
            "latent": kept["latent"],
            "sentence": kept["sentence"],
            "words": written.str.split().str.len(),
            "same text": written.str.lower().str.strip(" .").duplicated(keep=False),
            "nearest cosine": nearest_cosine(vectors),
            "specificity": judged["specificity"].reindex(kept["latent"]).to_numpy(),
            "sensitivity": judged["sensitivity"].reindex(kept["latent"]).to_numpy(),
        }
    ).reset_index(drop=True)


def nearest_cosine(vectors: Float[ndarray, "text d"]) -> Float[ndarray, " text"]:
    """Cosine of each unit vector with the nearest other one; NaN for a single one."""
    if len(vectors) < 2:
        return np.full(len(vectors), np.nan)
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -np.inf)
    return cosine.max(1)


def unseen(traits: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """One row a site: shares of latents with Wilson intervals, mean specificity with a bootstrap
    interval over latents, and lengths."""
    rows = []
    for site, table in traits.groupby("site", sort=False):
        judged, words = table["specificity"].dropna(), table["words"]
        row = {"site": site, "sentences": len(table)}
        row |= {"same text as another": _share(table["same text"])}
        row |= {f"cosine > {ALIKE} with another": _share(table["nearest cosine"] > ALIKE)}
        row |= {"specificity on random windows": tables.mean(judged.to_numpy(), seed=seed)}
        says_yes = f"says yes to most of them (specificity < {GENERAL})"
        row |= {says_yes: _share(judged < GENERAL), "words, median": float(words.median())}
        rows.append(row | {"words, longest": int(words.max())})
    return pd.DataFrame(rows)


def _share(hits: pd.Series) -> str:
    return tables.interval(rates.wilson(float(hits.sum()), len(hits)), ".0%")

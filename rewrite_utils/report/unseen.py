"""What a score cannot see: sentences that several latents share, that fit anything, that are long.

In: sites with sentences and judgements. Out: one row a latent, and one row a site with Wilson
intervals over latents. Beyond the paper.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils import stats
from rewrite_utils.llm import embedding
from rewrite_utils.llm.embedding import Embed
from rewrite_utils.report.show import stacked
from rewrite_utils.report.tables import llm_costs, mean_of_latents
from rewrite_utils.stages import SiteStages

ALIKE = 0.95
"""Cosine above which two sentences say the same."""
GENERAL = 0.5
"""Specificity on random windows below which a sentence fits most texts."""


def sentence_traits(sites: Mapping[str, SiteStages], *, embed: Embed | None = None) -> pd.DataFrame:
    """One row a latent with a sentence: whose it shares, how close the nearest one is, how many
    random windows it lets pass, its length. What stands in brackets is not part of it."""
    embed = embed or embedding.embedder()
    return stacked({name: _traits(site, embed) for name, site in sites.items()})


def _traits(site: SiteStages, embed: Embed) -> pd.DataFrame:
    kept = site.explanations.dropna(subset=["sentence"])
    written = kept["explanation"].astype(str)
    rates = site.score_intervals().set_index("latent")
    plain = written.str.lower().str.strip(" .")
    return pd.DataFrame(
        {
            "latent": kept["latent"],
            "sentence": kept["sentence"],
            "words": written.str.split().str.len(),
            "same text": plain.duplicated(keep=False),
            "nearest cosine": nearest_cosine(embed(written.tolist())),
            "specificity": rates["specificity"].reindex(kept["latent"]).to_numpy(),
            "sensitivity": rates["sensitivity"].reindex(kept["latent"]).to_numpy(),
        }
    ).reset_index(drop=True)


def nearest_cosine(vectors: Float[ndarray, "text d"]) -> Float[ndarray, " text"]:
    """Cosine of each unit vector with the nearest other one; NaN for a single one."""
    if len(vectors) < 2:
        return np.full(len(vectors), np.nan)
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -np.inf)
    return cosine.max(1)


def unseen_table(traits: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """One row a site: shares of latents with Wilson intervals, mean specificity with a bootstrap
    interval over latents, and lengths."""
    rows = []
    for site, table in traits.groupby("site", sort=False):
        judged = table["specificity"].dropna()
        rows.append(
            {
                "site": site,
                "sentences": len(table),
                "same text as another": _share(table["same text"]),
                f"cosine > {ALIKE} with another": _share(table["nearest cosine"] > ALIKE),
                "specificity on random windows": mean_of_latents(judged.to_numpy(), seed=seed),
                f"says yes to most of them (specificity < {GENERAL})": _share(judged < GENERAL),
                "words, median": float(table["words"].median()),
                "words, longest": int(table["words"].max()),
            }
        )
    return pd.DataFrame(rows)


def word_costs(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """Seconds and tokens of every stage that an LLM was asked in for sentences and scores."""
    tables = []
    for name, site in sites.items():
        stages = {"03_explanations": site.written_stage}
        stages |= {site.kind_stage(kind).name: site.kind_stage(kind) for kind in site.score_kinds}
        for stage in stages.values():
            told = llm_costs({name: stage}, what="latent")
            tables.append(told.assign(stage=stage.name.partition(".")[0]))
    whole = pd.concat(tables, ignore_index=True)
    return whole[["site", "stage", *(c for c in whole.columns if c not in ("site", "stage"))]]


def _share(hits: pd.Series) -> str:
    share, low, high = stats.wilson(int(hits.sum()), len(hits))
    return f"{share:.0%} [{low:.0%}, {high:.0%}]"

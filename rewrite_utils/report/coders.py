"""What a good coder looks like: the coders of a run's sites side by side (notebook 11).

In: sites, whose coders may differ in kind, layer, width, k. Out: one row a coder, and the figures'
data: what each keeps, what it leaves to its latents, who fires. Paper §2; method §1.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.coder.sparse import CoderConfig
from rewrite_utils.params import ROOT
from rewrite_utils.report.show import stacked
from rewrite_utils.stages import CACHED_SPLITS, SiteStages
from rewrite_utils.stages.coders import RANDOM


def coder_table(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """One row a coder: FVU, ΔCE, CE recovered, range with intervals over rows; L0, dead, rates."""
    return pd.DataFrame([_row(name, site) for name, site in sites.items()])


def committed(sweep: str) -> pd.DataFrame:
    """The coder table of a sweep of params/beyond, as it is kept beside its figure.

    Raises FileNotFoundError where that sweep has not been run.
    """
    file = ROOT / "figures" / "beyond" / sweep / "11_range.csv"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is not there; make it: python -m rewrite_utils.series "
            f"params/beyond/{sweep}.yaml --only 11"
        )
    return pd.read_csv(file)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table for reading: intervals in brackets, shares in per cent."""
    columns = ["site", "hookpoint", "kind", "latents", "k", "FVU"]
    named = table[columns].assign(
        **{
            "ΔCE, output at its mean": _bracketed(table, "worth"),
            "ΔCE of the coder": _bracketed(table, "delta"),
            "CE recovered": _recovered(table),
            "range (nats)": _bracketed(table, "range"),
            "L0": table["L0"],
            "dead": [f"{share:.1%}" for share in table["dead"]],
            "firing rate: median, max": [
                f"{middle:.4f}, {most:.3f}"
                for middle, most in zip(table["median_rate"], table["max_rate"], strict=True)
            ],
            "rows": table["rows"],
        }
    )
    return named


def arms_shown(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """Every site's arms of `quality` for reading, intervals over rows in brackets."""
    table = stacked({name: site.quality for name, site in sites.items()})
    return table[["site", "arm", "fvu"]].assign(
        **{
            "ΔCE (nats)": _bracketed(table, "delta"),
            "over the coder": _bracketed(table, "over_coder"),
            "recovered": _bracketed(table, "recovered", digits=2),
            "rows": table["rows"],
            "positions": table["positions"],
        }
    )


def firing_rates(sites: Mapping[str, SiteStages]) -> dict[str, Float[ndarray, " latent"]]:
    """Each site's firing rates over all cached rows."""
    return {name: _rates(site)[0] for name, site in sites.items()}


def coders_headline(table: pd.DataFrame) -> str:
    """The trained coder with the widest range, and the one that recovers most."""
    trained = table[~table["kind"].str.startswith(RANDOM)]
    widest, defined = trained.loc[trained["range"].idxmax()], trained[_has_worth(trained)]
    most = "at no site is the output's own worth above zero"
    if len(defined):
        best = defined.loc[defined["recovered"].idxmax()]
        most = f"most recovered: {best['site']}, {_one(best, 'recovered', 2)} of the output's worth"
    return (
        f"widest range: {widest['site']}, {_one(widest, 'range', 2)} nat; {most} "
        f"({len(trained)} trained coders, n = {int(table['rows'].min())} rows each)"
    )


def kind(config: CoderConfig, *, random: bool = False) -> str:
    """Transcoder, skip transcoder or SAE, "random" in front of the control."""
    name = "SAE" if not config.transcode else "transcoder"
    if random:
        return f"random {name}"
    return f"skip {name}" if config.skip_connection else name


def _row(name: str, site: SiteStages) -> dict[str, object]:
    arms, config = site.quality.set_index("arm"), site.coder.config
    coder, mean = arms.loc["coder"], arms.loc["latents at mean"]
    gone = arms.loc["output at mean"]
    rate, tokens = _rates(site)
    row = {"site": name, "hookpoint": site.hookpoint.name, "layer": site.hookpoint.layer}
    row |= {"kind": kind(config, random=site.settings.coder == RANDOM)}
    row |= {"latents": config.num_latents, "k": config.k, "FVU": coder["fvu"]}
    row |= {key: coder[key] for base in ("delta", "recovered") for key in _ends(base)}
    for ours, arm, theirs in (("range", mean, "over_coder"), ("worth", gone, "delta")):
        row |= {a: arm[b] for a, b in zip(_ends(ours), _ends(theirs), strict=True)}
    row |= {"range_zero": arms.loc["latents at zero", "over_coder"]}
    row |= {"L0": float(rate.sum()), "dead": float((rate == 0).mean())}
    row |= {"median_rate": float(np.median(rate)), "max_rate": float(rate.max())}
    return row | {"tokens": tokens, "rows": int(coder["rows"]), "base CE": coder["base CE"]}


def _rates(site: SiteStages) -> tuple[Float[ndarray, " latent"], int]:
    """Firing rates over the rows of all cached splits (one of them when they are the same)."""
    splits = CACHED_SPLITS[:1] if site.params.corpus.faithful else CACHED_SPLITS
    caches = [site.cache(split) for split in splits]
    tokens = sum(cache.n_tokens for cache in caches)
    return np.sum([cache.counts for cache in caches], axis=0) / tokens, tokens


def _ends(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"


def _has_worth(table: pd.DataFrame) -> pd.Series:
    """Where losing the whole output is seen to cost something: else no share of it is defined."""
    return table["worth_low"] > 0


def _recovered(table: pd.DataFrame) -> list[str]:
    said = _bracketed(table, "recovered", digits=2)
    return [text if there else "–" for text, there in zip(said, _has_worth(table), strict=True)]


def _bracketed(table: pd.DataFrame, name: str, *, digits: int = 3) -> list[str]:
    return [_one(row, name, digits) for _, row in table.iterrows()]


def _one(row: pd.Series, name: str, digits: int) -> str:
    value, low, high = (f"{row[key]:+.{digits}f}" for key in _ends(name))
    return f"{value} [{low}, {high}]"

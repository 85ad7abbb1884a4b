"""What ratings say of true activations: how they vary, how they rank, what they get right (05–08).

In: ratings E, true activations and estimates, [window, latent]. Out: one row a set of pairs, a
latent or a calibration, with 95 % intervals over latents. Paper: figure 4.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils import calibrate
from rewrite_utils.calibrate.oracle import rating_shape
from rewrite_utils.calibrate.screened import filled
from rewrite_utils.report import tables
from rewrite_utils.report.forests import WAYS
from rewrite_utils.rewrite.arms import before_topk
from rewrite_utils.score.rates import auroc_value
from rewrite_utils.simulate.ways import PLAIN


def spread(
    expected: Float[ndarray, "window latent"], true: Float[ndarray, "window latent"]
) -> dict[str, float | int]:
    """The range of ratings, and where their variance comes from.

    Of the pairs that were rated; screened ratings have gaps, and then no two-way layout (NaN).
    """
    found = expected.astype(np.float64)
    rated = ~np.isnan(found)
    told, shape = found[rated], rating_shape(found)
    total = told.var()
    return {
        "ratings": told.size,
        "least": told.min(),
        "median": np.median(told),
        "largest": told.max(),
        "share of variance: windows": shape.window**2 / total,
        "sentences": shape.latents.var() / total,
        "the rest": shape.rest**2 / total,
        "silent pairs": float((true == 0)[rated].mean()),
    }


def quality(
    expected: Float[ndarray, "window latent"], true: Float[ndarray, "window latent"]
) -> dict[str, float | int]:
    """How ratings tell active from silent; a pair that was not sent is rated below 0."""
    active, aurocs = true > 0, latent_aurocs(true, expected)
    return {
        "n pairs": active.size,
        "active": int(active.sum()),
        "mean E, active": _mean(expected[active]),
        "mean E, silent": _mean(expected[~active]),
        "AUROC": auroc_value(active, expected),
        "AUROC, centred per window": auroc_value(active, centred_ranks(expected)),
        "mean AUROC a latent": _mean(aurocs),
    }


def centred_ranks(expected: Float[ndarray, "window latent"]) -> Float[ndarray, "window latent"]:
    """E minus its window's mean; a pair that screening left out (below 0) counts in no mean and
    stays below all others."""
    sent = expected >= 0
    if sent.all():
        return calibrate.center(expected)
    rated = filled(np.where(sent, expected, np.nan))
    moved = calibrate.center(rated, level=float(expected[sent].mean()))
    return np.where(sent, moved, moved[sent].min() - 1)


def latent_aurocs(
    true: Float[ndarray, "window latent"], expected: Float[ndarray, "window latent"]
) -> Float[ndarray, " fires"]:
    """AUROC of each latent that fires in some windows and not in others."""
    pairs = zip(true.T > 0, expected.T, strict=True)
    return np.array([auroc_value(a, e) for a, e in pairs if a.any() and not a.all()])


def ways(table: pd.DataFrame) -> pd.DataFrame:
    """One row a way of asking: every statistic, and beside it what it is more than the plain way's
    on the same pairs, 95 % over windows."""
    told = table.rename(columns={f"minus {PLAIN}": "difference", "active": "active pairs"})
    told = told.assign(value_low=told["low"], value_high=told["high"])
    more = np.where(told["way"] == PLAIN, "", tables.intervals(told, "difference", "+.2f"))
    parts = {"": tables.intervals(told, "value", ".2f"), ", − plain": more}
    index = ["site", "way", "windows", "active pairs"]
    shown = told[index].drop_duplicates(["site", "way"]).replace({"way": WAYS})
    for statistic in told["statistic"].unique():
        which = (told["statistic"] == statistic).to_numpy()
        for name, texts in parts.items():
            shown[statistic + name] = np.array(texts)[which]
    correlation = f"rank correlation with {PLAIN}"
    shown[correlation] = told.drop_duplicates(["site", "way"])[correlation]
    return shown.reset_index(drop=True)


def everywhere(table: pd.DataFrame) -> pd.DataFrame:
    """The all-positions mode by the token's place in the window, 95 % over windows."""
    told = table.assign(value_low=table["low"], value_high=table["high"])
    told = told.assign(value=tables.intervals(told, "value", ".3f"))
    index = ["site", "tokens", "windows", "triples", "active"]
    wide = {"columns": "statistic", "values": "value", "aggfunc": "first", "sort": False}
    return told.pivot_table(index=index, **wide).reset_index()


# ── sensitivity and specificity ───────────────────────────────────────────────────────────────


def rates(
    true: Float[ndarray, "window latent"],
    estimates: Mapping[str, Float[ndarray, "window latent"]],
    *,
    threshold: Float[ndarray, " latent"],
    latents: Sequence[int],
    f1: Float[ndarray, " latent"],
) -> pd.DataFrame:
    """Both rates of every (latent, calibration), with the latent's detection score.

    A prediction counts as active above the latent's ``threshold``. Of the estimates themselves: a
    calibration that names a TopK is read before it.
    """
    active, parts = true > 0, []
    for source, values in estimates.items():
        said = values > threshold
        row = {"source": source, "latent": latents, "f1": f1}
        row |= {"sensitivity": _share(said & active, active)}
        row |= {"specificity": _share(~said & ~active, ~active)}
        parts.append(pd.DataFrame(row | {"active": active.sum(0), "windows": len(true)}))
    return pd.concat(parts, ignore_index=True)


def means(rates: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Mean sensitivity and specificity with 95 % intervals over latents, and false alarms a token.

    A latent that never fires in the windows has no sensitivity; "fire" says how many do.
    """
    rows = []
    for (site, source), part in rates.groupby(["site", "source"], sort=False):
        found = {rate: part[rate].dropna().to_numpy() for rate in ("sensitivity", "specificity")}
        row = {"site": site, "source": before_topk(str(source)), "latents": len(part)}
        row |= {"fire": len(found["sensitivity"])}
        row |= {rate: tables.mean(values, seed=seed) for rate, values in found.items()}
        alarms = len(part) * (1 - found["specificity"])
        rows.append(row | {"false alarms a token": tables.mean(alarms, seed=seed)})
    return pd.DataFrame(rows)


def headline(rates: pd.DataFrame, sources: Sequence[str], *, seed: int) -> str:
    """Mean specificity and sensitivity of some calibrations in words.

    A latent that never fires in the windows has no sensitivity: then that has an n of its own.
    """
    told = means(rates[rates["source"].isin(sources)], seed=seed)
    parts = []
    for row in told.itertuples():
        fewer = f", sensitivity: n = {row.fire}" if row.fire < row.latents else ""
        parts.append(
            f"{row.site}, {row.source}: specificity {row.specificity}, sensitivity "
            f"{row.sensitivity or 'not measurable'} (n = {row.latents} latents{fewer})"
        )
    return "; ".join(parts)


def _share(hits: ndarray, cases: ndarray) -> Float[ndarray, " latent"]:
    total = cases.sum(0)
    return np.where(total > 0, hits.sum(0) / np.maximum(total, 1), np.nan)


def _mean(values: ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")

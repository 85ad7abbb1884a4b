"""The verdict on the arms: what each costs the model, against leaving the same latents out.

In: one row a (window, arm) from rewrite.py. Out: one row an arm, every difference paired over
windows. The statistics of the paper's two versions stand beside ours under their own names. Paper
§6–7.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils import stats
from rewrite_utils.stats import Estimate

V2_LEAST_BASE_LOSS = 0.1
"""Nats; v2 leaves out prompts that the untouched model already finds this easy."""


def losses_of(
    table: pd.DataFrame, source: str, count: int = 0, order: str = "all", *, column: str = "loss"
) -> Float[ndarray, " window"]:
    """One arm's column, ordered by window.

    Raises KeyError when the arm was not measured.
    """
    arm = table[(table["source"] == source) & (table["count"] == count) & (table["order"] == order)]
    if arm.empty:
        known = ", ".join(sorted(table["source"].unique()))
        raise KeyError(
            f"no arm {source!r} with {count} latents in order {order!r}; sources: {known}"
        )
    return arm.sort_values("window")[column].to_numpy()


def verdict(
    table: pd.DataFrame, *, variance: float, seed: int, resamples: int = 2000
) -> pd.DataFrame:
    """One row an arm: ΔCE, paired differences to zero and mean ablation of the same latents, CE
    recovered.

    ``variance`` is E‖y − ȳ‖² of the hooked output, the denominator of FVU. Arms measured on fewer
    windows are compared on just those. ``method`` is the kind of the interval of ``minus_mean``.
    """
    rows = [
        _row(table, arm, variance=variance, seed=seed, resamples=resamples)
        for arm in table[["source", "count", "order"]].drop_duplicates().itertuples(index=False)
    ]
    return pd.DataFrame(rows)


def v1_median(delta: Float[ndarray, " window"], *, seed: int, resamples: int = 2000) -> Estimate:
    """v1's statistic, median |ΔCE|: biased upward, reported as v1's and never as ours."""
    settings = {"seed": seed, "resamples": resamples}
    return stats.bootstrap(np.abs(delta), unit="window", statistic=np.median, **settings)


def v2_mean(
    delta: Float[ndarray, " window"], base: Float[ndarray, " window"]
) -> tuple[float, float]:
    """v2's statistic, mean ΔCE and its standard error over windows with base loss ≥ 0.1 nat."""
    kept = delta[base >= V2_LEAST_BASE_LOSS]
    if len(kept) < 2:
        return float("nan"), float("nan")
    return float(kept.mean()), float(kept.std(ddof=1) / np.sqrt(len(kept)))


def _row(table: pd.DataFrame, arm, *, variance: float, seed: int, resamples: int) -> dict:
    loss = losses_of(table, *arm)
    base = losses_of(table, *arm, column="base_loss")
    same = _windows_of(table, arm)
    coder = losses_of(same, "coder")
    delta = loss - base
    settings = {"seed": seed, "resamples": resamples}
    row = arm._asdict() | {"windows": len(loss)}
    row |= _named("delta", stats.bootstrap(delta, unit="window", **settings))
    row |= _named("over_coder", stats.bootstrap(loss - coder, unit="window", **settings))
    row |= _named("v1_median", v1_median(delta, **settings))
    row |= dict(zip(("v2_mean", "v2_se"), v2_mean(delta, base), strict=True))
    row |= {"v2_windows": int((base >= V2_LEAST_BASE_LOSS).sum())}
    kl, squares = (losses_of(table, *arm, column=name) for name in ("kl", "squared_error"))
    row |= _named("kl", stats.bootstrap(kl, unit="window", **settings))
    row |= _named("fvu", stats.bootstrap(squares / variance, unit="window", **settings))
    if arm.count:
        zero, mean = (losses_of(same, s, arm.count, arm.order) for s in ("zero", "mean"))
        against = stats.bootstrap(loss - mean, unit="window", **settings)
        row |= _named("minus_mean", against) | {"method": against.method}
        row |= _named("minus_zero", stats.bootstrap(loss - zero, unit="window", **settings))
        row |= {"detectable": stats.detectable(loss - mean)}
        row |= _named("recovered", stats.recovered(coder, mean, loss, **settings))
    return row


def _windows_of(table: pd.DataFrame, arm) -> pd.DataFrame:
    """The rows of all arms at the windows at which ``arm`` was measured."""
    measured = (table[["source", "count", "order"]] == list(arm)).all(axis=1)
    return table[table["window"].isin(table["window"][measured])]


def _named(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}

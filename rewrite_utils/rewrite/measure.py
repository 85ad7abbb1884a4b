"""The verdict on the arms: what each costs the model, against leaving the same latents out.

In: one row a (window, arm) from rewrite.py. Out: one row an arm, every difference paired over
windows. The statistics of the paper's two versions stand beside ours under their own names. Paper
§6–7.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils import stats
from rewrite_utils.rewrite.arms import ALL, Arm

V2_LEAST_BASE_LOSS = 0.1
"""Nats; v2 leaves out prompts that the untouched model already finds this easy."""


def arm_of(table: pd.DataFrame, arm: Arm) -> pd.DataFrame:
    """The rows of one arm, indexed by window in ascending order.

    Raises KeyError when the arm was not measured.
    """
    source, count, order = arm
    which = (table["source"] == source) & (table["count"] == count) & (table["order"] == order)
    if not which.any():
        known = ", ".join(sorted(table["source"].unique()))
        raise KeyError(
            f"no arm {source!r} with {count} latents in order {order!r}; sources: {known}"
        )
    return table[which].set_index("window").sort_index()


def losses_of(
    table: pd.DataFrame, source: str, count: int = 0, order: str = ALL, *, column: str = "loss"
) -> Float[ndarray, " window"]:
    """One arm's column, ordered by window; see ``arm_of``."""
    return arm_of(table, Arm(source, count, order))[column].to_numpy()


def verdict(
    table: pd.DataFrame,
    *,
    variance: float,
    seed: int,
    resamples: int = 2000,
    units: Int[ndarray, " window"] | None = None,
) -> pd.DataFrame:
    """One row an arm: ΔCE, paired differences to zero and mean ablation of the same latents, CE
    recovered = mean(ablated − arm) / mean(ablated − coder).

    ``variance`` is E‖y − ȳ‖² of the hooked output, the denominator of FVU. Arms measured on fewer
    windows are compared on just those. ``method`` is the kind of the interval of ``minus_mean``.
    ``units``: the row of text of each window by its number, where several windows come from one
    row: then rows are resampled, and counted in ``rows``. By default a window is a row.
    """
    arms = table[list(Arm._fields)].drop_duplicates().itertuples(index=False)
    given = {"seed": seed, "resamples": resamples}
    return pd.DataFrame([_row(table, Arm(*arm), variance, units, given) for arm in arms])


def v2_mean(
    delta: Float[ndarray, " window"], base: Float[ndarray, " window"]
) -> tuple[float, float]:
    """v2's statistic, mean ΔCE and its standard error over windows with base loss ≥ 0.1 nat."""
    kept = delta[base >= V2_LEAST_BASE_LOSS]
    if len(kept) < 2:
        return float("nan"), float("nan")
    return float(kept.mean()), float(kept.std(ddof=1) / np.sqrt(len(kept)))


def _row(
    table: pd.DataFrame,
    arm: Arm,
    variance: float,
    units: Int[ndarray, " window"] | None,
    given: Mapping[str, int],
) -> dict:
    own = arm_of(table, arm)
    loss, base = own["loss"].to_numpy(np.float64), own["base_loss"].to_numpy(np.float64)
    of = own.index.to_numpy() if units is None else units[own.index]
    options = {**given, "unit": "window" if units is None else "row", "units": of}

    def paired(source: str, count: int = 0, order: str = ALL) -> Float[ndarray, " window"]:
        other = arm_of(table, Arm(source, count, order))["loss"]
        return other.reindex(own.index).to_numpy(np.float64)

    coder, delta = paired("coder"), loss - base
    shown = {"delta": delta, "over_coder": loss - coder, "kl": own["kl"].to_numpy()}
    shown |= {"fvu": own["squared_error"].to_numpy() / variance}
    row = arm._asdict() | {"windows": len(loss)}
    row |= {} if units is None else {"rows": len(np.unique(of))}
    # v1's statistic, biased upward: reported as v1's and never as ours
    row |= stats.median(np.abs(delta), **options).named("v1_median")
    row |= dict(zip(("v2_mean", "v2_se"), v2_mean(delta, base), strict=True))
    row |= {"v2_windows": int((base >= V2_LEAST_BASE_LOSS).sum())}
    if arm.count:
        zero, mean = (paired(source, arm.count, arm.order) for source in ("zero", "mean"))
        shown |= {"minus_zero": loss - zero, "minus_mean": loss - mean}
    found = {name: stats.bootstrap(values, **options) for name, values in shown.items()}
    if arm.count:
        found["recovered"] = stats.ratio(mean - loss, mean - coder, **options)
        row |= {"detectable": stats.detectable(loss - mean, units=of)}
        row |= {"method": found["minus_mean"].method}
    for name, estimate in found.items():
        row |= estimate.named(name)
    return row

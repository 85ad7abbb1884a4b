"""The studies around the rewrite: corrupted oracle, few windows, factors, screening, false alarms.

In: each site's judged arms, whose names say what the arm was. Out: one row an arm with that in
columns of its own, paired against mean ablation of the same latents, with intervals over windows;
the best factor, and where false alarms break even.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Int
from numpy import ndarray

from rewrite_utils import stats
from rewrite_utils.latents.windows import shared_rows
from rewrite_utils.report import tables
from rewrite_utils.rewrite.arms import ALL, before_topk
from rewrite_utils.rewrite.measure import losses_of
from rewrite_utils.rewrite.studies import read_alarm_name
from rewrite_utils.stats import Estimate

PAPER_SILENT_TO_ACTIVE = (32_768 - 32) / 32
"""Silent latents for every active one in the paper's coder."""


def arms(judged: Mapping[str, pd.DataFrame], read: Callable[[str], Mapping]) -> pd.DataFrame:
    """The arms of every site, with what ``read`` finds in their names; none in an ablation's."""
    told = {}
    for name, table in judged.items():
        found = pd.DataFrame([read(source) for source in table["source"]], index=table.index)
        told[name] = pd.concat([table, found], axis=1)
    return tables.stacked(told)


def read_factor(source: str) -> dict[str, object]:
    """``"0.5 of isotonic"``: a calibration shrunk towards the mean by one factor."""
    factor, found, calibrator = source.partition(" of ")
    return {"factor": float(factor), "calibrator": calibrator} if found else {}


def read_windows(source: str) -> dict[str, object]:
    """``"6 windows: isotonic"``: a calibration fitted on so many windows."""
    head, found, calibrator = source.partition(" windows: ")
    return {"n": int(head), "calibrator": calibrator} if found else {}


def read_share(source: str) -> dict[str, object]:
    """``"0.1 by lexical"``: the share of pairs that a first pass would have sent."""
    share, found, screen = before_topk(source).partition(" by ")
    return {"share": float(share), "screen": screen} if found else {}


def best_factors(
    losses: pd.DataFrame, *, seed: int, rows: Int[ndarray, " window"] | None = None
) -> pd.DataFrame:
    """The factor with the least held-out CE, and how often others win in resampled windows (in
    their ``rows`` where some have several).

    The CE at the best factor is not shown: it is the least of several, and flattered by that.
    """
    told = pd.DataFrame(
        [
            {"source": name, **found}
            for name in losses["source"].unique()
            if (found := read_factor(name))
        ]
    )
    units = None if rows is None else shared_rows(rows)
    found_rows, count = [], int(losses["count"].max())
    for calibrator, part in told.groupby("calibrator", sort=False):
        part = part.sort_values("factor")
        every = np.stack([losses_of(losses, name, count, ALL) for name in part["source"]])
        found = stats.best_of(part["factor"].to_numpy(), every, seed=seed, units=units)
        row = {"calibration": calibrator, "best factor": found.value}
        row |= {"95 %": stats.ends(found.low, found.high, "g"), "calibrate windows": found.n}
        found_rows.append(row | {"excludes 0": "yes" if found.low > 0 else "no"})
    return pd.DataFrame(found_rows)


def break_even(
    losses: pd.DataFrame,
    *,
    silent_to_active: float,
    topk: bool,
    seed: int,
    rows: Int[ndarray, " window"] | None = None,
) -> Estimate:
    """False alarms for every true activation at which the rewrite costs what mean ablation does.

    The mean difference, made rising in the alarms, crosses zero there; log-linear between levels,
    percentile interval over windows, or over their ``rows`` where some have several. 0 or infinity:
    no crossing between the levels measured; NaN, "undefined": not measured, because the coder has
    no k.
    """
    units = None if rows is None else shared_rows(rows)
    told = {name: read_alarm_name(name) for name in losses["source"].unique()}
    named = {arm["specificity"]: name for name, arm in told.items() if arm and arm["topk"] == topk}
    levels, count = np.array(sorted(named, reverse=True)), int(losses["count"].max())
    mean = losses_of(losses, "mean", count, ALL)
    if not named:
        return Estimate(np.nan, np.nan, np.nan, len(mean), "window", "undefined")
    paired = np.stack([losses_of(losses, named[level], count, ALL) - mean for level in levels])
    found = stats.crossing(np.log((1 - levels) * silent_to_active), paired, seed=seed, units=units)
    return Estimate(*(float(np.exp(end)) for end in found[:3]), *found[3:])


def break_even_table(
    even: Mapping[str, Mapping[bool, Estimate]], silent_to_active: Mapping[str, float]
) -> pd.DataFrame:
    """Where a rewrite with every true activation in place starts to beat mean ablation, by site and
    by whether the k largest are kept afterwards."""
    rows = []
    for name, found in even.items():
        for topk, at in found.items():
            if np.isnan(at.value):
                continue
            row = {"site": name, "top k afterwards": "yes" if topk else "no", "windows": at.n}
            row |= {
                "alarms a true activation": at.value,
                "95 %": stats.ends(at.low, at.high, ".2f"),
            }
            row |= {"specificity here": _specificity(at.value, silent_to_active[name])}
            paper = _specificity(at.value, PAPER_SILENT_TO_ACTIVE)
            rows.append(row | {"extrapolated to 32 of 32,768 latents": paper})
    return pd.DataFrame(rows)


def break_even_line(name: str, found: Estimate) -> str:
    """The break-even point in one sentence, with its interval and n; or that no level breaks even,
    which is no number of alarms."""
    said = f"cost what mean ablation does at {found.value:.2f}"
    if found.value in (0, np.inf):
        side = "more" if found.value == 0 else "less"
        said = f"cost {side} than mean ablation at every level measured, break-even"
    said += f" {stats.ends(found.low, found.high, '.2f')} alarms a true activation"
    return f"{name}: true activations with false alarms {said} (n = {found.n} {found.unit}s)"


def visible(arms: pd.DataFrame) -> str:
    """Windows, latents and the smallest difference to mean ablation that they can see."""
    told = arms[~arms["source"].isin(["zero", "mean"])].dropna(subset=["detectable"])
    seen = told["detectable"][told["detectable"] > 0]
    latents, windows = int(told["count"].max()), int(told["windows"].max())
    span = f"{seen.min():.2f}–{seen.max():.2f}"
    return f"{latents} latents, n = {windows} windows, smallest visible {span} nat"


def _specificity(alarms: float, silent_to_active: float) -> str:
    level = 1 - alarms / silent_to_active
    return f"{level:.4f}" if 0 <= level < 1 else "not within the levels"

"""Tables of the studies around the rewrite: corrupted oracle, few windows, false alarms.

In: losses of their stages. Out: one row an arm with what the arm was, paired against mean ablation
of the same latents, with intervals over windows; and where false alarms break even.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rewrite_utils import stats
from rewrite_utils.report import plots
from rewrite_utils.rewrite.arms import ALL, before_topk
from rewrite_utils.rewrite.measure import losses_of
from rewrite_utils.rewrite.studies import read_alarm_name, read_oracle_name
from rewrite_utils.stages import SiteStages
from rewrite_utils.stages import studies as stages
from rewrite_utils.stats import Estimate

PAPER_SILENT_TO_ACTIVE = (32_768 - 32) / 32
"""Silent latents for every active one in the paper's coder."""


def oracle_arms(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """Arms of the corrupted oracle, with AUROC, n and calibrator; the ablations beside them."""
    return _arms(sites, stages.oracle, read_oracle_name)


def specificity_arms(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """Arms with false alarms, with specificity, top k or not, and the alarms they mean.

    ``alarms``: expected false alarms for every true activation, from the firing rates of the
    calibrate rows: what makes coders of different width comparable.
    """
    table = _arms(sites, stages.specificity, read_alarm_name)
    odds = {name: _silent_to_active(site) for name, site in sites.items()}
    return table.assign(alarms=(1 - table["specificity"]) * table["site"].map(odds))


def fewer_arms(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """Arms of the simulator's own ratings, calibrated on few and on all windows (figure A2)."""
    return _arms(sites, stages.fewer, _read_fewer_name)


def shrink_arms(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """Arms of the global shrink factor on held-out calibrate windows."""
    return _arms(sites, stages.shrink, _read_shrink_name)


def screened_arms(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """Arms of the headline by the share of pairs that a cheap first pass would have sent."""
    return _arms(sites, stages.screened, _read_share_name)


def best_factors(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """The factor with the least held-out CE, and how often others win in resampled windows.

    The CE at the best factor is not shown: it is the least of several, and flattered by that.
    """
    rows = []
    for name, site in sites.items():
        table = stages.shrink(site)
        told = {source: _read_shrink_name(source) for source in table["source"].unique()}
        count = int(table["count"].max())
        for calibrator in dict.fromkeys(arm["calibrator"] for arm in told.values() if arm):
            arms = {a["factor"]: s for s, a in told.items() if a and a["calibrator"] == calibrator}
            factors = np.array(sorted(arms))
            losses = np.stack([losses_of(table, arms[f], count, ALL) for f in factors])
            found = stats.best_of(factors, losses, seed=site.params.seed)
            rows.append(
                {
                    "site": name,
                    "calibration": calibrator,
                    "best factor": found.value,
                    "95 %": f"[{found.low:g}, {found.high:g}]",
                    "calibrate windows": found.n,
                    "excludes 0": "yes" if found.low > 0 else "no",
                }
            )
    return pd.DataFrame(rows)


def break_even(site: SiteStages, *, topk: bool) -> Estimate:
    """False alarms for every true activation at which the rewrite costs what mean ablation does.

    The mean difference, made rising in the alarms, crosses zero there; log-linear between levels,
    percentile interval over windows. 0 or infinity: no crossing between the levels measured.
    """
    table = stages.specificity(site)
    arms = {arm["specificity"]: name for name, arm in _named(table, topk=topk).items()}
    levels = np.array(sorted(arms, reverse=True))
    count = int(table["count"].max())
    mean = losses_of(table, "mean", count, ALL)
    paired = np.stack([losses_of(table, arms[level], count, ALL) - mean for level in levels])
    x = np.log((1 - levels) * _silent_to_active(site))
    found = stats.crossing(x, paired, seed=site.params.seed)
    ends = (float(np.exp(end)) for end in found[:3])
    return Estimate(*ends, found.n, found.unit, found.method)


def break_even_table(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """Where a rewrite with every true activation in place starts to beat mean ablation."""
    rows = []
    for name, site in sites.items():
        ratio = _silent_to_active(site)
        for topk in (False, True):
            found = break_even(site, topk=topk)
            rows.append(
                {
                    "site": name,
                    "top k afterwards": "yes" if topk else "no",
                    "windows": found.n,
                    "alarms a true activation": found.value,
                    "95 %": f"[{found.low:.2f}, {found.high:.2f}]",
                    "specificity here": _specificity(found.value, ratio),
                    "at 32 of 32,768 latents": _specificity(found.value, PAPER_SILENT_TO_ACTIVE),
                }
            )
    return pd.DataFrame(rows)


def specificity_line(site: SiteStages) -> str:
    """The break-even point in one sentence, with its interval and n; or that no level breaks even,
    which is no number of alarms."""
    found = break_even(site, topk=False)
    said = f"cost what mean ablation does at {found.value:.2f}"
    if found.value in (0, np.inf):
        side = "more" if found.value == 0 else "less"
        said = f"cost {side} than mean ablation at every level measured, break-even"
    return (
        f"{site.name}: true activations with false alarms {said} "
        f"[{found.low:.2f}, {found.high:.2f}] alarms a true activation (n = {found.n} windows)"
    )


def study_figure(
    arms: pd.DataFrame,
    draw: Callable[..., None],
    *,
    what: str = "",
    width: float = 5.0,
    height: float = 3.6,
) -> Figure:
    """A study's arms, one panel a site: what it is, latents, windows, smallest visible difference.

    ``draw(axes, arms of the site, title=…)`` draws one panel.
    """
    figure, axes = plots.panels(arms["site"].nunique(), width=width, height=height)
    for axis, (name, part) in zip(axes, arms.groupby("site", sort=False), strict=True):
        draw(axis, part, title=f"{name}{what}\n{smallest_visible(part)}")
    return figure


def smallest_visible(arms: pd.DataFrame) -> str:
    """Windows, latents and the smallest difference to mean ablation that they can see."""
    told = arms[~arms["source"].isin(["zero", "mean"])].dropna(subset=["detectable"])
    seen = told["detectable"][told["detectable"] > 0]
    latents, windows = int(told["count"].max()), int(told["windows"].max())
    span = f"{seen.min():.2f}–{seen.max():.2f}"
    return f"{latents} latents, n = {windows} windows, smallest visible {span} nat"


def _silent_to_active(site: SiteStages) -> float:
    """Silent latents for every active one, over the studied latents and the calibrate rows."""
    rate = site.cache("calibrate").rate[stages.studied(site)].mean()
    return float((1 - rate) / rate)


def _specificity(alarms: float, silent_to_active: float) -> str:
    level = 1 - alarms / silent_to_active
    return f"{level:.4f}" if 0 <= level < 1 else "not within the levels"


def _arms(
    sites: Mapping[str, SiteStages],
    study: Callable[[SiteStages], pd.DataFrame],
    read: Callable[[str], Mapping],
) -> pd.DataFrame:
    tables = []
    for name, site in sites.items():
        arms = stages.judged(site, study(site))
        told = pd.DataFrame([read(source) for source in arms["source"]], index=arms.index)
        tables.append(pd.concat([arms, told], axis=1).assign(site=name))
    return pd.concat(tables, ignore_index=True)


def _named(table: pd.DataFrame, *, topk: bool) -> dict[str, dict]:
    arms = {name: dict(read_alarm_name(name)) for name in table["source"].unique()}
    return {name: arm for name, arm in arms.items() if arm and arm["topk"] == topk}


def _read_shrink_name(source: str) -> dict[str, object]:
    factor, found, calibrator = source.partition(" of ")
    return {"factor": float(factor), "calibrator": calibrator} if found else {}


def _read_fewer_name(source: str) -> dict[str, object]:
    head, found, calibrator = source.partition(" windows: ")
    return {"n": int(head), "calibrator": calibrator} if found else {}


def _read_share_name(source: str) -> dict[str, object]:
    share, found, screen = before_topk(source).partition(" by ")
    return {"share": float(share), "screen": screen} if found else {}

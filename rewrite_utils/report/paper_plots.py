"""The paper's own figures, drawn as it draws them: 3, its un-normalised version, 4, v2's bars.

In: tables of the report. Out: axes drawn on, and the plotted data where it is not the table itself.
The paper's published value is a thin dashed line labelled "paper". Paper §6–7, appendix A.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from numpy import ndarray

from rewrite_utils import stats
from rewrite_utils.report.plots import PAPER_RANGE, colour, label
from rewrite_utils.rewrite.arms import before_topk

PAPER_UNNORMALISED = {0.01: 0.43, 0.1: 2.17, 1.0: 3.37}
"""CE − CE of the coder (nats) by the share of latents simulated, best scores first, not normalised:
means over the authors' own first 100 windows (+0.46, +2.2, +3.4, the coder +0.026)."""
PAPER_SPECIFICITY = 0.8
"""Mean specificity before normalisation (v1, figure 4)."""
ORDERS = {"top": ("-", "o"), "random": (":", "s"), "useful": ("-.", "^")}
"""Line style and marker of each order."""
NAMED = {"top": "best scores first", "random": "random order", "useful": "most useful first"}
LEAST = 8
"""Latents in a bin of figure 4 at least: with fewer, a mean says nothing."""
DASH = {"color": "#666666", "lw": 0.8, "ls": "--"}


def by_fraction(
    axes: Axes,
    verdict: pd.DataFrame,
    *,
    sources: Sequence[str],
    described: int,
    title: str,
    paper: Mapping[float, float] | None = None,
) -> None:
    """CE over the coder against the fraction rewritten, every order a line style (figure 3, A3).

    The ablations of the same latents are grey; ``paper`` gives the paper's CE by fraction.
    """
    for source in ("zero", "mean", *sources):
        for order, (dash, marker) in ORDERS.items():
            arm = verdict[(verdict["source"] == source) & verdict["order"].isin([order, "all"])]
            if order in set(arm["order"]) or (order == "top" and len(arm)):
                faint = source in ("zero", "mean") and order != "top"
                _line(axes, arm.sort_values("count"), described, dash, marker, faint=faint)
    axes.axhline(0, color=colour("coder"), lw=1, label=label("coder"))
    if paper:
        axes.plot(list(paper), list(paper.values()), marker="x", ms=4, label="paper", **DASH)
    else:
        axes.axhline(PAPER_RANGE, label="paper: all latents at zero", **DASH)
    axes.set(xlabel=f"share of the {described} described latents replaced", title=title)
    axes.set_ylabel("CE − CE of the coder (nats)")


def _line(
    axes: Axes, arm: pd.DataFrame, described: int, dash: str, marker: str, *, faint: bool
) -> None:
    """One source in one order; the label says which order, the band is the 95 % interval."""
    source, order = arm["source"].iloc[0], arm["order"].iloc[0]
    x, shade = arm["count"] / described, colour(source)
    named = label(source) if order == "all" else f"{label(source)}, {NAMED[order]}"
    style = {"color": shade, "marker": marker, "ms": 3.5, "alpha": 0.45 if faint else 1}
    axes.plot(x, arm["over_coder"], dash, label=named, **style)
    if not faint:
        ends = arm["over_coder_low"], arm["over_coder_high"]
        axes.fill_between(x, *ends, color=shade, alpha=0.08, lw=0)


def bars(axes: Axes, arms: pd.DataFrame, *, paper: float, title: str) -> None:
    """v2's bars: mean ΔCE ± SE over windows with a base loss of 0.1 nat or more, one an arm.

    ``paper``: what its coder costs, as a share of the base loss, times the base loss here.
    """
    arms = arms.iloc[::-1].reset_index(drop=True)
    shades = [colour(source) for source in arms["source"]]
    axes.barh(arms.index, arms["v2_mean"], xerr=arms["v2_se"], color=shades, height=0.7,
              error_kw={"lw": 1, "ecolor": "#222222"})  # fmt: skip
    axes.axvline(paper, label="paper: the coder, same share of the base loss", **DASH)
    axes.axvline(0, color="#222222", lw=0.8)
    axes.set(yticks=arms.index, yticklabels=[label(source) for source in arms["source"]])
    axes.set(xlabel="v2's mean ΔCE ± SE (nats; base loss ≥ 0.1)", title=title)


def against_score(
    axes: Sequence[Axes],
    rates: pd.DataFrame,
    *,
    named: str,
    title: str,
    seed: int,
    most: int = 10,
) -> pd.DataFrame:
    """Specificity left and sensitivity right against a score, in bins of latents (figure 4).

    ``rates`` has a column ``score``, any score; they are of estimates before any TopK, and named
    so. A bin holds ``LEAST`` latents or more and never splits equal scores; where that leaves one
    bin, the title says so. Returns what is drawn.
    """
    tables = []
    for axis, rate in zip(axes, ("specificity", "sensitivity"), strict=True):
        told = rates.dropna(subset=["score", rate])
        for source, part in told.groupby("source", sort=False):
            table = binned(part["score"].to_numpy(), part[rate].to_numpy(), seed=seed, most=most)
            _points(axis, table, str(source))
            name = before_topk(str(source))
            tables.append(table.assign(source=name, rate=rate, score_of=named))
        latents, bins = told["latent"].nunique(), _most_bins(tables, rate)
        note = f"{latents} latents" + ("" if bins > 1 else ", too few for bins: one mean")
        axis.set(title=f"{title}\n{rate}: {note}", xlabel=named, ylabel=rate, ylim=(-0.03, 1.03))
        if bins == 1:
            axis.set_xlim(told["score"].min() - 0.05, told["score"].max() + 0.05)
    axes[0].axhline(PAPER_SPECIFICITY, label="paper: specificity before ≈ 80 %", **DASH)
    return pd.concat(tables, ignore_index=True)


def binned(
    score: Float[ndarray, " latent"],
    rate: Float[ndarray, " latent"],
    *,
    seed: int,
    most: int = 10,
) -> pd.DataFrame:
    """Mean score and mean rate of each bin, with 95 % intervals over its latents."""
    order, rows = np.argsort(score, kind="stable"), []
    for part in np.split(order, edges(score[order], most=most)):
        row = {"latents": len(part), "score": score[part].mean(), "value": rate[part].mean()}
        found = (row["value"],) * 3
        if len(part) > 1:
            found = stats.bootstrap(rate[part], unit="latent", seed=seed)
        rows.append(row | {"low": found[1], "high": found[2]})
    return pd.DataFrame(rows)


def edges(
    ordered: Float[ndarray, " latent"], *, most: int, least: int = LEAST
) -> Int[ndarray, " edge"]:
    """Where to cut ascending scores into bins of ``least`` or more, equal ones together."""
    bins = int(np.clip(len(ordered) // least, 1, most))
    found: list[int] = []
    for wanted in np.linspace(0, len(ordered), bins + 1)[1:-1]:
        equal = ordered[round(wanted) - 1]
        cut = int(np.searchsorted(ordered, equal, side="right"))
        if cut - (found[-1] if found else 0) >= least and len(ordered) - cut >= least:
            found.append(cut)
    return np.array(found, dtype=np.int64)


def _points(axes: Axes, table: pd.DataFrame, source: str) -> None:
    shade, named = colour(source), label(source).removesuffix(", top k")
    axes.plot(table["score"], table["value"], "o-", color=shade, ms=4, label=named)
    axes.vlines(table["score"], table["low"], table["high"], color=shade, lw=1, alpha=0.5)


def _most_bins(tables: Sequence[pd.DataFrame], rate: str) -> int:
    return max((len(table) for table in tables if set(table["rate"]) == {rate}), default=0)

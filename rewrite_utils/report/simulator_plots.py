"""Figures of the simulator: other ways to ask, and what screening keeps of the pairs."""

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes

from rewrite_utils.report.plots import PALETTE

NAMES = {
    "plain": "plain",
    "rate": "firing rate shown",
    "score": "score shown",
    "contrast": "contrast tokens shown",
    "explanation_first": "sentence first",
    "original": "the original's layout",
    "all": "all positions",
}
"""Ways to ask, in words."""
COLOURS = {"lexical": PALETTE[2], "embedding": PALETTE[4], "both": PALETTE[0]}


def ways(axes: Axes, table: pd.DataFrame, *, base: str) -> None:
    """One statistic: each way minus the base, paired, with its 95 % interval; dotted is chance."""
    shown = table.set_index("way")
    value = shown.loc[base]
    chance = 0.5 if value["statistic"].startswith("AUROC") else value["active"] / value["pairs"]
    for place, (_, row) in enumerate(shown.iterrows()):
        ends = [row["difference_low"], row["difference_high"]]
        axes.plot(ends, [place, place], color=PALETTE[0], lw=1.6)
        axes.plot(row[f"minus {base}"], place, "o", color=PALETTE[0], ms=4.5)
    axes.axvline(0, color="#222222", lw=0.8)
    axes.axvline(chance - value["value"], color="#666666", lw=0.8, ls=":")
    axes.set_xlabel(f"minus {base}, n = {value['windows']} windows")
    found = f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
    axes.set_title(f"{value['statistic']}\n{base}: {found}, chance {chance:.2f}", fontsize=9)
    _ways_downwards(axes, shown.index)


def way_costs(axes: Axes, costs: pd.DataFrame) -> None:
    """Seconds of LLM a prediction, on a logarithmic scale."""
    seconds = costs["seconds a prediction"]
    axes.plot(seconds, range(len(costs)), "D", color=PALETTE[0], ms=5)
    for place, value in enumerate(seconds):
        axes.annotate(f"   {value:.2g}", (value, place), va="center", fontsize=7)
    axes.set(xscale="log", xlabel="seconds a prediction")
    axes.set_xlim(seconds.min() / 2, 4 * seconds.max())
    axes.set_title("cost\n(LLM, this machine)", fontsize=9)
    _ways_downwards(axes, costs["way"])


def _ways_downwards(axes: Axes, ways: Iterable[str]) -> None:
    names = [NAMES[way] for way in ways]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def screening(axes: Axes, curves: pd.DataFrame, *, statistic: str, title: str) -> None:
    """What ratings are worth by share; at 1 every pair is sent."""
    _by_share(axes, curves[curves["statistic"] == statistic], "value", "low", "high")
    axes.set(ylabel=statistic, title=title)


def screening_loss(axes: Axes, arms: pd.DataFrame, *, title: str) -> None:
    """CE − mean ablation by share, pairs that were not sent in a bin of their own."""
    told = arms.dropna(subset=["share"])
    _by_share(axes, told, "minus_mean", "minus_mean_low", "minus_mean_high")
    axes.axhline(0, color="#222222", lw=0.8)
    axes.set(ylabel="CE − CE of mean ablation (nats)", title=title)


def _by_share(axes: Axes, rows: pd.DataFrame, value: str, low: str, high: str) -> None:
    """One line a screen with its 95 % band over windows."""
    for screen, line in rows.groupby("screen", sort=False):
        ordered, colour = line.sort_values("share"), COLOURS[str(screen)]
        axes.plot(ordered["share"], ordered[value], "o-", color=colour, label=screen, ms=3)
        axes.fill_between(
            ordered["share"], ordered[low], ordered[high], color=colour, alpha=0.15, lw=0
        )
    axes.set(xscale="log", xlabel="share of pairs sent to the LLM")
    shares = sorted(rows["share"].unique())
    axes.set_xticks(shares, [f"{share:.0%}" for share in shares], fontsize=7)
    axes.minorticks_off()
    axes.legend(title="screened by")

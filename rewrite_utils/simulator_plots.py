"""Figures of the simulator: what screening keeps against the share of pairs it sends to the LLM."""

import pandas as pd
from matplotlib.axes import Axes

from rewrite_utils.plots import PALETTE

COLOURS = {"lexical": PALETTE[2], "embedding": PALETTE[4], "both": PALETTE[0]}


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

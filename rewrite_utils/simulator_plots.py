"""Figures of the simulator: what screening keeps against the share of pairs it sends to the LLM."""

import pandas as pd
from matplotlib.axes import Axes

from rewrite_utils.plots import PALETTE

COLOURS = {"lexical": PALETTE[2], "embedding": PALETTE[4], "both": PALETTE[0]}


def screening(axes: Axes, curves: pd.DataFrame, *, statistic: str, title: str) -> None:
    """One line a screen with its 95 % band over windows; at 1 every pair is sent."""
    _lines(axes, curves[curves["statistic"] == statistic], ("value", "low", "high"))
    axes.set(ylabel=statistic, title=title)


def screened_losses(axes: Axes, arms: pd.DataFrame, *, title: str) -> None:
    """CE minus that of mean ablation of the same latents; below 0 the rewrite is better."""
    _lines(axes, arms, ("minus_mean", "minus_mean_low", "minus_mean_high"))
    axes.axhline(0, color="#666666", lw=0.8)
    axes.set(ylabel="CE − CE of mean ablation (nats)", title=title)


def _lines(axes: Axes, rows: pd.DataFrame, columns: tuple[str, str, str]) -> None:
    """One line a screen over the share of pairs that are sent, with its band."""
    for screen, line in rows.groupby("screen", sort=False):
        ordered = line.sort_values("share")
        share, colour = ordered["share"], COLOURS[str(screen)]
        value, low, high = (ordered[column] for column in columns)
        axes.plot(share, value, "o-", color=colour, label=screen, ms=3)
        axes.fill_between(share, low, high, color=colour, alpha=0.15, lw=0)
    axes.set(xscale="log", xlabel="share of pairs sent to the LLM")
    axes.legend(title="screened by")

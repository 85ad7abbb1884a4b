"""Figures of the simulator: what screening keeps against the share of pairs it sends to the LLM."""

import pandas as pd
from matplotlib.axes import Axes

from rewrite_utils.plots import PALETTE

COLOURS = {"lexical": PALETTE[2], "embedding": PALETTE[4], "both": PALETTE[0]}


def screening(axes: Axes, curves: pd.DataFrame, *, statistic: str, title: str) -> None:
    """One line a screen with its 95 % band over windows; at 1 every pair is sent."""
    rows = curves[curves["statistic"] == statistic]
    for screen, line in rows.groupby("screen", sort=False):
        ordered = line.sort_values("share")
        colour = COLOURS[str(screen)]
        axes.plot(ordered["share"], ordered["value"], "o-", color=colour, label=screen, ms=3)
        axes.fill_between(
            ordered["share"], ordered["low"], ordered["high"], color=colour, alpha=0.15, lw=0
        )
    axes.set(xscale="log", xlabel="share of pairs sent to the LLM", ylabel=statistic, title=title)
    axes.legend(title="screened by")

"""Figures of coders and checkpoints: what is left to the latents, who fires, the training curve.

In: tables of report/coders.py and report/checkpoints.py. Out: drawn axes, in the style of plots.py.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from numpy import ndarray

from rewrite_utils.plots import PALETTE, colour, label

KINDS = {
    "transcoder": PALETTE[0],
    "skip transcoder": PALETTE[1],
    "SAE": PALETTE[2],
    "random transcoder": "#999999",
    "random SAE": "#999999",
}
"""Colour of each kind of coder."""
SHOWN_ON_CURVE = ("coder", "mean", "output mean", "token table")
"""Arms drawn on a training curve; the table has all."""


AXES = {
    "layer": "layer",
    "latents": "latents",
    "range": "CE, latents at their mean − CE of the coder (nats)",
    "FVU": "FVU",
}
"""What the columns of the coder table are called on an axis."""


def coder_lines(axes: Axes, table: pd.DataFrame, *, x: str, y: str, title: str) -> None:
    """One line a kind of coder; 95 % intervals where there are columns `<y>_low`, `<y>_high`."""
    for kind, coders in table.groupby("kind", sort=False):
        coders = coders.sort_values(x)
        axes.plot(coders[x], coders[y], "o-", color=KINDS[str(kind)], ms=4, label=str(kind))
        if f"{y}_low" in coders:
            ends = coders[f"{y}_low"], coders[f"{y}_high"]
            axes.vlines(coders[x], *ends, color=KINDS[str(kind)], lw=1.5, alpha=0.5)
    axes.axhline(0, color="#222222", lw=0.6)
    axes.set(xlabel=AXES[x], ylabel=AXES[y], title=title)
    if x == "latents":
        widths = sorted(table[x].unique())
        axes.set_xscale("log", base=2)
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.minorticks_off()
    axes.legend()


def firing_rate_curves(axes: Axes, rates: Mapping[str, Float[ndarray, " latent"]]) -> pd.DataFrame:
    """Firing rate by rank, as a share of the coder's width, one line a site; the plotted data."""
    tables = []
    for site, rate in rates.items():
        ordered = np.sort(rate)[::-1]
        place = (np.arange(len(rate)) + 0.5) / len(rate)
        axes.plot(place, np.where(ordered > 0, ordered, np.nan), lw=1.2, label=site)
        tables.append(pd.DataFrame({"site": site, "place": place, "rate": ordered}))
    axes.set(yscale="log", xlabel="latents by rank, share of the width", ylabel="firing rate")
    axes.set_title("Who fires how often (lines end where latents are dead)")
    axes.legend(fontsize=6, ncols=max(1, len(rates) // 8))
    return pd.concat(tables, ignore_index=True)


def checkpoint_curve(axes: Axes, curve: pd.DataFrame, arms: pd.DataFrame, *, title: str) -> None:
    """Cross-entropy against training step, with the losses of a few arms and where they meet it."""
    x = np.log2(1 + curve["step"])
    axes.plot(x, curve["CE"], color=PALETTE[0], marker=".", label="checkpoints of the subject")
    axes.fill_between(x, curve["CE_low"], curve["CE_high"], color=PALETTE[0], alpha=0.12, lw=0)
    for _, arm in arms[arms["source"].isin(SHOWN_ON_CURVE)].iterrows():
        shade, ends = colour(arm["source"]), np.array([arm["step_low"], arm["step_high"]], float)
        axes.axhline(arm["CE"], color=shade, lw=0.7, ls=":")
        axes.plot(
            np.log2(1 + np.clip(ends, 0, curve["step"].max())), [arm["CE"]] * 2, color=shade, lw=3,
            alpha=0.6, label=f"{label(arm['source'])}: 95 % over windows",
        )  # fmt: skip
    shown = curve["step"].to_numpy()[:: max(1, len(curve) // 8)]
    axes.set(xlabel="training step (log)", ylabel="CE (nats)", title=title)
    axes.set_xticks(np.log2(1 + shown), [f"{step:,}" for step in shown])
    axes.legend(fontsize=7)


def layers_at_once(axes: Axes, table: pd.DataFrame, *, value: str, parts: bool) -> None:
    """``value`` against the number of layers, one line a source; the sums of parts are dotted."""
    for source, arm in table.groupby("source", sort=False):
        if value == "minus_mean" and source == "mean":
            continue
        shade, x = colour(str(source)), arm["count"]
        axes.plot(x, arm[value], "o-", color=shade, ms=4, label=label(str(source)))
        axes.fill_between(
            x, arm[f"{value}_low"], arm[f"{value}_high"], color=shade, alpha=0.1, lw=0
        )
        if parts:
            axes.plot(x, arm["parts"], ":", color=shade, lw=1)
    if parts:
        axes.plot([], [], ":", color="#666666", label="sum of its layers alone")
    axes.axhline(0, color="#222222", lw=0.7)
    added = table.drop_duplicates("count")
    names = [
        f"{count}\n+{name}" for count, name in zip(added["count"], added["added"], strict=True)
    ]
    axes.set_xticks(added["count"], names)
    axes.set_xlabel("layers rewritten at once (the one added)")
    axes.set_ylabel(("ΔCE" if parts else "CE − CE of mean ablation") + " (nats; linear below 0.3)")
    axes.set_yscale("symlog", linthresh=0.3)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))

"""Figures of coders and checkpoints: what is left to the latents, who fires, the training curve.

In: tables of report/coders.py and report/checkpoints.py. Out: drawn axes, in the style of plots.py.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy import ndarray

from rewrite_utils.report import plots
from rewrite_utils.report.plots import PALETTE, colour, label

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
    "range": "range left to the latents (nats)",
    "FVU": "FVU",
}
"""What the columns of the coder table are called on an axis."""
APART = 1.4
"""Doublings between two numbers under a logarithmic axis."""
MARKERS = "os^Dv"
"""One a line of the same kind."""


def coder_figure(table: pd.DataFrame, *, y: str) -> Figure:
    """Panels of `coder_lines`: each place (MLP, residual stream) by each of layer and width that
    varies, so that a scale fits its panel and no axis holds a single value.
    """
    place = np.where(table["kind"].str.contains("SAE"), "residual stream", "MLP")
    varied = [x for x in ("layer", "latents") if table[x].nunique() > 1] or ["layer"]
    wanted = [(name, part, x) for name, part in table.groupby(place, sort=False) for x in varied]
    figure, axes = plots.panels(len(wanted))
    for axis, (name, part, x) in zip(axes, wanted, strict=True):
        said = f"{name}, by {'width' if x == 'latents' else x} (n = {part['rows'].min()} rows)"
        coder_lines(axis, part, x=x, y=y, title=said)
    return figure


def coder_lines(axes: Axes, table: pd.DataFrame, *, x: str, y: str, title: str) -> None:
    """One line a family of coders, which differ in ``x`` alone; 95 % intervals where there are
    columns `<y>_low`, `<y>_high`. For the range: also what the whole output is worth, by layer.
    """
    _worth(axes, table, x=x, y=y)
    others = [column for column in ("layer", "latents", "k") if column != x]
    told = [column for column in others if table[column].nunique() > 1]
    drawn: dict[str, int] = {}
    for (kind, *same), coders in table.groupby(["kind", *others], sort=False):
        coders = coders.sort_values(x)
        at = _beside(coders[x].to_numpy(float), sum(drawn.values()) + len(drawn), x=x)
        number = drawn[kind] = drawn.get(kind, -1) + 1
        values = dict(zip(others, same, strict=True))
        name = ", ".join([kind, *(f"{column} {values[column]}" for column in told)])
        style = {"color": KINDS[str(kind)], "marker": MARKERS[number % len(MARKERS)], "ms": 4}
        style |= {"ls": ("-", "--", ":")[number % 3], "label": name}
        axes.plot(at, coders[y], **style)
        if f"{y}_low" in coders:
            ends = np.c_[coders[f"{y}_low"], coders[f"{y}_high"], np.full(len(coders), np.nan)]
            axes.plot(at.repeat(3), ends.ravel(), color=KINDS[str(kind)], lw=1.5, alpha=0.5)
    axes.axhline(0, color="#222222", lw=0.6)
    axes.set(xlabel=AXES[x], ylabel=AXES[y], title=title)
    places = sorted(table[x].unique())
    if x == "latents":
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
    axes.set_xticks(places, [str(place) for place in places])
    axes.legend()


def _beside(places: Float[ndarray, " coder"], family: int, *, x: str) -> Float[ndarray, " coder"]:
    """Families a little to the right of one another, so that their intervals can be told apart."""
    if x == "latents":
        return places * 2 ** (0.05 * family)
    return places + 0.012 * family * max(np.ptp(places), 1)


def _worth(axes: Axes, table: pd.DataFrame, *, x: str, y: str) -> None:
    """The loss of the module's output at its mean: no range is to be expected beyond it. A band
    from three layers on; two far-apart ones are not joined."""
    if (x, y) != ("layer", "range"):
        return
    worth = table.drop_duplicates(x).sort_values(x)
    style = {"color": "#aaaaaa", "label": "whole output at its mean"}
    if len(worth) < 3:
        ends = (worth["worth"] - worth["worth_low"], worth["worth_high"] - worth["worth"])
        axes.errorbar(worth[x], worth["worth"], yerr=ends, fmt="D", ms=4, lw=1.5, **style)
        return
    axes.plot(worth[x], worth["worth"], lw=1, **style)
    axes.fill_between(
        worth[x], worth["worth_low"], worth["worth_high"], color="#aaaaaa", alpha=0.2, lw=0
    )


def firing_rate_curves(
    axes: Axes, rates: Mapping[str, Float[ndarray, " latent"]], kinds: Mapping[str, str]
) -> pd.DataFrame:
    """Firing rate by rank, as a share of the coder's width, one line a site; the plotted data.

    A kind of coder has its style of line, its sites go from dark to light; the controls are grey.
    """
    tables, styles = [], dict.fromkeys(kinds.values(), "-")
    styles |= dict(zip(styles, ("-", "--", ":", "-.", (0, (1, 4))), strict=False))
    for site, rate in rates.items():
        alike = [name for name in rates if kinds[name] == kinds[site]]
        shade = plt.get_cmap("viridis")(0.9 * alike.index(site) / max(len(alike) - 1, 1))
        shade = "#999999" if kinds[site].startswith("random") else shade
        ordered = np.sort(rate)[::-1]
        place = (np.arange(len(rate)) + 0.5) / len(rate)
        shown = np.where(ordered > 0, ordered, np.nan)
        axes.plot(place, shown, lw=1.2, color=shade, ls=styles[kinds[site]], label=site)
        tables.append(pd.DataFrame({"site": site, "place": place, "rate": ordered}))
    axes.set(yscale="log", xlabel="latents by rank, share of the width", ylabel="firing rate")
    axes.set_title("Who fires how often (lines end where latents are dead)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), handlelength=3)
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
            alpha=0.6, label=label(arm["source"]),
        )  # fmt: skip
    axes.set(xlabel="training step (log)", ylabel="CE (nats)", title=title)
    shown = _apart(curve["step"].tolist())
    axes.set_xticks(np.log2(1 + np.array(shown)), [f"{step:,}" for step in shown])
    axes.legend(fontsize=7, loc="lower left", frameon=True, framealpha=0.9, edgecolor="none")


def training_shares(axes: Axes, arms: pd.DataFrame, *, final: int, title: str) -> None:
    """The answer of every arm: the share of training it is as good as, with its interval.

    Hollow: the curve passes that loss more than once (first and last time drawn); triangles at the
    edge: worse or better than every checkpoint.
    """
    rows = arms[arms["source"] != "untouched"].iloc[::-1].reset_index(drop=True)
    for place, arm in rows.iterrows():
        shade, steps = colour(arm["source"]), arm[["step_low", "step_high"]].to_numpy(float)
        axes.plot(np.clip(steps, 0, final) / final, [place] * 2, color=shade, lw=2, alpha=0.6)
        first, last = np.clip([arm["first_step"], arm["last_step"]], 0, final) / final
        outside = "<" if arm["first_step"] < 0 else ">"
        style = {"color": shade, "marker": "o" if arm["crossings"] else outside, "ls": "", "ms": 5}
        style |= {"mfc": shade if arm["crossings"] < 2 else "white"}
        axes.plot([first, last], [place] * 2, **style)
    names = [f"{label(arm.source)} (n = {arm.windows})" for arm in rows.itertuples()]
    axes.set(yticks=range(len(rows)), yticklabels=names, xlim=(-0.03, 1.03), title=title)
    axes.set(xlabel="as good as the model after this share of its training")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.tick_params(axis="y", labelsize=7)


def _apart(steps: Sequence[int]) -> list[int]:
    """The steps that can be written under a logarithmic axis, the last one among them."""
    shown: list[int] = []
    for step in sorted(steps, reverse=True):
        if not shown or np.log2((1 + shown[-1]) / (1 + step)) >= APART:
            shown.append(step)
    return shown


TICKS = (-10, -3, -1, -0.3, -0.1, 0, 0.1, 0.3, 1, 3, 10)
"""Nats on the scale of several layers, where one may cost a hundred times another."""


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
    axes.set_ylabel(("ΔCE" if parts else "CE − mean ablation's") + " (nats; linear below 0.3)")
    axes.set_yscale("symlog", linthresh=0.3)
    bottom, top = axes.get_ylim()
    shown = [tick for tick in TICKS if bottom <= tick <= top]
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_ylim(bottom, top)

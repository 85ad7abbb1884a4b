"""Figures with one row an arm: a number with its interval, zero and the paper's value marked.

In: one row an arm, the interval in the columns ``…_low`` and ``…_high``. Out: axes drawn on.
Paper: figure A2, v2's bars.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from rewrite_utils.report.curves import COST, DASH, ablation_lines
from rewrite_utils.report.figures import (
    MARKERS,
    PALETTE,
    calibration,
    colour,
    label,
    listed,
    whisker,
)

PLACES = {
    "evaluate": ("o", 0.0, 1.0),
    "evaluate, top k": ("x", 0.22, 0.55),
    "calibrate, held out": ("D", -0.22, 0.55),
}
"""Marker, offset and strength of each place where a latent-space loss was measured."""
WAYS = {
    "plain": "plain",
    "rate": "firing rate shown",
    "score": "score shown",
    "contrast": "contrast tokens shown",
    "ahead": "prompt with notes ahead",
    "rate_ahead": "… firing rate, in words",
    "score_ahead": "… score, in words",
    "contrast_ahead": "… contrast tokens",
    "explanation_first": "sentence first",
    "original": "… in the original's words",
    "all": "all positions",
}
"""Ways to ask the simulator, in words."""


def forest(axes: Axes, rows: pd.DataFrame, *, value: str, xlabel: str, title: str) -> None:
    """One line an arm, the first on top: the paired difference with its interval, zero marked."""
    rows = rows.iloc[::-1].reset_index(drop=True)
    for place, row in rows.iterrows():
        whisker(axes, place, row, value, {"color": colour(row["source"]), "lw": 2})
    axes.axvline(0, color="#222222", lw=0.8)
    listed(axes, [label(source) for source in rows["source"]])
    axes.set(xlabel=xlabel, title=title)


def losses(axes: Axes, table: pd.DataFrame, *, title: str) -> None:
    """One line a calibration, one mark a place: difference to mean ablation with its interval."""
    names = list(dict.fromkeys(table["source"]))[::-1]
    for where, (marker, offset, alpha) in PLACES.items():
        part = table[table["where"] == where]
        for _, row in part.iterrows():
            style = {"color": colour(row["source"]), "marker": marker, "ms": 4.5, "alpha": alpha}
            whisker(axes, names.index(row["source"]) + offset, row, "difference", style)
        said = f"{where} (n = {int(part['windows'].max())} windows)"
        axes.plot([], [], marker, color="#222222", alpha=alpha, label=said)
    axes.axvline(0, color="#222222", lw=0.8)
    axes.set_xscale("symlog", linthresh=0.3, linscale=1.2)
    listed(axes, [calibration(name) for name in names])
    axes.set_title(title)
    axes.set_xlabel(
        "squared error − mean ablation's (which is 1; linear below 0.3); left is better"
    )
    axes.set_xticks([-1, -0.3, -0.1, 0, 0.1, 0.3, 1, 3, 10])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.11))


def oracle(axes: Axes, arms: pd.DataFrame, *, title: str) -> None:
    """CE − mean ablation of every calibration, few windows (hollow) and many (filled), by AUROC."""
    told = arms.dropna(subset=["auroc"])
    aurocs, names = sorted(told["auroc"].unique()), list(dict.fromkeys(told["calibrator"]))
    sizes = sorted(told["n"].unique())
    width = 0.8 / (len(names) * len(sizes))
    for row in told.itertuples():
        slot = names.index(row.calibrator) * len(sizes) + sizes.index(row.n)
        x = aurocs.index(row.auroc) - 0.4 + (slot + 0.5) * width
        shade, marker = colour(row.calibrator), MARKERS[names.index(row.calibrator)]
        axes.plot([x, x], [row.minus_mean_low, row.minus_mean_high], color=shade, lw=1.4)
        face = shade if row.n == sizes[-1] else "white"
        axes.plot(x, row.minus_mean, marker, color=shade, mfc=face, ms=5)
    for name, marker in zip(names, MARKERS, strict=False):
        axes.plot([], [], color=colour(name), marker=marker, label=calibration(name))
    hollow, filled = (f"{int(n):,}" for n in (sizes[0], sizes[-1]))
    axes.plot([], [], " ", label=f"hollow: {hollow} windows, filled: {filled}")
    ablation_lines(axes, arms)
    axes.set(xticks=range(len(aurocs)), xticklabels=[f"{a:g}" for a in aurocs], title=title)
    axes.set(xlabel="AUROC of the corrupted oracle (not the simulator)", ylabel=COST)


def fewer(axes: Axes, arms: pd.DataFrame, *, title: str) -> None:
    """CE − mean ablation of the simulator's ratings, few (hollow) and all windows (figure A2)."""
    told = arms.dropna(subset=["n"])
    names, sizes = list(dict.fromkeys(told["calibrator"]))[::-1], sorted(told["n"].unique())
    for _, row in told.iterrows():
        few, shade = row["n"] == sizes[0], colour(row["calibrator"])
        style = {"color": shade, "mfc": "white" if few and len(sizes) > 1 else shade}
        at = names.index(row["calibrator"]) + (0.16 if few else -0.16)
        whisker(axes, at, row, "minus_mean", style)
    axes.axvline(0, color="#222222", lw=0.8)
    listed(axes, [calibration(name) for name in names])
    axes.set_title(title)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    few, most = (int(n) for n in (sizes[0], sizes[-1]))
    axes.set_xlabel(
        f"CE − mean ablation's (nats), left is better; hollow: {few} windows, filled: {most}"
    )


def bars(axes: Axes, arms: pd.DataFrame, *, paper: float, title: str) -> None:
    """v2's bars: mean ΔCE ± SE over windows with a base loss of 0.1 nat or more, one an arm.

    ``paper``: what its coder costs, as a share of the base loss, times the base loss here.
    """
    arms = arms.iloc[::-1].reset_index(drop=True)
    shades = [colour(source) for source in arms["source"]]
    error = {"lw": 1, "ecolor": "#222222"}
    axes.barh(arms.index, arms["v2_mean"], 0.7, xerr=arms["v2_se"], color=shades, error_kw=error)
    axes.axvline(paper, label="paper: the coder, same share of the base loss", **DASH)
    axes.axvline(0, color="#222222", lw=0.8)
    listed(axes, [label(source) for source in arms["source"]])
    axes.set(xlabel="v2's mean ΔCE ± SE (nats; base loss ≥ 0.1)", title=title)


def ways(axes: Axes, table: pd.DataFrame, *, base: str) -> None:
    """One statistic: each way minus the base, paired, with its 95 % interval; dotted is chance."""
    value = table.set_index("way").loc[base]
    chance = 0.5 if value["statistic"].startswith("AUROC") else value["active"] / value["pairs"]
    shown = table.assign(difference=table[f"minus {base}"])
    for place, (_, row) in enumerate(shown.iterrows()):
        whisker(axes, place, row, "difference", {"color": PALETTE[0], "ms": 4.5})
    axes.axvline(0, color="#222222", lw=0.8)
    axes.axvline(chance - value["value"], color="#666666", lw=0.8, ls=":")
    axes.set_xlabel(f"minus {base}, n = {value['windows']} windows")
    found = f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
    axes.set_title(f"{value['statistic']}\n{base}: {found}, chance {chance:.2f}", fontsize=9)
    _downwards(axes, table["way"].tolist())


def way_costs(axes: Axes, costs: pd.DataFrame) -> None:
    """Seconds of LLM a prediction, on a logarithmic scale."""
    seconds = costs["seconds a prediction"]
    axes.plot(seconds, range(len(costs)), "D", color=PALETTE[0], ms=5)
    for place, value in enumerate(seconds):
        axes.annotate(f"   {value:.2g}", (value, place), va="center", fontsize=7)
    axes.set(xscale="log", xlabel="seconds a prediction")
    axes.set_xlim(seconds.min() / 2, 4 * seconds.max())
    axes.set_title("cost\n(LLM, this machine)", fontsize=9)
    _downwards(axes, costs["way"].tolist())


def _downwards(axes: Axes, ways: Sequence[str]) -> None:
    listed(axes, [WAYS[way] for way in ways])
    axes.set_ylim(len(ways) - 0.5, -0.5)


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
    listed(axes, [f"{label(arm.source)} (n = {arm.windows})" for arm in rows.itertuples()])
    axes.set(xlabel="as good as the model after this share of its training", title=title)
    axes.set_xlim(-0.03, 1.03)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.tick_params(axis="y", labelsize=7)

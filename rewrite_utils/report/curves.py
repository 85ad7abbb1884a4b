"""Figures with a line: against training, rank, share of latents, factor, alarms, layers, windows.

In: one table a panel, an interval in the columns ``…_low`` and ``…_high``. Out: axes drawn on, and
the plotted data where it is not the table itself. The paper's value is thin, dashed, "paper".
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from numpy import ndarray

from rewrite_utils.report import figures
from rewrite_utils.report.figures import MARKERS, PALETTE, band, colour, label
from rewrite_utils.stats import Estimate

PAPER_RANGE = 0.29
"""Nats between the coder as it is and all its latents at zero, at one position (v1, Pythia)."""
PAPER_UNNORMALISED = {0.01: 0.43, 0.1: 2.17, 1.0: 3.37}
"""CE − CE of the coder (nats) by the share of latents simulated, best scores first, not normalised:
means over the authors' own first 100 windows (+0.46, +2.2, +3.4, the coder +0.026)."""
PAPER_ALARMS = {"80 %": 204.6, "99 %": 10.23, "99.9 %": 1.023, "99.99 %": 0.1023}
"""Alarms a true activation at the paper's specificities: (1 − s) · (32,768 − 32) / 32."""
DASH = {"color": "#666666", "lw": 0.8, "ls": "--"}
ORDERS = {
    "top": ("best scores first", "-", "o"),
    "random": ("random order", ":", "s"),
    "useful": ("most useful first", "-.", "^"),
}
"""Name, line style and marker of each order."""
ABLATIONS = ("zero", "mean")
DASHED = {*ABLATIONS, "shuffled explanations"}
SCREENS = {"lexical": PALETTE[2], "embedding": PALETTE[4], "both": PALETTE[0]}
SHOWN_ON_CURVE = ("coder", "mean", "output mean", "token table")
"""Arms drawn on a training curve; the table has all."""
APART = 1.4
"""Doublings between two numbers under a logarithmic axis."""
COST = "CE − CE of mean ablation (nats); lower is better"


def training(axes: Axes, records: pd.DataFrame, *, title: str) -> None:
    """FVU and share of dead latents against training tokens."""
    tokens = records["tokens"] / 1e3
    axes.plot(tokens, records["fvu"], color=colour("coder"), label="FVU")
    axes.plot(tokens, records["dead"], color=PALETTE[3], ls="--", label="dead latents")
    axes.set(xlabel="training tokens (thousands)", ylabel="share", ylim=(-0.02, 1.02), title=title)
    axes.legend()


def firing_rates(axes: Axes, rate: Float[ndarray, " latent"], *, title: str) -> None:
    """How often each latent fires, most frequent first."""
    axes.plot(np.arange(1, len(rate) + 1), np.sort(rate)[::-1], ".", color=colour("coder"), ms=4)
    axes.axhline(rate.mean(), lw=0.8, ls=":", color="#666666", label=f"mean {rate.mean():.3f}")
    axes.set(yscale="log", xlabel="latent, by rank", ylabel="firing rate", title=title)
    axes.legend()


def fractions(
    axes: Axes,
    verdict: pd.DataFrame,
    *,
    described: int,
    title: str,
    sources: Sequence[str] = (),
    orders: Sequence[str] = tuple(ORDERS),
    paper: Mapping[float, float] | None = None,
) -> None:
    """CE over the coder against the share of ``described`` latents replaced (figure 3, A3).

    ``sources`` with the ablations of the same latents in grey, every order a line style; or, with
    none named, all sources in one order. ``paper``: the paper's CE by fraction.
    """
    arms = verdict[(verdict["count"] > 0) & verdict["order"].isin([*orders, "all"])]
    named = [*ABLATIONS, *sources] if sources else arms["source"].unique()
    for source in named:
        own = arms[arms["source"] == source]
        for order in orders:
            arm = own[own["order"].isin([order, "all"])].sort_values("count")
            if order in set(arm["order"]) or (order == orders[0] and len(arm)):
                _fraction(axes, arm, order, described, alone=not sources)
    axes.axhline(0, color=colour("coder"), lw=1, label=label("coder"))
    if paper:
        axes.plot(list(paper), list(paper.values()), marker="x", ms=4, label="paper", **DASH)
    else:
        axes.axhline(PAPER_RANGE, label="paper: all latents at zero", **DASH)
    axes.set(xlabel=f"share of the {described} described latents replaced", title=title)
    axes.set_ylabel("CE − CE of the coder (nats); lower is better")


def _fraction(axes: Axes, arm: pd.DataFrame, order: str, described: int, *, alone: bool) -> None:
    """One source in one order; not ``alone``, the label says which order, and grey is faint."""
    source, x = arm["source"].iloc[0], arm["count"] / described
    name, dash, marker = ORDERS[order]
    whole = alone or arm["order"].iloc[0] == "all"
    style = {"color": colour(source), "label": label(source) + ("" if whole else f", {name}")}
    if alone:
        style |= {"ls": "--" if source in DASHED else "-", "marker": "."}
        band(axes, x, arm, "over_coder", style, alpha=0.08)
        return
    style |= {"ls": dash, "marker": marker, "ms": 3.5}
    if source in ABLATIONS and order != "top":
        axes.plot(x, arm["over_coder"], alpha=0.45, **style)
    else:
        band(axes, x, arm, "over_coder", style, alpha=0.08)


def shrink(axes: Axes, arms: pd.DataFrame, *, title: str) -> None:
    """CE − mean ablation against the factor that a calibration is shrunk by; 0 is the mean."""
    told = arms.dropna(subset=["factor"])
    for place, (name, part) in enumerate(told.groupby("calibrator", sort=False)):
        part = part.sort_values("factor")
        style = {
            "color": colour(name),
            "marker": MARKERS[place],
            "label": figures.calibration(name),
        }
        band(axes, part["factor"], part, "minus_mean", style)
    axes.axhline(0, color="#222222", lw=0.8)
    axes.set(xlabel="factor (0: mean ablation, 1: the calibration itself)", title=title)
    axes.set_ylabel(COST)
    axes.legend(fontsize=7)


def screening(axes: Axes, rows: pd.DataFrame, *, value: str, ylabel: str, title: str) -> None:
    """``value`` by the share of pairs sent to the LLM, one line a screen; at 1 every pair is."""
    told = rows.dropna(subset=["share"])
    for screen, line in told.groupby("screen", sort=False):
        line = line.sort_values("share")
        style = {"color": SCREENS[str(screen)], "marker": "o", "ms": 3, "label": screen}
        band(axes, line["share"], line, value, style)
    if value == "minus_mean":
        axes.axhline(0, color="#222222", lw=0.8)
    axes.set(xscale="log", xlabel="share of pairs sent to the LLM", ylabel=ylabel, title=title)
    shares = sorted(told["share"].unique())
    crowded = [0.5 < share < 1 for share in shares]
    labels = ["" if hide else f"{s:.0%}" for s, hide in zip(shares, crowded, strict=True)]
    axes.set_xticks(shares, labels, fontsize=7)
    axes.minorticks_off()
    axes.legend(title="screened by")


def specificity(
    axes: Axes, arms: pd.DataFrame, even: Mapping[bool, Estimate], *, title: str
) -> None:
    """CE − mean ablation against false alarms, true activations in place; the break-even points,
    by whether the k largest are kept afterwards."""
    told = arms.dropna(subset=["specificity"])
    looks = {False: (colour("coder"), "o", "-"), True: (PALETTE[1], "s", "--")}
    for topk, (shade, marker, dash) in looks.items():
        part = told[told["topk"].astype(bool) == topk].sort_values("alarms")
        if part.empty:
            continue  # a coder without a k
        style = {"color": shade, "marker": marker, "ls": dash}
        style |= {"label": "then the k largest" if topk else "all kept"}
        band(axes, part["alarms"], part, "minus_mean", style)
        found = even[topk]
        if np.isfinite(found.value) and found.value > 0:
            axes.axvline(found.value, color=shade, lw=0.8, ls=dash)
            ends = max(found.low, part["alarms"].min()), min(found.high, part["alarms"].max())
            axes.axvspan(*ends, color=shade, alpha=0.08, lw=0)
    ablation_lines(axes, arms)
    axes.set(xscale="log", title=title, ylabel=COST)
    axes.set_xlabel("false alarms a true activation (ticks above: specificity here)")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0.0, 0.9))
    _alarm_ticks(axes, told)


def _alarm_ticks(axes: Axes, told: pd.DataFrame) -> None:
    """The paper's levels within the axis, and the levels themselves along the top."""
    for name, alarms in PAPER_ALARMS.items():
        if told["alarms"].min() <= alarms <= told["alarms"].max():
            axes.axvline(alarms, color="#666666", lw=0.7, ls=(0, (4, 4)))
            place = {"xy": (alarms, 1), "xycoords": ("data", "axes fraction"), "rotation": 90}
            axes.annotate(f"paper at {name}", **place, va="top", ha="right", fontsize=7)
    levels = told.drop_duplicates("specificity").sort_values("alarms")
    top = axes.secondary_xaxis("top")
    top.set_xticks(levels["alarms"], [f"{level:g}" for level in levels["specificity"]])
    top.minorticks_off()
    top.tick_params(labelsize=6, rotation=60)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def ablation_lines(axes: Axes, arms: pd.DataFrame) -> None:
    """Mean ablation at 0, the coder as it is below, zero ablation where it is."""
    told = arms.drop_duplicates("source").set_index("source")
    axes.axhline(0, color="#222222", lw=0.9, label="mean ablation")
    coder = -told.loc["mean", "over_coder"]
    axes.axhline(coder, color=colour("coder"), lw=0.8, ls=":", label="coder")
    zero = told.loc["zero", "minus_mean"]
    axes.axhline(zero, color=colour("zero"), lw=0.9, ls="--", label="zero")


def estimators(axes: Sequence[Axes], mismatch: pd.DataFrame, *, title: str) -> None:
    """Distance to F_true left, spurious maxima right, against windows; one colour a type."""
    told = mismatch[mismatch["n"] > 0]
    for axis, value in zip(axes, ("wasserstein", "spurious"), strict=True):
        for (target, kind), part in told.groupby(["target", "type"], sort=False):
            mean, place = part.groupby("n")[value].mean(), int(kind) - 1
            whole = target == "all tokens"
            style = {"color": figures.PALETTE[place], "marker": MARKERS[place], "ms": 4}
            style |= {"lw": 1.2} if whole else {"lw": 0.7, "ls": ":", "alpha": 0.7}
            axis.plot(mean.index, mean, label=f"type {kind:g}" if whole else None, **style)
        fires = (told["firings"] / told["n"]).mean()
        axis.set(
            xscale="log", xlabel=f"calibration windows (a latent fires in {fires:.1%} of them)"
        )
    floor = mismatch.loc[mismatch["n"] == 0, "wasserstein"].mean()
    axes[0].axhline(floor, color="#222222", lw=0.9, ls="--", label="F_true itself, other rows")
    axes[0].plot([], [], ":", color="#666666", label="F_true from the same windows")
    axes[0].set(ylabel="Wasserstein-1 / mean activation", title=title)
    latents, draws = int(told["latents"].max()), told["draw"].nunique()
    said = f"oracle of AUROC {told['auroc'].iloc[0]:g}, {latents} latents, mean of {draws} draws"
    axes[1].set(ylabel="spurious maxima a window", title=said)
    axes[1].set_yscale("symlog", linthresh=0.01)
    axes[1].set_ylim(bottom=-0.0005)
    axes[0].legend(fontsize=7, ncols=2)


def checkpoints(axes: Axes, curve: pd.DataFrame, arms: pd.DataFrame, *, title: str) -> None:
    """Cross-entropy against training step, with the losses of a few arms and where they meet it."""
    x, final = np.log2(1 + curve["step"]), curve["step"].max()
    style = {"color": PALETTE[0], "marker": ".", "label": "checkpoints of the subject"}
    band(axes, x, curve, "CE", style, alpha=0.12)
    for _, arm in arms[arms["source"].isin(SHOWN_ON_CURVE)].iterrows():
        shade, ends = colour(arm["source"]), np.array([arm["step_low"], arm["step_high"]], float)
        axes.axhline(arm["CE"], color=shade, lw=0.7, ls=":")
        style = {"color": shade, "lw": 3, "alpha": 0.6, "label": label(arm["source"])}
        axes.plot(np.log2(1 + np.clip(ends, 0, final)), [arm["CE"]] * 2, **style)
    shown: list[int] = []  # the steps that can be written under the axis, the last one among them
    for step in sorted(curve["step"].tolist(), reverse=True):
        if not shown or np.log2((1 + shown[-1]) / (1 + step)) >= APART:
            shown.append(step)
    axes.set_xticks(np.log2(1 + np.array(shown)), [f"{step:,}" for step in shown])
    axes.set(xlabel="training step (log)", ylabel="CE (nats)", title=title)
    axes.legend(fontsize=7, loc="lower left", frameon=True, framealpha=0.9, edgecolor="none")

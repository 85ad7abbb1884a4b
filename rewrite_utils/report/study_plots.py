"""Figures about calibration: before and after, the ρ > ½ condition, estimators, oracle, alarms.

In: tables from the report. Out: axes drawn on; the same colour is the same calibration as in
plots.py. Markers and line styles repeat what colours say.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy import ndarray

from rewrite_utils.report.plots import PALETTE, colour
from rewrite_utils.report.plots import label as full_label
from rewrite_utils.rewrite.arms import before_topk
from rewrite_utils.stats import Estimate

MARKERS = "os^vDPX*<"
PLACES = {
    "evaluate": ("o", 0.0, 1.0),
    "evaluate, top k": ("x", 0.22, 0.55),
    "calibrate, held out": ("D", -0.22, 0.55),
}
"""Marker, offset and strength of each place where a latent-space loss was measured."""
NAMES = {
    "raw": "raw: rating / 9 × maximum",
    "temperature": "digits at a fitted temperature",
    "prior_shift": "digits shifted to the firing rate",
    "quantile:type7": "quantile type 7",
    "same_windows+quantile:type7": "quantile type 7, rated windows (v2)",
    "global_shrink": "quantile type 8, one shrink factor",
    "isotonic_shrunk": "isotonic, rare latents pooled",
    "two_part": "isotonic P(active) × size",
    "isotonic_pooled": "one isotonic curve",
    "logistic_pooled": "one logistic curve",
    "centred+isotonic_pooled": "centred: one isotonic curve",
    "centred+standardised+isotonic_pooled": "levelled: one isotonic curve",
    "centred+standardised+capped+isotonic_pooled": "levelled: one isotonic curve, capped",
    "centred+standardised+logistic_pooled": "levelled: one logistic curve",
}
"""Calibrations in words; levelled = centred per window and standardised per latent."""
PAPER_ALARMS = {"80 %": 204.6, "99 %": 10.23, "99.9 %": 1.023, "99.99 %": 0.1023}
"""Alarms a true activation at the paper's specificities: (1 − s) · (32,768 − 32) / 32."""


def survival(
    axes: Axes, named: Mapping[str, Float[ndarray, "window latent"]], *, title: str
) -> pd.DataFrame:
    """P(activation ≥ a) on a logarithmic scale: the atom at zero and the tail in one picture.

    The activations are estimates before any TopK, and named so.
    """
    tables = []
    for source, values in named.items():
        ordered, name = np.sort(values[values > 0]), before_topk(source)
        share = (len(ordered) - np.arange(len(ordered))) / values.size
        style = {"color": "#222222", "lw": 2.4} if name == "true" else {"color": colour(source)}
        style["ls"] = "-" if name == "true" else "--" if name.startswith("quantile") else "-"
        share_active = len(ordered) / values.size
        named_so = f"{label(name)} ({share_active:.0%} above 0)"
        axes.step(ordered, share, where="pre", label=named_so, **style)
        tables.append(pd.DataFrame({"source": name, "activation": ordered, "share": share}))
    axes.set(xscale="symlog", yscale="log", xlabel="activation", title=title)
    axes.set_ylabel("share of (window, latent) at or above")
    axes.set_ylim(top=1.4)
    axes.legend(fontsize=7, loc="lower left")
    return pd.concat(tables, ignore_index=True)


def before_after(
    axes: Sequence[Axes],
    shown: Mapping[str, Float[ndarray, "window latent"]],
    *,
    before: str,
    title: str,
) -> pd.DataFrame:
    """The ratings as they are (``before``) left, all calibrations right (figure 1)."""
    first = {name: shown[name] for name in ("true", before)}
    after = {name: values for name, values in shown.items() if name != before}
    left = survival(axes[0], first, title=f"{title}: before")
    right = survival(axes[1], after, title=f"{title}: after")
    return pd.concat([left[left["source"] == before_topk(before)], right], ignore_index=True)


def condition(axes: Axes, latents: pd.DataFrame, *, title: str) -> None:
    """A latent's loss after matching against its ρ: 2(1 − ρ) crosses mean ablation's 1 at ½.

    A latent without ρ has no place; the legend counts it.
    """
    line = np.linspace(-0.3, 1, 50)
    axes.plot(line, 2 * (1 - line), color="#222222", lw=1, label="2 (1 − ρ)")
    axes.axhline(1, color="#666666", lw=0.8, ls="--", label="mean ablation")
    axes.axvline(0.5, color="#666666", lw=0.8, ls=":")
    for place, (what, part) in enumerate(latents.groupby("what", sort=False)):
        shade = colour("quantile:type8") if what == "simulator" else PALETTE[place % 4]
        face = "none" if what == "simulator" else shade
        placed = int(part["rho"].notna().sum())
        of = "" if placed == len(part) else f" of {len(part)}"
        n = f"{placed}{of} latents, {part['windows'].iloc[0]} windows"
        style = {"marker": MARKERS[place], "facecolors": face, "edgecolors": shade, "s": 22}
        axes.scatter(part["rho"], part["loss"].clip(upper=20), label=f"{what} ({n})", **style)
    left = min(-0.35, latents["rho"].min() - 0.05)  # -0.35 where no latent has ρ: NaN is not less
    axes.set(yscale="log", xlim=(left, 1), title=title)
    axes.set(xlabel="ρ of matched and true activations", ylabel="squared error / mean ablation's")
    axes.legend(fontsize=7, loc="lower left")


def loss_forest(axes: Axes, losses: pd.DataFrame, *, title: str) -> None:
    """One line a calibration, one mark a place: difference to mean ablation with its interval."""
    names = list(dict.fromkeys(losses["source"]))[::-1]
    for where, (marker, offset, alpha) in PLACES.items():
        part = losses[losses["where"] == where].set_index("source")
        for place, name in enumerate(names):
            if name in part.index:
                row, y = part.loc[name], place + offset
                ends = [row["difference_low"], row["difference_high"]]
                axes.plot(ends, [y, y], color=colour(name), lw=1.6, alpha=alpha)
                axes.plot(row["difference"], y, marker, color=colour(name), ms=4.5, alpha=alpha)
        n = int(part["windows"].max())
        axes.plot([], [], marker, color="#222222", alpha=alpha, label=f"{where} (n = {n} windows)")
    axes.axvline(0, color="#222222", lw=0.8)
    axes.set_xscale("symlog", linthresh=0.3, linscale=1.2)
    axes.set(yticks=range(len(names)), yticklabels=[label(name) for name in names], title=title)
    axes.set_xlabel("squared error − mean ablation's (mean ablation's = 1; linear below 0.3)")
    axes.set_xticks([-1, -0.3, -0.1, 0, 0.1, 0.3, 1, 3, 10])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=7, loc="upper left")


def estimators(axes: Sequence[Axes], mismatch: pd.DataFrame, *, title: str) -> None:
    """Wasserstein distance and spurious maxima of the nine estimators against n."""
    told = mismatch[mismatch["n"] > 0]
    for axis, value in zip(axes, ("wasserstein", "spurious"), strict=True):
        for (target, kind), part in told.groupby(["target", "type"], sort=False):
            mean = part.groupby("n")[value].mean()
            whole = target == "all tokens"
            place = int(kind) - 1
            style = {"color": PALETTE[place], "marker": MARKERS[place], "ms": 4}
            style |= {"lw": 1.2, "ls": "-"} if whole else {"lw": 0.7, "ls": ":", "alpha": 0.7}
            axis.plot(mean.index, mean, label=f"type {kind:g}" if whole else None, **style)
        axis.set(xscale="log", xlabel=f"calibration windows ({_firings(told)})")
    floor = mismatch.loc[mismatch["n"] == 0, "wasserstein"].mean()
    axes[0].axhline(floor, color="#222222", lw=0.9, ls="--", label="F_true itself, other rows")
    axes[0].plot([], [], ":", color="#666666", label="F_true from the same windows")
    axes[0].set(ylabel="Wasserstein-1 / mean activation", title=title)
    axes[1].set(ylabel="spurious maxima a window", title=_told(told))
    axes[1].set_yscale("symlog", linthresh=0.01)
    axes[1].set_ylim(bottom=-0.0005)
    axes[0].legend(fontsize=7, ncols=2)


def oracle(axes: Axes, arms: pd.DataFrame, *, title: str) -> None:
    """CE − mean ablation of every calibration, few windows (hollow) and many (filled), by AUROC."""
    told = arms.dropna(subset=["auroc"])
    aurocs, names = sorted(told["auroc"].unique()), list(dict.fromkeys(told["calibrator"]))
    sizes = sorted(told["n"].unique())
    width = 0.8 / (len(names) * len(sizes))
    for row in told.itertuples():
        slot = names.index(row.calibrator) * len(sizes) + sizes.index(row.n)
        x = aurocs.index(row.auroc) - 0.4 + (slot + 0.5) * width
        shade, many = colour(row.calibrator), row.n == sizes[-1]
        axes.plot([x, x], [row.minus_mean_low, row.minus_mean_high], color=shade, lw=1.4)
        marker = MARKERS[names.index(row.calibrator)]
        axes.plot(x, row.minus_mean, marker, color=shade, mfc=shade if many else "white", ms=5)
    for name in names:
        style = {"color": colour(name), "marker": MARKERS[names.index(name)]}
        axes.plot([], [], label=label(name), **style)
    hollow, filled = (f"{int(n):,}" for n in (sizes[0], sizes[-1]))
    axes.plot([], [], " ", label=f"hollow: {hollow} windows, filled: {filled}")
    _ablation_lines(axes, arms)
    axes.set(xticks=range(len(aurocs)), xticklabels=[f"{a:g}" for a in aurocs], title=title)
    axes.set(xlabel="AUROC of the corrupted oracle (not the simulator)")
    axes.set_ylabel("CE − CE of mean ablation (nats)")


def fewer(axes: Axes, arms: pd.DataFrame, *, title: str) -> None:
    """CE − mean ablation of the simulator's ratings, few (hollow) and all windows (figure A2)."""
    told = arms.dropna(subset=["n"])
    names, sizes = list(dict.fromkeys(told["calibrator"]))[::-1], sorted(told["n"].unique())
    for row in told.itertuples():
        y = names.index(row.calibrator) + (0.16 if row.n == sizes[0] else -0.16)
        shade, many = colour(row.calibrator), row.n == sizes[-1]
        axes.plot([row.minus_mean_low, row.minus_mean_high], [y, y], color=shade, lw=1.6)
        axes.plot(row.minus_mean, y, "o", color=shade, mfc=shade if many else "white", ms=5)
    axes.axvline(0, color="#222222", lw=0.8)
    axes.set(yticks=range(len(names)), yticklabels=[label(n) for n in names], title=title)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    few, most = (int(n) for n in (sizes[0], sizes[-1]))
    axes.set_xlabel(f"CE − mean ablation's (nats); hollow: {few} windows, filled: {most}")


def shrink(axes: Axes, arms: pd.DataFrame, *, title: str) -> None:
    """CE − mean ablation against the factor that a calibration is shrunk by; 0 is the mean."""
    told = arms.dropna(subset=["factor"])
    for place, (name, part) in enumerate(told.groupby("calibrator", sort=False)):
        part, shade = part.sort_values("factor"), colour(name)
        axes.plot(part["factor"], part["minus_mean"], color=shade, marker=MARKERS[place])
        axes.plot([], [], color=shade, marker=MARKERS[place], label=label(name))
        ends = part["minus_mean_low"], part["minus_mean_high"]
        axes.fill_between(part["factor"], *ends, color=shade, alpha=0.15, lw=0)
    axes.axhline(0, color="#222222", lw=0.8)
    axes.set(xlabel="factor (0: mean ablation, 1: the calibration itself)", title=title)
    axes.set_ylabel("CE − CE of mean ablation (nats)")
    axes.legend(fontsize=7)


def specificity(
    axes: Axes, arms: pd.DataFrame, even: Mapping[bool, Estimate], *, title: str
) -> None:
    """CE − mean ablation against false alarms, true activations in place; the break-even points."""
    told = arms.dropna(subset=["specificity"])
    looks = {False: (colour("coder"), "o", "-"), True: (PALETTE[1], "s", "--")}
    for topk, (shade, marker, style) in looks.items():
        part = told[told["topk"].astype(bool) == topk].sort_values("alarms")
        name = "then the k largest" if topk else "all kept"
        axes.plot(part["alarms"], part["minus_mean"], style, marker=marker, color=shade, label=name)
        ends = part["minus_mean_low"], part["minus_mean_high"]
        axes.fill_between(part["alarms"], *ends, color=shade, alpha=0.15, lw=0)
        if np.isfinite(even[topk].value) and even[topk].value > 0:
            axes.axvline(even[topk].value, color=shade, lw=0.8, ls=style)
            axes.axvspan(*_clipped(even[topk], part["alarms"]), color=shade, alpha=0.08, lw=0)
    _ablation_lines(axes, arms)
    for name, alarms in PAPER_ALARMS.items():
        if told["alarms"].min() <= alarms <= told["alarms"].max():
            axes.axvline(alarms, color="#666666", lw=0.7, ls=(0, (4, 4)))
            place = {"xy": (alarms, 1), "xycoords": ("data", "axes fraction"), "rotation": 90}
            axes.annotate(f"paper at {name}", **place, va="top", ha="right", fontsize=7)
    axes.set(xscale="log", title=title, ylabel="CE − CE of mean ablation (nats)")
    axes.set_xlabel("false alarms a true activation (ticks above: specificity here)")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0.0, 0.9))
    _specificity_ticks(axes, told)


def _specificity_ticks(axes: Axes, told: pd.DataFrame) -> None:
    """The levels themselves along the top."""
    levels = told.drop_duplicates("specificity").sort_values("alarms")
    top = axes.secondary_xaxis("top")
    top.set_xticks(levels["alarms"], [f"{level:g}" for level in levels["specificity"]])
    top.minorticks_off()
    top.tick_params(labelsize=6, rotation=60)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _ablation_lines(axes: Axes, arms: pd.DataFrame) -> None:
    """Mean ablation at 0, the coder as it is below, zero ablation where it is."""
    rows = arms[arms["source"] == "zero"]
    mean = arms[arms["source"] == "mean"]
    axes.axhline(0, color="#222222", lw=0.9, label="mean ablation")
    axes.axhline(-mean["over_coder"].iloc[0], color=colour("coder"), lw=0.8, ls=":", label="coder")
    axes.axhline(rows["minus_mean"].iloc[0], color=colour("zero"), lw=0.9, ls="--", label="zero")


def label(source: str) -> str:
    """The calibration's name alone: an oracle has no sentences."""
    return NAMES.get(source, full_label(source).removeprefix("sentences, "))


def _clipped(even: Estimate, alarms: pd.Series) -> tuple[float, float]:
    return max(even.low, alarms.min()), min(even.high, alarms.max())


def _firings(told: pd.DataFrame) -> str:
    a_window = (told["firings"] / told["n"]).mean()
    return f"a latent fires in {a_window:.1%} of them"


def _told(told: pd.DataFrame) -> str:
    latents, draws = int(told["latents"].max()), told["draw"].nunique()
    auroc = told["auroc"].iloc[0]
    return f"oracle of AUROC {auroc:g}, {latents} latents, mean of {draws} draws"

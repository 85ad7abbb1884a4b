"""Figures of how things spread: over latents, over (window, latent) pairs, and one against another.

In: one row a latent, or arrays of pairs. Out: axes drawn on, and the plotted data where it is not
the table itself. Paper: figures 1 and 4, §4, appendix A.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator
from numpy import ndarray

from rewrite_utils import stats
from rewrite_utils.report.curves import DASH
from rewrite_utils.report.figures import MARKERS, PALETTE, calibration, colour, label
from rewrite_utils.rewrite.arms import before_topk

PAPER_SPECIFICITY = 0.8
"""Mean specificity before normalisation (v1, figure 4)."""
LEAST = 8
"""Latents in a bin of figure 4 at least: with fewer, a mean says nothing."""
TICKS = [0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
"""Activations that are marked."""
SHADES = [PALETTE[place] for place in (0, 1, 2, 4, 5, 8)]


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
        style["ls"] = "--" if name.startswith("quantile") else "-"
        said = f"{calibration(name)} ({len(ordered) / values.size:.0%} above 0)"
        axes.step(ordered, share, where="pre", label=said, **style)
        tables.append(pd.DataFrame({"source": name, "activation": ordered, "share": share}))
    axes.set(xscale="symlog", yscale="log", xlabel="activation", title=title)
    axes.set_ylabel("share of (window, latent) at or above")
    axes.set_ylim(top=1.4)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))  # powers of ten alone may be a single one
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16))
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


def ratings(
    axes: Axes,
    expected: Float[ndarray, "window latent"],
    true: Float[ndarray, "window latent"],
    *,
    title: str,
) -> pd.DataFrame:
    """Densities of E where the latent fires and where it is silent."""
    bins, tables = np.linspace(0, 9, 37), []
    for name, which, shade in (("silent", true == 0, PALETTE[7]), ("fires", true > 0, PALETTE[1])):
        rated = expected[which].astype(np.float64)
        rated = rated[~np.isnan(rated)]  # pairs that screening left out
        if len(rated):
            density, _ = np.histogram(rated, bins, density=True)
            said = f"{name} (n = {len(rated)})"
            axes.stairs(density, bins, fill=True, alpha=0.5, color=shade, label=said)
            tables.append(pd.DataFrame({"latent": name, "rating": bins[:-1], "density": density}))
    axes.set(xlabel="rating E (0–9)", ylabel="density", title=title)
    axes.legend()
    return pd.concat(tables, ignore_index=True)


def scores(axes: Axes, table: pd.DataFrame, *, title: str) -> None:
    """Histograms of F1 and AUROC over latents, with what chance gives."""
    bins, kept = np.linspace(0, 1, 11), table.dropna()
    axes.hist([kept["f1"], kept["auroc"]], bins=bins, label=["F1", "AUROC"], color=PALETTE[:2])
    axes.axvline(0.5, ls=":", lw=0.8, color="#666666", label="AUROC of chance")
    axes.set(xlabel="detection score", ylabel="latents", title=title)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)


def floors(axes: Axes, table: pd.DataFrame, *, title: str) -> None:
    """Share of latents below each AUROC, one line a test; floors grey, dashed and dotted."""
    shades, dashes = iter(SHADES * 2), itertools.cycle(("--", ":", "-."))
    for test, part in table.groupby("test", sort=False):
        values = np.sort(part["auroc"].dropna().to_numpy())
        if len(values):
            share, floor = np.arange(1, len(values) + 1) / len(values), "floor" in str(test)
            style = {"ls": next(dashes) if floor else "-"}
            style |= {"color": "#666666" if floor else next(shades)}
            told = f"{test}: mean {values.mean():.2f}, n = {len(values)}"
            axes.step(values, share, where="post", label=told, **style)
    axes.axvline(0.5, ls=":", lw=0.8, color="#666666")
    axes.set(xlabel="AUROC of the sentence", ylabel="share of latents at or below", title=title)
    axes.set(xlim=(-0.02, 1.02), ylim=(0, 1.02))
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def near_copies(axes: Axes, traits: pd.DataFrame, *, alike: float, title: str) -> None:
    """How close each sentence's nearest other one is; right of the line they say the same."""
    values = traits["nearest cosine"].dropna()
    axes.hist(values, bins=np.linspace(0, 1.0001, 21), color=PALETTE[0])
    axes.axvline(alike, ls="--", lw=0.8, color="#222222", label=f"{alike}: the same")
    axes.set(xlabel="cosine with the nearest other sentence", ylabel="latents", title=title)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))


def over_general(axes: Axes, traits: pd.DataFrame, *, title: str) -> None:
    """Sensitivity against specificity on random windows, by the number of words."""
    shift = np.random.default_rng(0).uniform(-0.015, 0.015, (2, len(traits)))
    x, y = traits["specificity"] + shift[0], traits["sensitivity"] + shift[1]
    drawn = axes.scatter(x, y, c=traits["words"], s=14, cmap="viridis")
    axes.plot([0, 1], [1, 0], ":", lw=0.8, color="#666666", label="knows nothing")
    axes.set(xlabel="specificity on random windows", ylabel="sensitivity", title=title)
    axes.legend()
    axes.figure.colorbar(drawn, ax=axes, label="words")


def condition(axes: Axes, latents: pd.DataFrame, *, title: str) -> None:
    """A latent's loss after matching against its ρ: 2(1 − ρ) crosses mean ablation's 1 at ½.

    A latent without ρ has no place; the legend counts it.
    """
    line = np.linspace(-0.3, 1, 50)
    axes.plot(line, 2 * (1 - line), color="#222222", lw=1, label="2 (1 − ρ)")
    axes.axhline(1, color="#666666", lw=0.8, ls="--", label="mean ablation")
    axes.axvline(0.5, color="#666666", lw=0.8, ls=":")
    for place, (what, part) in enumerate(latents.groupby("what", sort=False)):
        own, placed = what == "simulator", int(part["rho"].notna().sum())
        shade = colour("quantile:type8") if own else PALETTE[place % 4]
        of = "" if placed == len(part) else f" of {len(part)}"
        n = f"{placed}{of} latents, {part['windows'].iloc[0]} windows"
        style = {"marker": MARKERS[place], "facecolors": "none" if own else shade, "s": 22}
        style |= {"edgecolors": shade, "label": f"{what} ({n})"}
        axes.scatter(part["rho"], part["loss"].clip(upper=20), **style)
    left = min(-0.35, latents["rho"].min() - 0.05)  # -0.35 where no latent has ρ: NaN is not less
    axes.set(yscale="log", xlim=(left, 1), title=title)
    axes.set(xlabel="ρ of matched and true activations", ylabel="squared error / mean ablation's")
    axes.legend(fontsize=7, loc="lower left", frameon=True, framealpha=0.9, edgecolor="none")


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
        told, bins = rates.dropna(subset=["score", rate]), 0
        for source, part in told.groupby("source", sort=False):
            table = binned(part["score"].to_numpy(), part[rate].to_numpy(), seed=seed, most=most)
            shade, name = colour(str(source)), label(str(source)).removesuffix(", top k")
            axis.plot(table["score"], table["value"], "o-", color=shade, ms=4, label=name)
            axis.vlines(table["score"], table["low"], table["high"], color=shade, lw=1, alpha=0.5)
            plain, bins = before_topk(str(source)), max(bins, len(table))
            tables.append(table.assign(source=plain, rate=rate, score_of=named))
        note = f"{told['latent'].nunique()} latents"
        note += "" if bins > 1 else ", too few for bins: one mean"
        axis.set(title=f"{title}\n{rate}: {note}", xlabel=named, ylabel=rate, ylim=(-0.03, 1.03))
        if bins == 1:
            axis.set_xlim(told["score"].min() - 0.05, told["score"].max() + 0.05)
    axes[0].axhline(PAPER_SPECIFICITY, label="paper: specificity before ≈ 80 %", **DASH)
    return pd.concat(tables, ignore_index=True)


def binned(
    score: Float[ndarray, " latent"], rate: Float[ndarray, " latent"], *, seed: int, most: int = 10
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

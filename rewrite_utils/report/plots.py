"""Figures: one colour an arm in the whole series, the plotted data beside every picture.

In: tables from the stages. Out: matplotlib figures, and figures/NN_what.{png,pdf,csv,json}. A
figure too small to see its effect says so in its title line; the paper's value is a thin dashed
line.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray

from rewrite_utils.params import ROOT
from rewrite_utils.runs.run import Run

PALETTE = sns.color_palette("colorblind", 10).as_hex()
COLOURS: dict[str, str] = {
    "untouched": "#000000",
    "coder": "#222222",
    "zero": "#999999",
    "mean": "#666666",
    "output zero": "#bbbbbb",
    "output mean": "#bbbbbb",
    "token table": PALETTE[2],
    "word list": PALETTE[8],
    "shuffled explanations": PALETTE[6],
    "raw+topk": PALETTE[3],
    "raw": PALETTE[3],
    "quantile:type7+topk": PALETTE[1],
    "quantile:type7": PALETTE[1],
    "same_windows+quantile:type7+topk": "#b35806",
    "quantile:type8": PALETTE[5],
    "isotonic": PALETTE[9],
    "centred+standardised+isotonic_pooled": PALETTE[0],
    "centred+standardised+capped+isotonic_pooled": "#08306b",
    "centred+standardised+logistic_pooled": "#6a3d9a",
}
LABELS: dict[str, str] = {
    "untouched": "the model itself",
    "coder": "coder as it is",
    "zero": "latents at zero (v1's ablation)",
    "mean": "latents at their mean (v2's ablation)",
    "output zero": "whole output at zero",
    "output mean": "whole output at its mean",
    "token table": "token table (no LLM)",
    "word list": "word list (no LLM)",
    "raw+topk": "sentences, raw ratings, top k",
    "quantile:type7+topk": "sentences, quantile type 7, top k",
    "same_windows+quantile:type7+topk": "sentences, quantile type 7, rated windows (v2), top k",
    "quantile:type8": "sentences, quantile type 8",
    "isotonic": "sentences, isotonic a latent",
    "centred+standardised+isotonic_pooled": "sentences, pooled conditional mean",
    "centred+standardised+capped+isotonic_pooled": "sentences, pooled conditional mean, capped",
    "centred+standardised+logistic_pooled": "sentences, pooled logistic",
    "shuffled explanations": "sentences of other latents (floor)",
}
FAITHFUL = "nothing held out: explained, scored, calibrated and evaluated on the same rows"
"""Stands over every figure of a run with corpus.faithful."""
DASHED = {"zero", "mean", "shuffled explanations"}
STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "pdf.fonttype": 42,
}


def use_style() -> None:
    """The look of all figures; once at the head of a notebook."""
    plt.rcParams.update(STYLE)


def colour(source: str) -> str:
    """The arm's colour everywhere."""
    return COLOURS.get(source, PALETTE[4])


def label(source: str) -> str:
    """The arm's name in legends."""
    return LABELS.get(source, source)


def panels(
    count: int, *, columns: int = 2, width: float = 4.6, height: float = 3.4
) -> tuple[Figure, list[Axes]]:
    """``count`` axes, ``columns`` in a row; the last row may be shorter."""
    rows = -(-count // columns)
    size = (width * min(count, columns), height * rows)
    figure, axes = plt.subplots(
        rows, min(count, columns), figsize=size, squeeze=False, layout="constrained"
    )
    for spare in axes.flat[count:]:
        spare.remove()
    return figure, list(axes.flat[:count])


def save_figure(
    run: Run, name: str, figure: Figure, data: pd.DataFrame, *, unit: str, n: int
) -> Path:
    """Write <figures>/<name>.png, .pdf, .csv and .json (run, unit, n, seed); return the picture.

    Of a faithful corpus the figure and its .json say that nothing was held out.
    """
    folder = ROOT / run.params.figures
    folder.mkdir(parents=True, exist_ok=True)
    held_out = not run.params.corpus.faithful
    if not held_out:
        figure.suptitle(FAITHFUL, fontsize=8)
    figure.savefig(folder / f"{name}.png", metadata={"Software": None})
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
    data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    about = {"run": run.params.name, "n": n, "unit": unit, "seed": run.params.seed}
    about |= {} if held_out else {"held_out": False}
    about |= {"stages": {event["stage"]: event["hash"] for event in run.journal}}
    (folder / f"{name}.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
    return folder / f"{name}.png"


def training_curve(axes: Axes, records: pd.DataFrame, *, title: str) -> None:
    """FVU and share of dead latents against training tokens."""
    axes.plot(records["tokens"] / 1e3, records["fvu"], color=colour("coder"), label="FVU")
    axes.plot(
        records["tokens"] / 1e3, records["dead"], color=PALETTE[3], ls="--", label="dead latents"
    )
    axes.set(xlabel="training tokens (thousands)", ylabel="share", ylim=(-0.02, 1.02), title=title)
    axes.legend()


def firing_rates(axes: Axes, rate: Float[ndarray, " latent"], *, title: str) -> None:
    """How often each latent fires, most frequent first."""
    axes.plot(np.arange(1, len(rate) + 1), np.sort(rate)[::-1], ".", color=colour("coder"), ms=4)
    axes.axhline(rate.mean(), lw=0.8, ls=":", color="#666666", label=f"mean {rate.mean():.3f}")
    axes.set(yscale="log", xlabel="latent, by rank", ylabel="firing rate", title=title)
    axes.legend()


def score_distribution(axes: Axes, scores: pd.DataFrame, *, title: str) -> None:
    """Histograms of F1 and AUROC over latents, with what chance gives."""
    bins = np.linspace(0, 1, 11)
    kept = scores.dropna()
    axes.hist([kept["f1"], kept["auroc"]], bins=bins, label=["F1", "AUROC"], color=PALETTE[:2])
    axes.axvline(0.5, ls=":", lw=0.8, color="#666666", label="AUROC of chance")
    axes.set(xlabel="detection score", ylabel="latents", title=title)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)


def distributions(
    axes: Axes, named: Mapping[str, Float[ndarray, "window latent"]], *, title: str
) -> pd.DataFrame:
    """Survival functions P(activation > a): the atom at zero and the tail in one picture (fig.
    1)."""
    tables = []
    for name, values in named.items():
        ordered = np.sort(values.ravel())
        share = 1 - np.arange(1, len(ordered) + 1) / len(ordered)
        keep = np.unique(np.linspace(0, len(ordered) - 1, 400).astype(int))
        style = {"color": "#222222", "lw": 2} if name == "true" else {"color": colour(name)}
        axes.step(ordered[keep], share[keep], label=label(name), where="post", **style)
        tables.append(
            pd.DataFrame({"source": name, "activation": ordered[keep], "share": share[keep]})
        )
    axes.set(xlabel="activation", ylabel="share of (window, latent) above", title=title)
    axes.legend(fontsize=7)
    return pd.concat(tables, ignore_index=True)


PAPER_RANGE = 0.29
"""Nats between the coder as it is and all its latents at zero, at one position (v1, Pythia)."""


def fraction_curves(
    axes: Axes, verdict: pd.DataFrame, *, order: str, described: int, title: str
) -> None:
    """What every source costs over the coder, against the share of latents replaced (figure 3)."""
    arms = verdict[(verdict["count"] > 0) & verdict["order"].isin([order, "all"])]
    for source, arm in arms.groupby("source", sort=False):
        arm = arm.sort_values("count")
        x, style = arm["count"] / described, "--" if source in DASHED else "-"
        shade = colour(source)
        axes.plot(x, arm["over_coder"], style, marker=".", color=shade, label=label(source))
        axes.fill_between(
            x, arm["over_coder_low"], arm["over_coder_high"], color=shade, alpha=0.08, lw=0
        )
    axes.axhline(0, color=colour("coder"), lw=1, label=label("coder"))
    axes.axhline(
        PAPER_RANGE, color="#666666", lw=0.7, ls="--", label="paper: all latents at zero, Pythia"
    )
    axes.set(
        xlabel=f"share of the {described} described latents replaced",
        ylabel="CE − CE of the coder (nats)",
        title=title,
    )


def shared_legend(figure: Figure, *, columns: int = 3) -> None:
    """One legend below all panels."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def rating_histogram(
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
            axes.stairs(
                density, bins, fill=True, alpha=0.5, color=shade, label=f"{name} (n = {len(rated)})"
            )
            tables.append(pd.DataFrame({"latent": name, "rating": bins[:-1], "density": density}))
    axes.set(xlabel="rating E (0–9)", ylabel="density", title=title)
    axes.legend()
    return pd.concat(tables, ignore_index=True)


def pipeline() -> Figure:
    """The experiment as a drawing (figure 2): what each stage reads and who does it."""
    steps = [
        ("MLP", "of the subject"),
        ("coder", "top-k latents"),
        ("explainer", "one sentence\na latent"),
        ("simulator", "sentence + text\n→ rating 0–9"),
        ("calibration", "rating\n→ activation"),
        ("decoder", "back into\nthe model"),
    ]
    figure, axes = plt.subplots(figsize=(11, 1.9), layout="constrained")
    for place, (name, what) in enumerate(steps):
        shade = PALETTE[0] if name in ("explainer", "simulator") else "#555555"
        box = {"boxstyle": "round,pad=0.5", "fc": "white", "ec": shade, "lw": 1.6}
        axes.text(2 * place, 0.55, name, ha="center", va="center", fontsize=11, bbox=box)
        axes.text(2 * place, -0.45, what, ha="center", va="center", fontsize=8.5, color="#444444")
        if place:
            arrow = {"arrowstyle": "->", "color": "#555555", "lw": 1.4}
            axes.annotate("", (2 * place - 0.68, 0.55), (2 * place - 1.32, 0.55), arrowprops=arrow)
    axes.set(xlim=(-1, 11), ylim=(-1, 1.2))
    axes.axis("off")
    return figure


def forest(axes: Axes, rows: pd.DataFrame, *, value: str, xlabel: str, title: str) -> None:
    """One line an arm: the paired difference with its interval, zero marked."""
    rows = rows.iloc[::-1].reset_index(drop=True)
    for place, row in rows.iterrows():
        ends = [row[f"{value}_low"], row[f"{value}_high"]]
        axes.plot(ends, [place, place], color=colour(row["source"]), lw=2)
        axes.plot(row[value], place, "o", color=colour(row["source"]), ms=5)
    axes.axvline(0, color="#222222", lw=0.8)
    axes.set(yticks=range(len(rows)), yticklabels=[label(s) for s in rows["source"]])
    axes.set(xlabel=xlabel, title=title)

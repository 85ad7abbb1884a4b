"""What all figures share: one colour an arm, panels, the marks of an interval, and how one is kept.

In: plain tables, drawn on by curves.py, forests.py and spreads.py. Out: the figure in the notebook,
and <figures>/NN_what.{png,pdf,csv,json}: picture, plotted data, and what both were made from.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image as Picture

from rewrite_utils.params import ROOT, Params

PALETTE = sns.color_palette("colorblind", 10).as_hex()
ARMS = {
    "untouched": ("#000000", "the model itself"),
    "coder": ("#222222", "coder as it is"),
    "zero": ("#999999", "latents at zero (v1's ablation)"),
    "mean": ("#666666", "latents at their mean (v2's ablation)"),
    "output zero": ("#bbbbbb", "whole output at zero"),
    "output mean": ("#bbbbbb", "whole output at its mean"),
    "token table": (PALETTE[2], "token table (no LLM)"),
    "word list": (PALETTE[8], "word list (no LLM)"),
    "raw+topk": (PALETTE[3], "sentences, raw ratings, top k"),
    "raw": (PALETTE[3], "raw"),
    "quantile:type7+topk": (PALETTE[1], "sentences, quantile type 7, top k"),
    "quantile:type7": (PALETTE[1], "quantile:type7"),
    "same_windows+quantile:type7+topk": (
        "#b35806", "sentences, quantile type 7, rated windows (v2), top k",
    ),
    "quantile:type8": (PALETTE[5], "sentences, quantile type 8"),
    "isotonic": (PALETTE[9], "sentences, isotonic a latent"),
    "centred+standardised+isotonic_pooled": (PALETTE[0], "sentences, pooled conditional mean"),
    "centred+standardised+capped+isotonic_pooled": (
        "#08306b", "sentences, pooled conditional mean, capped",
    ),
    "centred+standardised+logistic_pooled": ("#6a3d9a", "sentences, pooled logistic"),
    "shuffled explanations": (PALETTE[6], "sentences of other latents (floor)"),
    "shuffled explanations, real curve": ("#8c2d04", "the same, believed: real curve"),
}  # fmt: skip
"""Colour and name of each arm, the same in the whole series."""
CALIBRATIONS = {
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
MARKERS = "os^vDPX*<"
"""Markers repeat what colours say."""
FAITHFUL = "nothing held out: explained, scored, calibrated and evaluated on the same rows"
"""Stands over every figure of a run with corpus.faithful."""
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
PAGE_DPI, PAGE_COLOURS = 90, 256
"""Of the picture in the notebook, which stays small; the files keep the style's dpi."""
T = TypeVar("T")


@dataclass(frozen=True)
class Provenance:
    """What a kept figure says of where it comes from."""

    run: str
    """Name of the run."""
    seed: int
    """Its seed."""
    folder: Path
    """Where its figures are kept."""
    held_out: bool
    """False where everything was done on the same rows (corpus.faithful)."""
    stages: Mapping[str, str]
    """Hash of every stage used so far, by name."""

    @classmethod
    def of(cls, params: Params, stages: Mapping[str, str]) -> "Provenance":
        """From a run's parameters and ``run.opened``, which grows as stages are used."""
        folder, held_out = ROOT / params.figures, not params.corpus.faithful
        return cls(params.name, params.seed, folder, held_out, stages)


def use_style() -> None:
    """The look of all figures; once at the head of a notebook."""
    plt.rcParams.update(STYLE)


def colour(source: str) -> str:
    """The arm's colour everywhere."""
    return ARMS[source][0] if source in ARMS else PALETTE[4]


def label(source: str) -> str:
    """The arm's name in legends."""
    return ARMS[source][1] if source in ARMS else source


def calibration(source: str) -> str:
    """The calibration's name alone: an oracle has no sentences."""
    return CALIBRATIONS.get(source, label(source).removeprefix("sentences, "))


def panels(
    count: int, *, columns: int = 2, width: float = 4.6, height: float = 3.4
) -> tuple[Figure, list[Axes]]:
    """``count`` axes, ``columns`` in a row; the last row may be shorter."""
    across, rows = min(count, columns), -(-count // columns)
    size = (width * across, height * rows)
    figure, axes = plt.subplots(rows, across, figsize=size, squeeze=False, layout="constrained")
    for spare in axes.flat[count:]:
        spare.remove()
    return figure, list(axes.flat[:count])


def places(
    parts: Mapping[str, T],
    *,
    each: int = 1,
    columns: int = 2,
    width: float = 4.6,
    height: float = 3.4,
) -> tuple[Figure, list[tuple[list[Axes], str, T]]]:
    """A figure with ``each`` panels a part, and (its axes, name, part) for every part."""
    figure, axes = panels(each * len(parts), columns=columns, width=width, height=height)
    told = [(axes[each * i : each * (i + 1)], name, parts[name]) for i, name in enumerate(parts)]
    return figure, told


def shared_legend(figure: Figure, *, columns: int = 3) -> None:
    """One legend below all panels."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def band(
    axes: Axes,
    x: Sequence[float] | pd.Series,
    table: pd.DataFrame,
    value: str,
    style: Mapping[str, object],
    *,
    alpha: float = 0.15,
) -> None:
    """A line of ``value`` with its 95 % interval, columns ``…_low`` and ``…_high``, as a band."""
    axes.plot(x, table[value], **style)
    ends = table[f"{value}_low"], table[f"{value}_high"]
    axes.fill_between(x, *ends, color=style["color"], alpha=alpha, lw=0)


def whisker(
    axes: Axes, at: float | int, row: pd.Series, value: str, style: Mapping[str, object]
) -> None:
    """A mark at height ``at`` for ``value``, and a line from its ``…_low`` to its ``…_high``."""
    line = {"lw": 1.6} | {key: style[key] for key in ("color", "alpha", "lw") if key in style}
    axes.plot([row[f"{value}_low"], row[f"{value}_high"]], [at, at], **line)
    axes.plot(row[value], at, **({"marker": "o", "ms": 5, "ls": ""} | style))


def listed(axes: Axes, names: Sequence[str]) -> None:
    """Names along the vertical axis, at 0, 1, 2, …"""
    axes.set(yticks=range(len(names)), yticklabels=names)


def save(
    made: Provenance, name: str, figure: Figure, data: pd.DataFrame, *, unit: str, n: int
) -> Path:
    """Write <figures>/<name>.png, .pdf, .csv and .json (run, unit, n, seed); return the picture.

    Where nothing was held out, the figure and its .json say so.
    """
    made.folder.mkdir(parents=True, exist_ok=True)
    if not made.held_out:
        figure.suptitle(FAITHFUL, fontsize=8)
    file = made.folder / f"{name}.png"
    figure.savefig(file, metadata={"Software": None})
    figure.savefig(file.with_suffix(".pdf"), metadata={"CreationDate": None})
    data.to_csv(file.with_suffix(".csv"), index=False, float_format="%.6g")
    about = {"run": made.run, "n": n, "unit": unit, "seed": made.seed, "stages": dict(made.stages)}
    about |= {} if made.held_out else {"held_out": False}
    file.with_suffix(".json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
    return file


def keep(
    made: Provenance, name: str, figure: Figure, data: pd.DataFrame, *, unit: str, n: int
) -> None:
    """Show the figure in the notebook and write it with its data to the run's figures folder."""
    save(made, name, figure, data, unit=unit, n=n)
    display(Image(page(figure), format="png"))
    plt.close(figure)


def page(figure: Figure) -> bytes:
    """The figure as a small PNG for a page: few colours, the same bytes each time."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=PAGE_DPI)
    flat = Picture.open(drawn).convert("RGB")
    told = flat.quantize(PAGE_COLOURS, Picture.Quantize.MAXCOVERAGE, dither=Picture.Dither.NONE)
    told.save(small, "png", optimize=True)
    return small.getvalue()

"""The experiment as a picture (the paper's figure 2), drawn with what happened at one token.

In: the tables of ``rewrite.example``. Out: five columns, left to right: the token, its latents,
what is said of each, what is read from that, and what the model says next.
"""

import html
import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rewrite_utils.report import figures
from rewrite_utils.report.display import visible

SILENT = 2
"""Latents that do not fire and are shown: those on which the sentences are most wrong."""
WIDTHS = (2.3, 1.7, 2.9, 1.7, 2.5)
"""Of the columns."""
LETTERS, SENTENCE = 29, 40
"""Characters in a line of the text, and of a sentence."""
LABELS = -0.5
"""Where the labels of bars begin, in widths of their column."""
SPEAKERS = {"untouched": "the model itself", "coder": "coder as it is", "mean": "mean ablation"}
"""What is not called a sentence."""
RAW = {"parse_math": False}
"""A token may be a dollar sign."""
LEAST = 0.3
"""Lines between two speakers."""


def pipeline(
    texts: Sequence[str], following: str, latents: pd.DataFrame, said: pd.DataFrame, *, layer: str
) -> Figure:
    """One window, from the token to the model's next words; ``layer``: where it was rewritten."""
    shown = chosen(latents)
    size = {"figsize": (sum(WIDTHS), 3.7), "width_ratios": WIDTHS, "layout": "constrained"}
    figure, (text, true, sentence, read, words) = plt.subplots(1, len(WIDTHS), **size)
    figure.get_layout_engine().set(wspace=0.03)
    _text(text, texts, following)
    reach = 1.25 * max(float(shown[["true", "predicted"]].to_numpy().max()), 1e-6)
    _bars(true, shown["true"], "#222222", reach)
    true.set(yticks=range(len(shown)), yticklabels=[f"latent {one}" for one in shown["latent"]])
    _sentences(sentence, shown["sentence"].tolist())
    speaker = said["speaker"].unique()[2]
    _bars(read, shown["predicted"], figures.colour(speaker), reach)
    ratings = [f"rating {one:.1f}" for one in shown["expected"]]
    read.set(yticks=range(len(shown)), yticklabels=ratings)
    _words(words, said)
    fire = f"{int((latents['true'] > 0).sum())} of {len(latents)} fire"
    heads = {
        text: "at a token …",
        true: f"→ latents of {layer}\n    {fire}",
        sentence: "→ an LLM’s sentence about each,\n    from other windows",
        read: "→ activation, read from\n    sentence and text alone",
        words: "→ in the latents’ place:\n    what comes next? (chance)",
    }
    for axes, head in heads.items():
        left = LABELS if axes in (true, read) else 0
        axes.set_title(head, loc="left", x=left, y=1.02, fontsize=9.5)
    return figure


def chosen(latents: pd.DataFrame) -> pd.DataFrame:
    """The latents that fire, strongest first, then those on which the prediction is most wrong."""
    fires = latents[latents["true"] > 0].sort_values("true", ascending=False)
    silent = latents[latents["true"] == 0].sort_values("predicted", ascending=False)
    return pd.concat([fires, silent.head(SILENT)], ignore_index=True)


def _text(axes: Axes, texts: Sequence[str], following: str) -> None:
    """The context, and the marked token below it."""
    told = html.unescape(visible("".join(texts[:-1]).strip()))
    how = {"fontsize": 9, "color": "#444444", **RAW}
    box = {"boxstyle": "round,pad=0.35", "fc": figures.PALETTE[1], "ec": "none", "alpha": 0.55}
    axes.text(0, 0.66, textwrap.fill(f"… {told}", LETTERS), va="bottom", **how)
    axes.text(0.04, 0.53, _plain(texts[-1]), va="center", fontsize=13, bbox=box, **RAW)
    axes.text(0, 0.4, f"(the text goes on {_plain(following)})", va="top", **how)
    axes.axis("off")


def _bars(axes: Axes, values: pd.Series, colour: str, reach: float) -> None:
    bars = axes.barh(range(len(values)), values, height=0.5, color=colour)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8.5)
    axes.set(xlim=(0, reach), ylim=(len(values) - 0.5, -0.5), xticks=[])
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)


def _sentences(axes: Axes, sentences: Sequence[str]) -> None:
    for place, one in enumerate(sentences):
        lines = textwrap.shorten(one, 3 * SENTENCE - 12, placeholder=" …")
        axes.text(0, place, textwrap.fill(f"“{lines}”", SENTENCE), va="center", fontsize=8.5, **RAW)
    axes.set(ylim=(len(sentences) - 0.5, -0.5))
    axes.axis("off")


def _words(axes: Axes, said: pd.DataFrame) -> None:
    """Each speaker's next tokens by chance; the one that follows in the text is drawn dark."""
    group = said["speaker"].ne(said["speaker"].shift()).cumsum() - 1
    heights = np.arange(len(said)) + (1 + LEAST) * (group + 1)
    for (_, row), height in zip(said.iterrows(), heights, strict=True):
        shade = 0.9 if row["follows"] else 0.3
        colour = figures.colour(row["speaker"])
        bar = axes.barh(height, row["chance"], height=0.75, color=colour, alpha=shade)
        weight = "bold" if row["follows"] else "normal"
        axes.bar_label(bar, [f"{_plain(row['token'])}  {row['chance']:.2f}"], padding=3,
                       fontsize=8, fontweight=weight, **RAW)  # fmt: skip
    for speaker, rows in said.groupby("speaker", sort=False):
        name = SPEAKERS.get(speaker, "sentences")
        axes.text(0, heights[rows.index[0]] - 0.95, name, fontsize=8.5, va="center",
                  color=figures.colour(speaker))  # fmt: skip
    axes.set(xlim=(0, 1.6 * float(said["chance"].max())), ylim=(heights.max() + 0.6, -0.2))
    axes.axis("off")


def _plain(token: str) -> str:
    """A token that can be seen."""
    return f"“{html.unescape(visible(token))}”"

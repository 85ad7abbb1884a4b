"""Figures of scores: distributions over their floors, kinds of explanations in pairs, near-copies.

In: tables of ``report.trust`` and ``report.unseen``, one row a latent. Out: matplotlib axes. Paper
§4; the floors and pairs are beyond it.
"""

import itertools

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from rewrite_utils.params.asking import PLAIN
from rewrite_utils.report.plots import PALETTE

SHADES = (PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[4], PALETTE[5], PALETTE[8])


def score_curves(axes: Axes, scores: pd.DataFrame, *, title: str) -> None:
    """Share of latents below each AUROC, one line a test; floors grey, dashed and dotted."""
    shades, dashes = iter(SHADES * 2), itertools.cycle(("--", ":", "-."))
    for test, table in scores.groupby("test", sort=False):
        values = np.sort(table["auroc"].dropna().to_numpy())
        if len(values):
            share = np.arange(1, len(values) + 1) / len(values)
            floor = "floor" in str(test)
            style = {"ls": next(dashes) if floor else "-"}
            style |= {"color": "#666666" if floor else next(shades)}
            told = f"{test}: mean {values.mean():.2f}, n = {len(values)}"
            axes.step(values, share, where="post", label=told, **style)
    axes.axvline(0.5, ls=":", lw=0.8, color="#666666")
    axes.set(xlabel="AUROC of the sentence", ylabel="share of latents at or below", title=title)
    axes.set(xlim=(-0.02, 1.02), ylim=(0, 1.02))
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def paired_points(axes: Axes, scores: pd.DataFrame, *, kind: str, title: str) -> None:
    """Each latent's AUROC under plain and under another kind of explanation, jittered a little."""
    wide = scores.pivot(index="latent", columns="kind", values="auroc")[[PLAIN, kind]].dropna()
    shift = np.random.default_rng(0).uniform(-0.012, 0.012, wide.shape)
    points = wide.to_numpy() + shift
    axes.plot(points[:, 0], points[:, 1], ".", color=PALETTE[0], ms=4, alpha=0.6)
    axes.plot([0, 1], [0, 1], ":", lw=0.8, color="#666666")
    axes.plot(*wide.mean().to_numpy(), "+", color=PALETTE[3], ms=12, mew=2, label="mean")
    axes.set(xlabel="AUROC, plain", ylabel=f"AUROC, {kind}", title=f"{title} (n = {len(wide)})")
    axes.legend()


def near_copies(axes: Axes, traits: pd.DataFrame, *, alike: float, title: str) -> None:
    """How close each sentence's nearest other one is; right of the line they say the same."""
    values = traits["nearest cosine"].dropna()
    axes.hist(values, bins=np.linspace(0, 1.0001, 21), color=PALETTE[0])
    axes.axvline(alike, ls="--", lw=0.8, color="#222222", label=f"{alike}: the same")
    axes.set(xlabel="cosine with the nearest other sentence", ylabel="latents", title=title)
    axes.legend()


def over_general(axes: Axes, traits: pd.DataFrame, *, title: str) -> None:
    """Sensitivity against specificity on random windows, by the number of words."""
    shift = np.random.default_rng(0).uniform(-0.015, 0.015, (2, len(traits)))
    drawn = axes.scatter(
        traits["specificity"] + shift[0],
        traits["sensitivity"] + shift[1],
        c=traits["words"],
        s=14,
        cmap="viridis",
    )
    axes.plot([0, 1], [1, 0], ":", lw=0.8, color="#666666", label="knows nothing")
    axes.set(xlabel="specificity on random windows", ylabel="sensitivity", title=title)
    axes.legend()
    axes.figure.colorbar(drawn, ax=axes, label="words")

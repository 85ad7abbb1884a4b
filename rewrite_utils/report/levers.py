"""Something to turn: one object with three faces (live sliders, a static picture, a line of text).

In: a function of a few settings that draws from tables already there, and the values of each.
Out: what a notebook shows. No LLM stands behind a slider, and nothing is made or kept.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import DisplayHandle
from IPython.display import display as show
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from rewrite_utils.report import curves, figures
from rewrite_utils.report.display import Html, said
from rewrite_utils.report.figures import PALETTE, colour, label
from rewrite_utils.report.tables import columns, interval
from rewrite_utils.rewrite.estimates import Evidence
from rewrite_utils.simulate import Ratings

WIDGET = "application/vnd.jupyter.widget-view+json"


class Levers:
    """A drawing and the settings it depends on."""

    def __init__(
        self,
        draw: Callable[..., Html],
        choices: Mapping[str, Sequence[object]],
        start: Mapping[str, object],
    ) -> None:
        """``draw(one value of each choice, in their order)``; ``start``: where the sliders begin.

        Raises ValueError for a start that is none of the choices.
        """
        for name, value in start.items():
            if value not in choices[name]:
                raise ValueError(f"{name} cannot start at {value!r}: it is one of {choices[name]}")
        self._draw = draw
        self.sliders = [
            widgets.SelectionSlider(options=list(values), value=start[name], description=name)
            for name, values in choices.items()
        ]
        self.shown = widgets.HTML(self.drawn.markup)
        self._static: DisplayHandle | None = None
        for slider in self.sliders:
            slider.observe(lambda _: self._turned(), "value")

    @property
    def drawn(self) -> Html:
        """What the settings give now."""
        return self._draw(*(slider.value for slider in self.sliders))

    def _turned(self) -> None:
        self.shown.value = self.drawn.markup

    def __repr__(self) -> str:
        return repr(self.drawn)

    def _ipython_display_(self) -> None:
        """The sliders, and the picture as an output of its own for readers without a kernel; it
        folds itself away where the sliders are on the page."""
        box = widgets.VBox([*self.sliders, self.shown])
        view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
        show({WIDGET: view, "text/plain": repr(self)}, raw=True)
        self._static = show(self._folding(opened=True), display_id=True)
        box.set_trait("_view_count", 0)
        box.observe(lambda change: change["new"] and self._fold(), "_view_count")

    def _fold(self) -> None:
        if self._static is not None:
            self._static.update(self._folding(opened=False))

    def _folding(self, *, opened: bool) -> Html:
        names = ", ".join(slider.description for slider in self.sliders)
        head = f"<details{' open' * opened}><summary>live, {names} can be turned</summary>"
        return Html(f"{head}{self.drawn.markup}</details>", repr(self))


def picture(figure: Figure, text: str) -> Html:
    """A figure and a sentence as HTML that needs no file."""
    data = b64encode(figures.page(figure)).decode()
    plt.close(figure)
    return Html(f'<img src="data:image/png;base64,{data}">', "") + said(text)


def quantile_map(
    evidence: Evidence,
    estimator: str,
    place: int,
    *,
    ratings: Ratings,
    true: Float[ndarray, "window latent"],
) -> Html:
    """The map of the latent at ``place``, fitted on ``evidence``, among its ratings and true
    activations there and at other windows; and what it costs at those."""
    transform, n = evidence.fit(estimator), len(evidence.true)
    grid = np.repeat(np.linspace(0, 9, 181, dtype=np.float32)[:, None], true.shape[1], 1)
    told, own = transform(ratings.expected)[:, place], evidence.true[:, place]
    figure, (axes,) = figures.panels(1, width=5.6, height=3.2)
    style = {"ls": "", "marker": "o", "ms": 4, "color": PALETTE[0]}
    axes.plot(evidence.ratings.expected[:, place], own, mfc="none", label="fitted on", **style)
    axes.plot(ratings.expected[:, place], true[:, place], ".", color="#999999", label="evaluate")
    axes.plot(grid[:, place], transform(grid)[:, place], color=PALETTE[1], label="the map")
    axes.set(xlabel="rating E (0–9)", ylabel="activation")
    axes.legend()
    error, ablated = (
        np.square(true[:, place] - values, dtype=float).mean()
        for values in (told, evidence.target.mean[place])
    )
    fires = f"fires in {(own > 0).sum()} of {n} windows"
    cost = f"{error / ablated:.2f} of mean ablation's" if ablated else "it never fires there"
    text = f"{estimator}: {fires}; squared error at {len(true)} evaluate windows: {cost}"
    return picture(figure, text)


def cost(verdict: pd.DataFrame, source: str, order: str, count: int, *, described: int) -> Html:
    """What a source costs with its first ``count`` latents replaced in one order, on its curve."""
    figure, (axes,) = figures.panels(1, width=5.6, height=3.2)
    kept = verdict[verdict["source"].isin(["zero", "mean", source])]
    curves.fractions(axes, kept, described=described, title="", orders=[order])
    axes.axvline(count / described, color=colour(source), lw=0.8, ls=":")
    axes.legend(fontsize=7)
    rows = verdict[(verdict["source"] == source) & (verdict["count"] == count)]
    name, rows = curves.ORDERS[order][0], rows[rows["order"].isin([order, "all"])]
    text = f"{label(source)}, {name}, {count} of {described} latents: "
    if rows.empty:
        return picture(figure, text + "not measured")
    row = rows.iloc[0]
    over, mean = (row[list(columns(value))].tolist() for value in ("over_coder", "minus_mean"))
    text += f"CE − coder's {interval(over)}, − mean ablation's {interval(mean)} nat"
    return picture(figure, f"{text} (n = {rows['windows'].iloc[0]} windows)")

"""Tables and windows as HTML for the notebooks; figures are shown and kept with their data."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rewrite_utils import simulate as simulating
from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.windows import firing_windows, window_tokens, window_values
from rewrite_utils.report import display, plots
from rewrite_utils.report.display import Html
from rewrite_utils.runs.run import Run
from rewrite_utils.stages import SiteStages

SHOWN_TOKENS = 24


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> Html:
    """A plain table."""
    return display.table(rows, header)


def frame(data: pd.DataFrame, *, digits: int = 3) -> Html:
    """A data frame as a table, numbers to ``digits`` decimals."""
    rows = [[_number(value, digits) for value in row] for row in data.itertuples(index=False)]
    return display.table(rows, list(data.columns))


def stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The sites' tables under one another, the site's name in front."""
    named = [table.assign(site=name) for name, table in tables.items()]
    whole = pd.concat(named, ignore_index=True)
    return whole[["site", *(column for column in whole.columns if column != "site")]]


def keep(run: Run, name: str, figure: Figure, data: pd.DataFrame, *, unit: str, n: int) -> None:
    """Show the figure in the notebook and write it with its data to the run's figures folder."""
    plots.save_figure(run, name, figure, data, unit=unit, n=n)
    plt.show()
    plt.close(figure)


def latent_windows(
    sites: Mapping[str, SiteStages],
    *,
    latents: int,
    windows: int,
    places: Sequence[int] | None = None,
) -> Html:
    """The strongest windows of each site's ``latents`` most useful latents (or those at
    ``places``)."""
    parts = []
    for name, site in sites.items():
        order = np.argsort(-site.energy, kind="stable")[:latents]
        chosen = order if places is None else np.array(site.simulated)[list(places)]
        for latent in chosen:
            parts.append(_heading(f"{name}, latent {latent}"))
            parts += _strongest(site, int(latent), windows)
    return _joined(parts)


def sentences(sites: Mapping[str, SiteStages], *, most: int) -> Html:
    """The sentences of each site's latents, the first ``most``."""
    rows = []
    for name, site in sites.items():
        rate = site.cache("explain").rate
        for row in site.explanations.head(most).itertuples():
            text = (
                row.sentence if isinstance(row.sentence, str) else f"(no sentence: {row.reply!r})"
            )
            rows.append((name, row.latent, f"{rate[row.latent]:.1%}", text))
    return display.table(rows, ["site", "latent", "fires on", "sentence"])


def best_and_worst(sites: Mapping[str, SiteStages], *, each: int) -> Html:
    """The sentences with the highest and the lowest AUROC, each once, with intervals over
    their windows."""
    rows = []
    for name, site in sites.items():
        ends = site.score_intervals()
        ranked = site.scores.merge(ends, on="latent").dropna()
        ranked = ranked.sort_values("auroc", ascending=False, kind="stable")
        for row in pd.concat([ranked.head(each), ranked.iloc[each:].tail(each)]).itertuples():
            auroc = f"{row.auroc:.2f} [{row.auroc_low:.2f}, {row.auroc_high:.2f}]"
            said = [
                f"{share:.0%} [{low:.0%}, {high:.0%}]"
                for share, low, high in (
                    (row.sensitivity, row.sensitivity_low, row.sensitivity_high),
                    (row.specificity, row.specificity_low, row.specificity_high),
                )
            ]
            sentence = site.sentences[int(row.latent)]
            rows.append((name, row.latent, auroc, f"{row.f1:.2f}", *said, sentence))
    header = ["site", "latent", "AUROC", "F1", "found of the firing", "left out of the silent"]
    return display.table(rows, [*header, "sentence"])


def one_prediction(site: SiteStages) -> Html:
    """The first calibrate window, and what the simulator makes of it for the first latents."""
    windows = site.simulated_windows("calibrate")
    cache = site.cache("calibrate")
    ids = window_tokens(cache, windows, site.params.simulate.window_tokens)[0]
    ratings, true = site.ratings("calibrate"), site.true("calibrate")
    rows = [
        (sentence, f"{ratings.expected[0, place]:.2f}", f"{ratings.mass[0, place]:.4f}", f"{t:.2f}")
        for place, (sentence, t) in enumerate(
            zip(list(site.sentences.values())[:6], true[0], strict=False)
        )
    ]
    text = simulating.Window.of(site.texts(ids)).text
    markup = f"<p><code>{display.visible(text)}</code></p>"
    header = ["sentence", "E (0–9)", "mass on the digits", "true activation"]
    return Html(markup, text) + display.table(rows, header)


def predicted_windows(site: SiteStages, *, place: int, windows: int) -> Html:
    """Windows where the latent's truth or calibrated prediction is largest, both drawn."""
    simulated = site.simulated_windows("evaluate")
    estimate = site.estimates[site.params.rewrite.headline].values[:, place]
    true = site.true("evaluate")[:, place]
    order = np.argsort(-np.maximum(true, estimate), kind="stable")[:windows]
    latent, cache = site.simulated[place], site.cache("evaluate")
    chosen = Windows(simulated.rows[order], simulated.ends[order])
    shown = _drawn(site, cache, latent, chosen, predicted=estimate[order])
    return _joined([_heading(f"latent {latent}: {site.sentences[latent]}"), *shown])


def _strongest(site: SiteStages, latent: int, count: int) -> list[Html]:
    cache = site.cache("explain")
    windows, peaks = firing_windows(cache, latent, window_tokens=SHOWN_TOKENS)
    order = np.argsort(-peaks, kind="stable")[:count]
    return _drawn(site, cache, latent, Windows(windows.rows[order], windows.ends[order]))


def _drawn(
    site: SiteStages,
    cache: LatentCache,
    latent: int,
    windows: Windows,
    *,
    predicted: np.ndarray | None = None,
) -> list[Html]:
    """One line a window; a prediction belongs to the window's last token only."""
    ids = window_tokens(cache, windows, SHOWN_TOKENS)
    values = window_values(cache, latent, windows, SHOWN_TOKENS)
    scale = float(cache.maximum[latent])
    lines = []
    for row, (tokens, true) in enumerate(zip(ids, values, strict=True)):
        guess = None
        if predicted is not None:
            guess = [np.nan] * (len(tokens) - 1) + [float(predicted[row])]
        lines.append(display.tokens(site.texts(tokens), true.tolist(), guess, maximum=scale))
    return lines


def _heading(text: str) -> Html:
    return Html(f"<p><b>{display.visible(text)}</b></p>", text)


def _joined(parts: Sequence[Html]) -> Html:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole


def _number(value: object, digits: int) -> object:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.{digits}f}"
    return value

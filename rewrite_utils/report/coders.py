"""What a good coder looks like: coders side by side, as table and as figures (notebooks 01, 11).

In: each coder's losses, configuration and firing rates. Out: one row a coder: what it keeps, what
it leaves to its latents, who fires; and axes drawn on. Paper §2; method §1.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray

from rewrite_utils.coder.sparse import CoderConfig
from rewrite_utils.latents.cache import LatentCache
from rewrite_utils.params import ROOT
from rewrite_utils.report import figures
from rewrite_utils.report.figures import MARKERS, PALETTE, band, colour, label
from rewrite_utils.report.tables import columns, interval, intervals
from rewrite_utils.subject.model import Hookpoint

KINDS = {
    "transcoder": PALETTE[0],
    "skip transcoder": PALETTE[1],
    "SAE": PALETTE[2],
    "random transcoder": "#999999",
    "random SAE": "#999999",
}
"""Colour of each kind of coder."""

TICKS = (-10, -3, -1, -0.3, -0.1, 0, 0.1, 0.3, 1, 3, 10)
"""Nats on the scale of several layers, where one may cost a hundred times another."""


def row(
    quality: pd.DataFrame,
    config: CoderConfig,
    hookpoint: Hookpoint,
    rate: Float[ndarray, " latent"],
    *,
    tokens: int,
    random: bool,
) -> dict[str, object]:
    """A coder in the table: FVU, ΔCE, CE recovered, range with intervals over rows; L0, dead, rates
    over so many ``tokens``. ``random``: a control, its weights were drawn."""
    arms = quality.set_index("arm")
    coder, gone = arms.loc["coder"], arms.loc["output at mean"]
    found = {"hookpoint": hookpoint.name, "layer": hookpoint.layer}
    found |= {"kind": kind(config, random=random), "latents": config.num_latents, "k": config.k}
    found |= {"FVU": coder["fvu"]}
    found |= {key: coder[key] for name in ("delta", "recovered") for key in columns(name)}
    ranges = ("range", arms.loc["latents at mean"], "over_coder"), ("worth", gone, "delta")
    for ours, arm, theirs in ranges:
        found |= {a: arm[b] for a, b in zip(columns(ours), columns(theirs), strict=True)}
    found |= {"range_zero": arms.loc["latents at zero", "over_coder"]}
    found |= {"L0": float(rate.sum()), "dead": float((rate == 0).mean())}
    found |= {"median_rate": float(np.median(rate)), "max_rate": float(rate.max())}
    return found | {"tokens": tokens, "rows": int(coder["rows"]), "base CE": coder["base CE"]}


def rates(caches: Sequence[LatentCache]) -> tuple[Float[ndarray, " latent"], int]:
    """Firing rates over the rows of all ``caches``, and how many tokens that are."""
    tokens = sum(cache.n_tokens for cache in caches)
    return np.sum([cache.counts for cache in caches], axis=0) / tokens, tokens


def kind(config: CoderConfig, *, random: bool = False) -> str:
    """Transcoder, skip transcoder or SAE, "random" in front of the control."""
    name = "transcoder" if config.transcode else "SAE"
    if random:
        return f"random {name}"
    return f"skip {name}" if config.skip_connection else name


def committed(sweep: str) -> pd.DataFrame:
    """The coder table of a sweep of params/beyond, as it is kept beside its figure.

    Raises FileNotFoundError where that sweep has not been run.
    """
    file = ROOT / "figures" / "beyond" / sweep / "11_range.csv"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is not there; make it: python -m rewrite_utils.series "
            f"params/beyond/{sweep}.yaml --only 11"
        )
    return pd.read_csv(file)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table for reading: intervals in brackets, shares in per cent; no share is given of an
    output that is not seen to be worth anything."""
    rates = zip(table["median_rate"], table["max_rate"], strict=True)
    worth = zip(intervals(table, "recovered", "+.2f"), table["worth_low"], strict=True)
    return table[["site", "hookpoint", "kind", "latents", "k", "FVU"]].assign(
        **{
            "ΔCE, output at its mean": intervals(table, "worth"),
            "ΔCE of the coder": intervals(table, "delta"),
            "CE recovered": [text if low > 0 else "–" for text, low in worth],
            "range (nats)": intervals(table, "range"),
            "L0": table["L0"],
            "dead": [f"{share:.1%}" for share in table["dead"]],
            "firing rate: median, max": [f"{middle:.4f}, {most:.3f}" for middle, most in rates],
            "rows": table["rows"],
        }
    )


def arms(quality: pd.DataFrame) -> pd.DataFrame:
    """Every site's arms of its coder's quality for reading, intervals over rows in brackets."""
    told = {"ΔCE (nats)": intervals(quality, "delta")}
    told |= {"over the coder": intervals(quality, "over_coder")}
    told |= {"recovered": intervals(quality, "recovered", "+.2f")}
    told |= {"rows": quality["rows"], "positions": quality["positions"]}
    return quality[["site", "arm", "fvu"]].assign(**told)


def headline(table: pd.DataFrame) -> str:
    """The trained coder with the widest range, and the one that recovers most."""
    trained = table[~table["kind"].str.startswith("random")]
    widest, defined = trained.loc[trained["range"].idxmax()], trained[trained["worth_low"] > 0]
    most = "at no site is the output's own worth above zero"
    if len(defined):
        best = defined.loc[defined["recovered"].idxmax()]
        share = interval(best[list(columns("recovered"))].tolist(), "+.2f")
        most = f"most recovered: {best['site']}, {share} of the output's worth"
    return (
        f"widest range: {widest['site']}, "
        f"{interval(widest[list(columns('range'))].tolist(), '+.2f')} nat; {most} "
        f"({len(trained)} trained coders, n = {int(table['rows'].min())} rows each)"
    )


# ── figures ───────────────────────────────────────────────────────────────────────────────────


def firing_rates(
    axes: Axes, rates: Mapping[str, Float[ndarray, " latent"]], kinds: Mapping[str, str]
) -> pd.DataFrame:
    """Firing rate by rank, as a share of the coder's width, one line a site; the plotted data.

    A kind of coder has its style of line, its sites go from dark to light; the controls are grey.
    """
    tables, styles = [], dict.fromkeys(kinds.values(), "-")
    styles |= dict(zip(styles, ("-", "--", ":", "-.", (0, (1, 4))), strict=False))
    for site, rate in rates.items():
        alike = [name for name in rates if kinds[name] == kinds[site]]
        shade = plt.get_cmap("viridis")(0.9 * alike.index(site) / max(len(alike) - 1, 1))
        shade = "#999999" if kinds[site].startswith("random") else shade
        ordered, place = np.sort(rate)[::-1], (np.arange(len(rate)) + 0.5) / len(rate)
        shown = np.where(ordered > 0, ordered, np.nan)
        axes.plot(place, shown, lw=1.2, color=shade, ls=styles[kinds[site]], label=site)
        tables.append(pd.DataFrame({"site": site, "place": place, "rate": ordered}))
    axes.set(yscale="log", xlabel="latents by rank, share of the width", ylabel="firing rate")
    axes.set_title("Who fires how often (lines end where latents are dead)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), handlelength=3)
    return pd.concat(tables, ignore_index=True)


def over(table: pd.DataFrame, *, y: str) -> Figure:
    """``y`` of coders: a panel for each place (MLP, residual stream) and each of layer and width
    that varies, so that a scale fits its panel and no axis holds a single value.
    """
    place = np.where(table["kind"].str.contains("SAE"), "residual stream", "MLP")
    varied = [x for x in ("layer", "latents") if table[x].nunique() > 1] or ["layer"]
    wanted = [(name, part, x) for name, part in table.groupby(place, sort=False) for x in varied]
    figure, axes = figures.panels(len(wanted))
    for axis, (name, part, x) in zip(axes, wanted, strict=True):
        said = f"{name}, by {'width' if x == 'latents' else x} (n = {part['rows'].min()} rows)"
        lines(axis, part, x=x, y=y, title=said)
    return figure


def lines(axes: Axes, table: pd.DataFrame, *, x: str, y: str, title: str) -> None:
    """One line a family of coders, which differ in ``x`` alone; 95 % intervals where there are
    columns `<y>_low`, `<y>_high`. For the range: also what the whole output is worth, by layer.
    """
    if (x, y) == ("layer", "range"):
        _worth(axes, table)
    others = [column for column in ("layer", "latents", "k") if column != x]
    told = [column for column in others if table[column].nunique() > 1]
    drawn: dict[str, int] = {}
    for (kind, *same), part in table.groupby(["kind", *others], sort=False):
        part, wide = part.sort_values(x), x == "latents"
        at = _beside(part[x].to_numpy(float), sum(drawn.values()) + len(drawn), doubling=wide)
        number = drawn[kind] = drawn.get(kind, -1) + 1
        values = dict(zip(others, same, strict=True))
        style = {"color": KINDS[str(kind)], "marker": MARKERS[number % 5], "ms": 4}
        style |= {"label": ", ".join([kind, *(f"{column} {values[column]}" for column in told)])}
        axes.plot(at, part[y], ls=("-", "--", ":")[number % 3], **style)
        if f"{y}_low" in part:
            ends = np.c_[part[f"{y}_low"], part[f"{y}_high"], np.full(len(part), np.nan)]
            axes.plot(at.repeat(3), ends.ravel(), color=KINDS[str(kind)], lw=1.5, alpha=0.5)
    axes.axhline(0, color="#222222", lw=0.6)
    said = "range left to the latents (nats)" if y == "range" else y
    axes.set(xlabel=x, ylabel=said, title=title)
    if x == "latents":
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
    ticks = sorted(table[x].unique())
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.legend()


def _beside(
    places: Float[ndarray, " coder"], family: int, *, doubling: bool
) -> Float[ndarray, " coder"]:
    """Families a little to the right of one another, so that their intervals can be told apart."""
    if doubling:
        return places * 2 ** (0.05 * family)
    return places + 0.012 * family * max(np.ptp(places), 1)


def _worth(axes: Axes, table: pd.DataFrame) -> None:
    """The loss of the module's output at its mean: no range is to be expected beyond it. A band
    from three layers on; two far-apart ones are not joined."""
    worth = table.drop_duplicates("layer").sort_values("layer")
    style = {"color": "#aaaaaa", "label": "whole output at its mean"}
    if len(worth) < 3:
        ends = (worth["worth"] - worth["worth_low"], worth["worth_high"] - worth["worth"])
        axes.errorbar(worth["layer"], worth["worth"], yerr=ends, fmt="D", ms=4, lw=1.5, **style)
    else:
        band(axes, worth["layer"], worth, "worth", style | {"lw": 1}, alpha=0.2)


def layers_at_once(axes: Axes, table: pd.DataFrame, *, value: str, parts: bool) -> None:
    """``value`` against the number of layers, one line a source; the sums of parts are dotted."""
    for source, arm in table.groupby("source", sort=False):
        if value == "minus_mean" and source == "mean":
            continue
        style = {"color": colour(str(source)), "marker": "o", "ms": 4, "label": label(str(source))}
        band(axes, arm["count"], arm, value, style, alpha=0.1)
        if parts:
            axes.plot(arm["count"], arm["parts"], ":", color=style["color"], lw=1)
    if parts:
        axes.plot([], [], ":", color="#666666", label="sum of its layers alone")
    axes.axhline(0, color="#222222", lw=0.7)
    added = table.drop_duplicates("count")
    pairs = zip(added["count"], added["added"], strict=True)
    axes.set_xticks(added["count"], [f"{count}\n+{name}" for count, name in pairs])
    axes.set_xlabel("layers rewritten at once (the one added)")
    axes.set_ylabel(("ΔCE" if parts else "CE − mean ablation's") + " (nats; linear below 0.3)")
    axes.set_yscale("symlog", linthresh=0.3)
    bottom, top = axes.get_ylim()
    shown = [tick for tick in TICKS if bottom <= tick <= top]
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_ylim(bottom, top)

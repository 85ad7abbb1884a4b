"""The verdict on every source of the rewrite, in numbers and words (notebooks 00, 07, 11).

In: verdicts (one row an arm), losses (one row a window and arm), usefulness, the training curve.
Out: tables with 95 % intervals over windows. Paper §2, §6; v2's statistics beside ours.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils import stats
from rewrite_utils.latents.windows import shared_rows
from rewrite_utils.report.figures import label
from rewrite_utils.report.tables import interval, intervals, stacked
from rewrite_utils.rewrite.equivalence import Equivalence, equivalent
from rewrite_utils.rewrite.measure import V2_LEAST_BASE_LOSS, losses_of

PAPER_COST = {"mlp": 0.10, "resid": 0.33}
"""What the paper's transcoder and SAE cost, as a share of the base loss."""
BARS = ("coder", "zero", "mean", "token table", "word list")
"""Bars without a sentence; the calibrations and the floor follow."""


def final(verdicts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Each site's arms that replace every described latent.

    ``range_low``: lower end of what mean ablation costs over the coder; `recovered` is a share of
    that, and of nothing where it is not above 0.
    """
    whole = stacked(
        {name: v[(v["order"] == "all") & (v["count"] > 0)] for name, v in verdicts.items()}
    )
    room = whole[whole["source"] == "mean"].set_index("site")["over_coder_low"]
    whole = whole.assign(range_low=whole["site"].map(room))
    return whole[whole["source"] != "mean"].reset_index(drop=True)


def shown(final: pd.DataFrame) -> pd.DataFrame:
    """The forest's numbers, each with its 95 % interval over windows.

    "visible": the smallest difference to mean ablation that this many windows can see; "interval":
    how that difference's was made. "CE recovered": "–" where there is no range to recover.
    """
    table = {"site": final["site"], "source": final["source"], "windows": final["windows"]}
    heads = {"ΔCE": "delta", "CE − mean ablation": "minus_mean", "CE − zero ablation": "minus_zero"}
    table |= {head: intervals(final, name) for head, name in heads.items()}
    shares = zip(intervals(final, "recovered"), final["range_low"], strict=True)
    recovered = [text if low > 0 else "–" for text, low in shares]
    table |= {"visible": final["detectable"], "CE recovered": recovered}
    table |= {"KL": intervals(final, "kl"), "FVU of the output": intervals(final, "fvu")}
    return pd.DataFrame(table | {"interval": final["method"]})


def paper_statistics(final: pd.DataFrame) -> pd.DataFrame:
    """v1's and v2's statistics of the same losses under their names, beside ours."""
    pairs = zip(final["v2_mean"], final["v2_se"], final["v2_windows"], strict=True)
    table = {"site": final["site"], "source": final["source"], "windows": final["windows"]}
    table |= {"ours: mean ΔCE": intervals(final, "delta")}
    table |= {"v1: median |ΔCE|": intervals(final, "v1_median")}
    table |= {"v2: mean ΔCE ± SE": [f"{m:.3f} ± {s:.3f} (n = {n})" for m, s, n in pairs]}
    return pd.DataFrame(table)


def bars(verdict: pd.DataFrame, told: Sequence[str]) -> pd.DataFrame:
    """The arms as v2 draws them: coder, ablations, controls, and the sources ``told``, all latents
    replaced."""
    whole = verdict[verdict["order"] == "all"]
    every = whole[whole["count"].isin([0, whole["count"].max()])].set_index("source")
    return every.loc[list(dict.fromkeys([*BARS, *told]))].reset_index()


def paper_cost(losses: pd.DataFrame, kind: str) -> float:
    """What the paper's coder of this kind costs, in nats at our base loss (v2's windows)."""
    base = losses_of(losses, "coder", column="base_loss")
    return float(PAPER_COST[kind] * base[base >= V2_LEAST_BASE_LOSS].mean())


def whole(verdict: pd.DataFrame, source: str) -> pd.Series:
    """The verdict on one source with every described latent replaced."""
    rows = verdict[(verdict["source"] == source) & (verdict["order"] == "all")]
    return rows.sort_values("count").iloc[-1]


def power(verdict: pd.DataFrame, headline: str, *, of: int) -> str:
    """The smallest difference the headline arm could show, beside the range there is, ``of`` so
    many latents."""
    row, coder, mean = (whole(verdict, source) for source in (headline, "coder", "mean"))
    return (
        f"{row['count']} of {of} latents, n = {row['windows']} windows; range "
        f"{mean['delta'] - coder['delta']:.2f}, smallest visible {row['detectable']:.2f} nat"
    )


def headline(verdicts: Mapping[str, pd.DataFrame], source: str) -> str:
    """CE of the headline arm minus mean ablation, paired, and what that means."""
    said = [f"{name}: {_meaning(whole(verdict, source))}" for name, verdict in verdicts.items()]
    return f"{'; '.join(said)} ({source})"


def _meaning(row: pd.Series) -> str:
    low, high = row["minus_mean_low"], row["minus_mean_high"]
    meaning = "no difference to mean ablation seen"
    if high < 0 or low > 0:
        meaning = f"{'better' if high < 0 else 'worse'} than mean ablation"
    found = interval([row["minus_mean"], low, high])
    return f"CE − mean ablation {found} nat, n = {row['windows']} windows: {meaning}"


# ── which latents are worth predicting ────────────────────────────────────────────────────────


def ends(useful: pd.DataFrame, *, each: int) -> pd.DataFrame:
    """The most and the least useful latents of a site, none twice, as the notebook shows them."""
    ranked = useful.sort_values("usefulness", ascending=False, kind="stable")
    kept = pd.concat([ranked.head(each), ranked.iloc[each:].tail(each)])
    table = {"latent": kept["latent"], "windows": kept["windows"]}
    table |= {"CE won": intervals(kept, "usefulness"), "at stake": intervals(kept, "at_stake")}
    table |= {"detection F1": kept["f1"], "share of the output": kept["share"]}
    return pd.DataFrame(table | {"sentence": kept["sentence"]})


def agreement(useful: pd.DataFrame, *, seed: int) -> str:
    """Does the detection score, or the share of the output, say who is useful?"""
    parts = []
    for column, said in (("f1", "detection F1"), ("share", "share of the output")):
        pairs = useful[["usefulness", column]].dropna().to_numpy()
        if len(pairs) < 2:
            parts.append(f"{said} not measurable (n = {len(pairs)} latents)")
            continue
        found = stats.rank_correlation(*pairs.T, unit="latent", seed=seed)
        parts.append(f"{said} {interval(found, '+.2f')} (n = {found.n} latents)")
    return f"rank correlation of usefulness with {', '.join(parts)}"


# ── as good as which checkpoint ───────────────────────────────────────────────────────────────


def curve(
    losses: pd.DataFrame,
    steps: Sequence[int],
    *,
    seed: int,
    resamples: int,
    rows: Int[ndarray, " window"] | None = None,
) -> pd.DataFrame:
    """Mean loss of each checkpoint, a column of ``losses``, with its interval over windows, or over
    their ``rows`` where some have several."""
    units = None if rows is None else shared_rows(rows)
    found, unit = [], "window" if units is None else "row"
    for step, name in zip(steps, losses, strict=True):
        sample = losses[name].to_numpy()
        drawn = {"unit": unit, "units": units, "seed": seed, "resamples": resamples}
        found.append({"step": step} | stats.bootstrap(sample, **drawn).named("CE"))
    return pd.DataFrame(found)


def equivalence(
    patched: Float[ndarray, " window"],
    curve: pd.DataFrame,
    steps: Sequence[int],
    *,
    seed: int,
    resamples: int,
    rows: Int[ndarray, " window"] | None = None,
) -> Equivalence:
    """Where on the training curve one arm stands; its windows are the first of the curve's."""
    training, n = curve.to_numpy(np.float64)[: len(patched)], len(patched)
    units = None if rows is None else shared_rows(rows[:n])
    drawn = {"seed": seed, "resamples": resamples, "units": units}
    return equivalent(training, patched.astype(float), steps, **drawn)


def equivalences(
    losses: pd.DataFrame,
    curve: pd.DataFrame,
    steps: Sequence[int],
    *,
    seed: int,
    resamples: int,
    rows: Int[ndarray, " window"] | None = None,
) -> pd.DataFrame:
    """One row an arm: the subject itself, the coder, and every arm that replaces all latents."""
    last = losses[losses["order"] == "all"].groupby("source", sort=False)["count"].max()
    names = dict.fromkeys(["coder", "output zero", *last.index])
    told = {"untouched": losses_of(losses, "coder", column="base_loss")}
    told |= {name: losses_of(losses, name, int(last[name])) for name in names}
    table, drawn = [], {"seed": seed, "resamples": resamples, "rows": rows}
    for source, patched in told.items():
        found = equivalence(patched, curve, steps, **drawn)
        row = {"source": source, "windows": found.windows, "CE": found.loss}
        row |= {"first_step": found.first, "last_step": found.last}
        row |= {"step_low": found.low, "step_high": found.high, "crossings": found.crossings}
        table.append(row | {"as good as": found.answer})
    return pd.DataFrame(table)


# ── several layers at once ────────────────────────────────────────────────────────────────────


def growing(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The sets that grow by one site, in the order of the file; ``added``: the new one."""
    added = {"+".join(names[: count + 1]): name for count, name in enumerate(names)}
    kept = table[table["places"].isin(added)]
    return kept.assign(added=kept["places"].map(added)).sort_values("count", kind="stable")


def layers(together: pd.DataFrame) -> pd.DataFrame:
    """``growing`` as the notebook shows it."""
    table = {"layers": together["count"], "added": together["added"]}
    table |= {"source": [label(source) for source in together["source"]]}
    table |= {"windows": together["windows"], "ΔCE": intervals(together, "delta")}
    table |= {"ΔCE − sum of its layers alone": intervals(together, "over_sum")}
    return pd.DataFrame(table | {"CE − mean ablation": intervals(together, "minus_mean")})

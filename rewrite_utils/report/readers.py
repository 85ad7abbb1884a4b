"""Whole layers read from descriptions: tables and the figure of every arm against its ablation.

In: verdicts of `layer.judged`, one row a (text, source), several sites stacked. Out: plain tables,
axes drawn on, and the sentence of the result. Beyond the paper.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from rewrite_utils import stats
from rewrite_utils.report.figures import PALETTE, listed, whisker
from rewrite_utils.report.tables import columns, interval, intervals

LEVELS = {
    "a": "a · an LLM's sentence",
    "b": "b · with the words it named",
    "c": "c · counted words with strengths",
    "d": "d · and what it raises and lowers",
}
"""What the description says, level by level."""
ALONE = {
    "exact": "the same word",
    "input": "input embeddings",
    "whitened": "input embeddings, whitened",
    "minilm": "MiniLM",
    "output": "next words of the LLM",
    "context": "state of the LLM",
    "english": "the sentence's vector",
}
"""What a single feature compares."""
CONTROLS = ("coder", "token table, back-off", "token table", "mean", "output mean")
TEXT = {"evaluate": "same corpus, unseen rows"}


def named(source: str) -> str:
    """A source in words."""
    level, _, alone = source.partition(":")
    level, _, more = level.partition("+")
    if level not in LEVELS:
        return source
    if alone:
        return f"{level} · only {ALONE.get(alone, alone)}"
    return LEVELS[level] + (" + state of the LLM" if more else "")


def labels(verdict: pd.DataFrame) -> pd.Series:
    """The source of every row in words; one that replaces fewer latents than others of its site
    says how many."""
    count = pd.to_numeric(verdict["against"].str.extract(r"mean of (\d+)")[0])
    site = verdict["site"] if "site" in verdict else pd.Series("", verdict.index)
    words = verdict["source"].map(named)
    fewer = words + ", " + count.astype("Int64").astype("string") + " latents"
    return words.where(~(count < count.groupby(site).transform("max")), fewer)


def forest(axes: Axes, verdict: pd.DataFrame, *, value: str, xlabel: str, title: str) -> None:
    """One line a source, a mark a text; zero and one are the ablation and the coder."""
    sources = [one for one in verdict["source"].unique() if one not in ("mean", "output mean")]
    order = [one for one in CONTROLS if one in sources]
    order += sorted((one for one in sources if one not in order), reverse=True)
    texts = list(verdict["text"].unique())
    for number, text in enumerate(texts):
        part = verdict[verdict["text"] == text].set_index("source")
        offset = 0.22 * (number - (len(texts) - 1) / 2)
        for place, source in enumerate(order[::-1]):
            style = {"color": PALETTE[number], "lw": 1.6, "marker": "os^v"[number], "ms": 4}
            whisker(axes, place - offset, part.loc[source], value, style)
        foreign = text.removeprefix("embedded/") + ", a foreign text"
        label = f"{TEXT.get(text, foreign)} (n = {int(part['rows'].max())} rows)"
        axes.plot([], [], "os^v"[number], color=PALETTE[number], label=label)
    for at in (0, 1):
        axes.axvline(at, color="#222222", lw=0.8, ls="-" if at == 0 else ":")
    words = dict(zip(verdict["source"], labels(verdict), strict=True))
    listed(axes, [words[source] for source in order[::-1]])
    axes.set(xlabel=xlabel, title=title)


def shown(verdict: pd.DataFrame) -> pd.DataFrame:
    """The verdicts for reading: every number with its interval over rows of text."""
    base = {"text": verdict["text"], "source": labels(verdict)}
    if "site" in verdict:
        base = {"site": verdict["site"], **base}
    return pd.DataFrame(base).assign(
        **{
            "ΔCE": intervals(verdict, "delta", "+.2f"),
            "− mean of the same latents": intervals(verdict, "minus_mean", "+.2f"),
            "of the range": intervals(verdict, "of_range", ".2f"),
            "of the layer's worth": intervals(verdict, "of_worth", ".2f"),
            "− token table, back-off": intervals(verdict, "minus_table", "+.2f"),
            "perplexity, whole text": [
                "" if np.isnan(one) else f"{one:.1f}" for one in verdict["perplexity"]
            ],
            "rows": verdict["rows"],
        }
    )


def together(losses: pd.DataFrame, *, seed: int, resamples: int) -> pd.DataFrame:
    """One row a (text, model): mean loss over the model's own, and its perplexity.

    ``parts``: for several places together, the sum of what each costs alone.
    """
    rows = []
    for text, part in losses.groupby("text", sort=False):
        wide = part.pivot(index="row", columns="model", values="loss")
        over = wide.sub(wide["model"], axis=0)
        for model in part["model"].unique():
            source, _, places = model.partition(", ")
            alone = [f"{source}, {one}" for one in places.split("+")] if "+" in places else []
            found = stats.bootstrap(
                over[model].to_numpy(), unit="row", seed=seed, resamples=resamples
            )
            row = {"text": text, "model": model, "rows": len(wide)} | found.named("delta")
            row["parts"] = sum(float(over[one].mean()) for one in alone) if alone else np.nan
            rows.append(row | {"perplexity": float(np.exp(wide[model].mean()))})
    return pd.DataFrame(rows)


def together_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The same for reading."""
    return table[["text", "model"]].assign(
        perplexity=table["perplexity"].round(1),
        **{
            "ΔCE, every position": intervals(table, "delta", "+.2f"),
            "sum of its places alone": [
                "" if np.isnan(one) else f"{one:+.2f}" for one in table["parts"]
            ],
        },
        rows=table["rows"],
    )


def headline(verdicts: Mapping[str, pd.DataFrame], arms: Mapping[str, str]) -> str:
    """What the declared arm of every site wins, on every text."""
    told = []
    for site, verdict in verdicts.items():
        for _, row in verdict[verdict["source"] == arms[site]].iterrows():
            nats = interval(row[list(columns("minus_mean"))].tolist(), "+.2f")
            share = interval(100 * row[list(columns("of_range"))].to_numpy(float), ".0f")
            table = interval(row[list(columns("minus_table"))].tolist(), "+.2f")
            told.append(
                f"{site}, {row['text']}, level {arms[site]}: {nats} nat against mean ablation of "
                f"the same latents, {share} % of the range, {table} nat against the token table "
                f"(n = {int(row['rows'])} rows)"
            )
    return "; ".join(told)

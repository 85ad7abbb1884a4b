"""The one way a number is shown: with its interval, n and unit; and sites' tables side by side.

In: estimates, or columns ``x``, ``x_low``, ``x_high``. Out: text, and plain data frames.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils import stats
from rewrite_utils.stats import Estimate


def interval(found: Estimate | Sequence[float], spec: str = "+.3f") -> str:
    """``value [low, high]`` of an estimate, or of any three numbers; or that there is none."""
    value, low, high = found[:3]
    return f"{value:{spec}} {stats.ends(low, high, spec)}"


def intervals(table: pd.DataFrame, name: str, spec: str = "+.3f") -> list[str]:
    """A column with its ``_low`` and ``_high`` as text."""
    rows = table[list(columns(name))].to_numpy(np.float64)
    return [interval(row.tolist(), spec) for row in rows]


def columns(name: str) -> tuple[str, str, str]:
    """A number's three columns: value, lower and upper end of its 95 % interval."""
    return name, f"{name}_low", f"{name}_high"


def mean(values: Float[ndarray, " latent"], *, seed: int) -> str:
    """A mean with its 95 % bootstrap interval over latents; without one for a single latent."""
    if len(values) < 2:
        return f"{values[0]:.2f}" if len(values) else ""
    return interval(stats.bootstrap(values, unit="latent", seed=seed), ".2f")


def counted(values: Iterable[float], *, seed: int) -> str:
    """The same of the values that there are, with their n; or that it cannot be measured."""
    kept = np.array([value for value in values if not np.isnan(value)], np.float64)
    n = f"n = {len(kept)} latents"
    return f"not measurable ({n})" if len(kept) < 2 else f"{mean(kept, seed=seed)} ({n})"


def stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The sites' tables under one another, the site's name in front."""
    whole = pd.concat([part.assign(site=name) for name, part in tables.items()], ignore_index=True)
    return whole[["site", *(column for column in whole.columns if column != "site")]]


def by_site(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """``stacked`` taken apart again."""
    return {str(name): part for name, part in table.groupby("site", sort=False)}


def latents(table: pd.DataFrame) -> int:
    """Different latents of all sites in a table with several rows a latent: the n of its figure."""
    return len(table[["site", "latent"]].drop_duplicates())


def llm_costs(
    facts: Mapping[str, Mapping[str, object]], *, what: str, first: str = "site"
) -> pd.DataFrame:
    """What LLM stages took, in all and for one ``what``: one row a stage's ``facts``."""
    rows = []
    for name, told in facts.items():
        usage, units = told["usage"], max(told["units"], 1)
        computed = usage["prompt_tokens"] - usage["cached_tokens"] + usage["generated_tokens"]
        row = {first: name, f"{what}s": told["units"], "failures": told.get("failures", 0)}
        row |= {"seconds in the LLM": usage["seconds"]}
        row |= {f"seconds a {what}": usage["seconds"] / units}
        row |= {f"tokens computed a {what}": computed / units}
        cached = usage["cached_tokens"] / max(usage["prompt_tokens"], 1)
        rows.append(row | {"share of prompt tokens from the cache": cached})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> list[str]:
    """The lines of a table in Markdown."""
    head = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    return head + ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]

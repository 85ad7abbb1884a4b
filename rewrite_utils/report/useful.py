"""Which latents' predictions are worth something to the model, beside their scores (notebook 07).

In: sites of a run. Out: one row a latent, measured on held-out calibrate windows, or a sentence
that says how to ask for it.
"""

from collections.abc import Mapping

import pandas as pd

from rewrite_utils import stats
from rewrite_utils.report import display
from rewrite_utils.report.display import Html
from rewrite_utils.report.show import frame
from rewrite_utils.report.tables import intervals
from rewrite_utils.runs.run import Run
from rewrite_utils.stages import SiteStages

NONE = "Not measured: rewrite.orders does not name useful (params/embedded-full.yaml does)."


def useful_latents(run: Run, sites: Mapping[str, SiteStages], *, each: int) -> Html:
    """The most and the least useful latents of each site; or that nobody asked."""
    if "useful" not in run.params.rewrite.orders:
        return Html(f"<p>{display.visible(NONE)}</p>", NONE)
    tables = [_ends(usefulness(site), each).assign(site=name) for name, site in sites.items()]
    table = pd.concat(tables, ignore_index=True)
    shown = {"site": table["site"], "latent": table["latent"], "windows": table["windows"]}
    shown |= {"CE won": intervals(table, "usefulness"), "at stake": intervals(table, "at_stake")}
    shown |= {"detection F1": table["f1"], "share of the output": table["share"]}
    told = "; ".join(_agreement(name, site) for name, site in sites.items())
    text = Html(f"<p>{display.visible(told)}</p>", told)
    return frame(pd.DataFrame(shown | {"sentence": table["sentence"]})) + text


def usefulness(site: SiteStages) -> pd.DataFrame:
    """One row a simulated latent, the most useful first: usefulness, score, share of the output."""
    table = site.usefulness.set_index("latent")
    f1 = site.scores.set_index("latent")["f1"]
    share = pd.Series(site.energy / site.energy.sum()).reindex(table.index)
    told = pd.Series(site.sentences).reindex(table.index)
    table = table.assign(f1=f1.reindex(table.index), share=share, sentence=told)
    return table.reset_index().sort_values("usefulness", ascending=False, kind="stable")


def _ends(table: pd.DataFrame, each: int) -> pd.DataFrame:
    """The first and the last rows, none twice."""
    return pd.concat([table.head(each), table.iloc[each:].tail(each)])


def _agreement(name: str, site: SiteStages) -> str:
    """Does the detection score, or the share of the output, say who is useful?"""
    table = usefulness(site)
    parts = []
    for column, said in (("f1", "detection F1"), ("share", "share of the output")):
        pairs = table[["usefulness", column]].dropna().to_numpy()
        if len(pairs) < 2:
            parts.append(f"{said} not measurable (n = {len(pairs)} latents)")
            continue
        found = stats.rank_correlation(*pairs.T, unit="latent", seed=site.params.seed)
        ends = f"[{found.low:+.2f}, {found.high:+.2f}]"
        parts.append(f"{said} {found.value:+.2f} {ends} (n = {found.n} latents)")
    return f"{name}: rank correlation of usefulness with {', '.join(parts)}"

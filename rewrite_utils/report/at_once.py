"""Several layers at once, as a figure and a table (notebook 11); or how to ask for them.

In: a run whose parameters switch it on. Out: what each further layer costs, whether a rewrite still
beats ablation, and whether the errors of the layers compound.
"""

from collections.abc import Mapping

import pandas as pd

from rewrite_utils.report import coder_plots, display, plots
from rewrite_utils.report.display import Html
from rewrite_utils.report.show import frame, keep
from rewrite_utils.report.tables import intervals
from rewrite_utils.rewrite import at_once
from rewrite_utils.runs.run import Run
from rewrite_utils.stages import SiteStages
from rewrite_utils.stages import at_once as stages

NONE = (
    "Several layers at once: not measured, studies.layers_at_once is off "
    "(params/beyond/layers_at_once.yaml switches it on)."
)


def layers_at_once(run: Run, sites: Mapping[str, SiteStages]) -> Html:
    """Show and keep the figure, and return the table; or say that nobody asked."""
    if not run.params.studies.layers_at_once:
        return Html(f"<p>{display.visible(NONE)}</p>", NONE)
    table = layers_at_once_table(run, sites)
    windows = int(table["windows"].max())
    figure, axes = plots.panels(2, width=5.6, height=4.2)
    together = growing(table, list(sites))
    coder_plots.layers_at_once(axes[0], together, value="delta", parts=True)
    coder_plots.layers_at_once(axes[1], together, value="minus_mean", parts=False)
    axes[0].set_title(f"{run.params.name}: all latents of each layer, n = {windows} windows")
    axes[1].set_title(f"against mean ablation of the same layers\n{_seen(together)}")
    plots.shared_legend(figure)
    keep(run, "11_at_once", figure, table, unit="window", n=windows)
    return frame(shown(together))


def layers_at_once_table(run: Run, sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """One row a (set of sites, source), with intervals over windows."""
    asked = run.params
    return at_once.judged(
        stages.losses(run, sites), seed=asked.seed, resamples=asked.rewrite.bootstrap
    )


def growing(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The sets that grow by one site, in the order of the file; ``added``: the new one."""
    named = {"+".join(names[: count + 1]): name for count, name in enumerate(names)}
    kept = table[table["places"].isin(named)]
    return kept.assign(added=kept["places"].map(named)).sort_values("count", kind="stable")


def shown(together: pd.DataFrame) -> pd.DataFrame:
    """The table as the notebook shows it."""
    return pd.DataFrame(
        {
            "layers": together["count"],
            "added": together["added"],
            "source": [plots.label(source) for source in together["source"]],
            "windows": together["windows"],
            "ΔCE": intervals(together, "delta"),
            "ΔCE − sum of its layers alone": intervals(together, "over_sum"),
            "CE − mean ablation": intervals(together, "minus_mean"),
        }
    )


def _seen(together: pd.DataFrame) -> str:
    """The smallest difference to mean ablation that the windows can see, for the word list."""
    seen = together[together["source"] == "word list"]["detectable"]
    return f"word list: smallest visible {seen.min():.2f}–{seen.max():.2f} nat"

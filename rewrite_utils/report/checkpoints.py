"""As good as which checkpoint: each arm's loss on the subject's training curve (notebook 07).

In: sites of a run whose subject has checkpoints. Out: a table with the step and its interval, and
the curve with the arms on it. Without checkpoints: a sentence that says how to name some.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from rewrite_utils import stats
from rewrite_utils.report import coder_plots, display, plots
from rewrite_utils.report.display import Html
from rewrite_utils.report.show import frame, keep
from rewrite_utils.rewrite.equivalence import Equivalence, equivalent
from rewrite_utils.rewrite.measure import losses_of
from rewrite_utils.runs.run import Run
from rewrite_utils.stages import SiteStages

NONE = (
    "No checkpoints: subject.checkpoints names none, so nothing is compared with training "
    "(params/pythia-mini.yaml does)."
)
WHOLE = {"coder": 0, "output zero": 0, "output mean": 0}
"""Arms that replace no latent of their own."""


def checkpoints(run: Run, sites: Mapping[str, SiteStages]) -> Html:
    """Show and keep the figure, and return the table; or say that there are no checkpoints."""
    if not run.params.subject.checkpoints:
        return Html(f"<p>{display.visible(NONE)}</p>", NONE)
    figure, axes = plots.panels(2 * len(sites), width=6.0, height=4.0)
    curves, tables = [], []
    for place, (name, site) in enumerate(sites.items()):
        curve, arms = training_curve(site), equivalences(site)
        title = f"{name} ({site.hookpoint.name}), n = {len(site.training_curve)} windows"
        coder_plots.checkpoint_curve(axes[2 * place], curve, arms, title=title)
        final, of = int(curve["step"].max()), site.coder.config.num_latents
        said = f"{name}: {len(site.simulated)} of {of} latents replaced, 95 % over windows"
        coder_plots.training_shares(axes[2 * place + 1], arms, final=final, title=said)
        curves.append(curve.assign(site=name))
        tables.append(arms.assign(site=name))
    whole = pd.concat(tables, ignore_index=True)
    data = pd.concat([pd.concat(curves, ignore_index=True), whole], ignore_index=True)
    n = sum(len(site.training_curve) for site in sites.values())
    keep(run, "07_checkpoints", figure, data, unit="window", n=n)
    named = whole.assign(source=[plots.label(source) for source in whole["source"]])
    return frame(named[["site", "source", "windows", "CE", "as good as"]])


def training_curve(site: SiteStages) -> pd.DataFrame:
    """Mean loss of each checkpoint with its interval over windows."""
    rows = []
    for step, name in zip(site.params.subject.steps, site.training_curve, strict=True):
        found = stats.bootstrap(
            site.training_curve[name].to_numpy(),
            unit="window",
            seed=site.params.seed,
            resamples=site.params.rewrite.bootstrap,
        )
        rows.append({"step": step, "CE": found.value, "CE_low": found.low, "CE_high": found.high})
    return pd.DataFrame(rows)


def equivalences(site: SiteStages) -> pd.DataFrame:
    """One row an arm: the subject itself, the coder, and every arm that replaces all latents."""
    losses = site.losses
    sources = [s for s in losses["source"].unique() if s not in ("coder", "output zero")]
    rows = [_row("untouched", _found(site, losses_of(losses, "coder", column="base_loss")))]
    for source in ("coder", "output zero", *sources):
        rows.append(_row(source, equivalence_of(site, source)))
    return pd.DataFrame(rows)


def equivalence_of(site: SiteStages, source: str) -> Equivalence:
    """Where on the training curve one arm stands, every described latent replaced."""
    count = WHOLE.get(source, len(site.simulated))
    return _found(site, losses_of(site.losses, source, count))


def _found(site: SiteStages, patched: np.ndarray) -> Equivalence:
    """The arm's windows are the first of the curve's: the simulated ones come first."""
    asked = site.params
    return equivalent(
        site.training_curve.to_numpy(np.float64)[: len(patched)],
        patched.astype(np.float64),
        asked.subject.steps,
        seed=asked.seed,
        resamples=asked.rewrite.bootstrap,
    )


def _row(source: str, found: Equivalence) -> dict[str, object]:
    return {
        "source": source,
        "windows": found.windows,
        "CE": found.loss,
        "first_step": found.first,
        "last_step": found.last,
        "step_low": found.low,
        "step_high": found.high,
        "crossings": found.crossings,
        "as good as": found.answer,
    }

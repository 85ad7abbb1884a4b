"""One number a notebook, with its interval, n and unit; kept for the runner's table and the
report."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from rewrite_utils import stats
from rewrite_utils.report import display
from rewrite_utils.report.display import Html
from rewrite_utils.report.tables import headline_row, latent_aurocs, mean_of_latents
from rewrite_utils.rewrite.arms import before_topk
from rewrite_utils.runs.run import Run
from rewrite_utils.stages import SiteStages


def headline(run: Run, notebook: str, text: str) -> Html:
    """Keep a notebook's result and show it."""
    run.headline(notebook, {"text": text})
    return Html(f"<p><b>{display.visible(text)}</b></p>", text)


def headlines(run: Run) -> Html:
    """The results of all notebooks that have run."""
    rows = [(name, record["text"]) for name, record in run.headlines.items()]
    return display.table(rows, ["notebook", "result"])


def coder_headline(sites: Mapping[str, SiteStages]) -> str:
    """FVU and range of each site's coder."""
    parts = []
    for name, site in sites.items():
        arms = site.quality.set_index("arm")
        coder, mean = arms.loc["coder"], arms.loc["latents at mean"]
        parts.append(
            f"{name}: FVU {coder['fvu']:.2f}, coder {coder['delta']:+.2f} nat, "
            f"range {mean['delta'] - coder['delta']:.2f} nat (n = {int(coder['rows'])} rows)"
        )
    return "; ".join(parts)


def firing_headline(sites: Mapping[str, SiteStages]) -> str:
    """Mean firing rate and live latents."""
    parts = []
    for name, site in sites.items():
        cache = site.cache("explain")
        alive = int((cache.counts > 0).sum())
        parts.append(
            f"{name}: {alive} of {cache.n_latents} latents fire, mean rate {cache.rate.mean():.3f} "
            f"(n = {cache.n_tokens:,} tokens)"
        )
    return "; ".join(parts)


def explanation_headline(sites: Mapping[str, SiteStages]) -> str:
    """Sentences asked for and failed."""
    tables = [site.explanations for site in sites.values()]
    total = sum(len(table) for table in tables)
    failed = sum(int(table["sentence"].isna().sum()) for table in tables)
    told = [table["explanation"].dropna() for table in tables]
    same = sum(int(texts.duplicated(keep=False).sum()) for texts in told)
    return f"{total - failed} sentences for {total} latents, {failed} failures, {same} not unique"


def score_headline(sites: Mapping[str, SiteStages]) -> str:
    """Mean detection AUROC over latents."""
    return "; ".join(
        f"{name}: detection AUROC {_interval(site.scores['auroc'].dropna().to_numpy(), site)}"
        for name, site in sites.items()
    )


def simulation_headline(sites: Mapping[str, SiteStages]) -> str:
    """Mean AUROC of the ratings over latents, on evaluate windows."""
    parts = []
    for name, site in sites.items():
        ratings = site.ranked("evaluate")
        parts.append(
            f"{name}: rating AUROC {_interval(latent_aurocs(site.true('evaluate'), ratings), site)}"
        )
    return "; ".join(parts)


def calibration_headline(run: Run, losses: pd.DataFrame) -> str:
    """Latent-space loss of the headline calibrator against mean ablation, before any TopK."""
    rows = losses[losses["source"] == before_topk(run.params.rewrite.headline)]
    return "; ".join(
        f"{row.site}: squared error − mean ablation's {row.difference:+.3f} "
        f"[{row.difference_low:+.3f}, {row.difference_high:+.3f}] of the variance "
        f"(n = {row.windows} windows)"
        for row in rows.itertuples()
    )


def rewrite_headline(run: Run, sites: Mapping[str, SiteStages]) -> str:
    """CE of the headline arm minus mean ablation, paired, and what that means."""
    return (
        "; ".join(f"{name}: {_verdict(headline_row(site))}" for name, site in sites.items())
        + f" ({run.params.rewrite.headline})"
    )


def specificity_headline(run: Run, rates: pd.DataFrame) -> str:
    """Mean sensitivity and specificity of the first and the headline calibration.

    A latent that never fires in the windows has no sensitivity: then that has an n of its own.
    """
    asked = run.params.rewrite
    parts = []
    for name, table in rates.groupby("site", sort=False):
        for source in dict.fromkeys([asked.calibrators[0], asked.headline]):
            kept = table[table["source"] == source]
            told = {
                rate: mean_of_latents(kept[rate].dropna().to_numpy(), seed=run.params.seed)
                for rate in ("specificity", "sensitivity")
            }
            fire = int(kept["sensitivity"].notna().sum())
            fewer = f", sensitivity: n = {fire}" if fire < len(kept) else ""
            parts.append(
                f"{name}, {before_topk(source)}: specificity {told['specificity']}, sensitivity "
                f"{told['sensitivity'] or 'not measurable'} (n = {len(kept)} latents{fewer})"
            )
    return "; ".join(parts)


def _verdict(row: pd.Series) -> str:
    low, high = row["minus_mean_low"], row["minus_mean_high"]
    if high < 0:
        meaning = "better than mean ablation"
    elif low > 0:
        meaning = "worse than mean ablation"
    else:
        meaning = "no difference to mean ablation seen"
    return (
        f"CE − mean ablation {row['minus_mean']:+.3f} [{low:+.3f}, {high:+.3f}] nat, "
        f"n = {row['windows']} windows: {meaning}"
    )


def _interval(values: np.ndarray, site: SiteStages) -> str:
    if len(values) < 2:
        return f"not measurable (n = {len(values)} latents)"
    found = stats.bootstrap(values, unit="latent", seed=site.params.seed)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}] (n = {found.n} latents)"

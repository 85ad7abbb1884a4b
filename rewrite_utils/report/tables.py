"""Numbers of a run as tables, with the unit they were counted over."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils import calibrate, stats
from rewrite_utils.calibrate.screened import filled
from rewrite_utils.report.show import stacked
from rewrite_utils.rewrite.arms import before_topk
from rewrite_utils.runs.run import Run, Stage
from rewrite_utils.stages import SiteStages
from rewrite_utils.stats import auroc_value


def rates(site: SiteStages) -> pd.DataFrame:
    """Firing rate, mean, maximum and share of the output of every latent, on the explain rows."""
    cache = site.cache("explain")
    return pd.DataFrame(
        {
            "latent": np.arange(cache.n_latents),
            "rate": cache.rate,
            "mean": cache.mean,
            "maximum": cache.maximum,
            "energy": site.energy,
        }
    )


def llm_costs(stages: Mapping[str, Stage], *, what: str) -> pd.DataFrame:
    """What each site's LLM stage took, in all and for one ``what``."""
    rows = []
    for name, stage in stages.items():
        facts = stage.manifest["facts"]
        usage, units = facts["usage"], max(facts["units"], 1)
        computed = usage["prompt_tokens"] - usage["cached_tokens"] + usage["generated_tokens"]
        rows.append(
            {
                "site": name,
                f"{what}s": facts["units"],
                "failures": facts.get("failures", 0),
                "seconds in the LLM": usage["seconds"],
                f"seconds a {what}": usage["seconds"] / units,
                f"tokens computed a {what}": computed / units,
                "share of prompt tokens from the cache": usage["cached_tokens"]
                / max(usage["prompt_tokens"], 1),
            }
        )
    return pd.DataFrame(rows)


def rating_quality(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """How ratings tell active from silent, on calibrate and evaluate windows."""
    rows = []
    for name, site in sites.items():
        for split in ("calibrate", "evaluate"):
            expected = site.ranked(split)
            true = site.true(split)
            active, centred = true > 0, centred_ranks(expected)
            rows.append(
                {
                    "site": name,
                    "windows": split,
                    "n pairs": active.size,
                    "active": int(active.sum()),
                    "mean E, active": _mean(expected[active]),
                    "mean E, silent": _mean(expected[~active]),
                    "AUROC": auroc_value(active, expected),
                    "AUROC, centred per window": auroc_value(active, centred),
                    "mean AUROC a latent": mean_auroc(true, expected),
                }
            )
    return pd.DataFrame(rows)


def centred_ranks(expected: Float[ndarray, "window latent"]) -> Float[ndarray, "window latent"]:
    """E minus its window's mean; a pair that screening left out (below 0) counts in no mean and
    stays below all others."""
    sent = expected >= 0
    if sent.all():
        return calibrate.center(expected)
    rated = filled(np.where(sent, expected, np.nan))
    moved = calibrate.center(rated, level=float(expected[sent].mean()))
    return np.where(sent, moved, moved[sent].min() - 1)


def latent_aurocs(
    true: Float[ndarray, "window latent"], expected: Float[ndarray, "window latent"]
) -> Float[ndarray, " fires"]:
    """AUROC of each latent that fires in some windows and not in others."""
    pairs = zip(true.T > 0, expected.T, strict=True)
    return np.array([auroc_value(a, e) for a, e in pairs if a.any() and not a.all()])


def mean_auroc(
    true: Float[ndarray, "window latent"], expected: Float[ndarray, "window latent"]
) -> float:
    """Mean of ``latent_aurocs``; NaN where there are none."""
    return _mean(latent_aurocs(true, expected))


def final_arms(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """The verdict's arms that replace every described latent.

    ``range_low``: lower end of what mean ablation costs over the coder; `recovered` is a share of
    that, and of nothing where it is not above 0.
    """
    kept = {name: site.verdict for name, site in sites.items()}
    whole = stacked({name: v[(v["order"] == "all") & (v["count"] > 0)] for name, v in kept.items()})
    room = whole[whole["source"] == "mean"].set_index("site")["over_coder_low"]
    whole = whole.assign(range_low=whole["site"].map(room))
    return whole[whole["source"] != "mean"].reset_index(drop=True)


def verdict_table(final: pd.DataFrame) -> pd.DataFrame:
    """The forest's numbers, each with its 95 % interval over windows.

    "visible": the smallest difference to mean ablation that this many windows can see; "interval":
    how that difference's was made. "CE recovered": "–" where there is no range to recover.
    """
    columns = {"site": final["site"], "source": final["source"], "windows": final["windows"]}
    shown = {"ΔCE": "delta", "CE − mean ablation": "minus_mean", "CE − zero ablation": "minus_zero"}
    columns |= {head: intervals(final, name) for head, name in shown.items()}
    shares = zip(intervals(final, "recovered"), final["range_low"], strict=True)
    recovered = [text if low > 0 else "–" for text, low in shares]
    columns |= {"visible": final["detectable"], "CE recovered": recovered}
    columns |= {"KL": intervals(final, "kl"), "FVU of the output": intervals(final, "fvu")}
    return pd.DataFrame(columns | {"interval": final["method"]})


def paper_statistics(final: pd.DataFrame) -> pd.DataFrame:
    """v1's and v2's statistics of the same losses under their names, beside ours."""
    pairs = zip(final["v2_mean"], final["v2_se"], final["v2_windows"], strict=True)
    return pd.DataFrame(
        {
            "site": final["site"],
            "source": final["source"],
            "windows": final["windows"],
            "ours: mean ΔCE": intervals(final, "delta"),
            "v1: median |ΔCE|": intervals(final, "v1_median"),
            "v2: mean ΔCE ± SE": [f"{m:.3f} ± {s:.3f} (n = {n})" for m, s, n in pairs],
        }
    )


def intervals(table: pd.DataFrame, name: str) -> list[str]:
    """A column with its ``_low`` and ``_high`` as text."""
    columns = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
    return [f"{value:+.3f} {stats.ends(low, high)}" for value, low, high in columns]


def panel_title(site: SiteStages, order: str) -> str:
    """Site, hookpoint, which latents go first, windows."""
    first = {"top": "best scores first", "random": "random order", "useful": "most useful first"}
    return (
        f"{site.name} ({site.hookpoint.name}), {first[order]}, n = {site.settings.evaluate_windows}"
    )


def power(site: SiteStages) -> str:
    """The smallest difference the headline arm could show, beside the range there is."""
    row = headline_row(site)
    coder, mean = site.verdict_of("coder", 0), site.verdict_of("mean", len(site.simulated))
    room = mean["delta"] - coder["delta"]
    return (
        f"{len(site.simulated)} of {site.coder.config.num_latents} latents, "
        f"n = {row['windows']} windows; range {room:.2f}, "
        f"smallest visible {row['detectable']:.2f} nat"
    )


def headline_row(site: SiteStages) -> pd.Series:
    """The verdict of the arm declared before the run, every described latent replaced."""
    return site.verdict_of(site.params.rewrite.headline, len(site.simulated))


def windows(sites: Mapping[str, SiteStages]) -> int:
    """Simulated evaluate windows of all sites."""
    return sum(site.settings.evaluate_windows for site in sites.values())


def latents(table: pd.DataFrame) -> int:
    """Different latents of all sites in a table with several rows a latent: the n of its figure."""
    return len(table[["site", "latent"]].drop_duplicates())


def sensitivity_specificity(
    sites: Mapping[str, SiteStages], sources: Sequence[str] = ()
) -> pd.DataFrame:
    """Both rates of every (latent, calibration) on evaluate windows, with its detection score.

    Of the estimates themselves: a calibration that names a TopK is read before it.
    """
    rows = []
    for name, site in sites.items():
        true = site.true("evaluate")
        f1 = site.scores.set_index("latent")["f1"].reindex(site.simulated).to_numpy()
        threshold = _half_when_active(site)
        for source in sources or site.params.rewrite.calibrators:
            said = site.estimates[source].values > threshold
            active = true > 0
            rows.append(
                pd.DataFrame(
                    {
                        "site": name,
                        "source": source,
                        "latent": site.simulated,
                        "f1": f1,
                        "sensitivity": _share(said & active, active),
                        "specificity": _share(~said & ~active, ~active),
                        "active": active.sum(0),
                        "windows": len(true),
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def rates_by_source(rates: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Mean sensitivity and specificity with 95 % intervals over latents, and false alarms a token.

    A latent that never fires in the windows has no sensitivity; "fire" says how many do.
    """
    rows = []
    for (site, source), part in rates.groupby(["site", "source"], sort=False):
        found = {rate: part[rate].dropna().to_numpy() for rate in ("sensitivity", "specificity")}
        row = {"site": site, "source": before_topk(str(source)), "latents": len(part)}
        row |= {"fire": len(found["sensitivity"])}
        row |= {rate: mean_of_latents(values, seed=seed) for rate, values in found.items()}
        alarms = len(part) * (1 - found["specificity"])
        rows.append(row | {"false alarms a token": mean_of_latents(alarms, seed=seed)})
    return pd.DataFrame(rows)


def mean_of_latents(values: Float[ndarray, " latent"], *, seed: int) -> str:
    """A mean with its 95 % bootstrap interval over latents; without one for a single latent."""
    if len(values) < 2:
        return f"{values[0]:.2f}" if len(values) else ""
    found = stats.bootstrap(values, unit="latent", seed=seed)
    return f"{found.value:.2f} {stats.ends(found.low, found.high, '.2f')}"


def stage_table(run: Run) -> pd.DataFrame:
    """The stages of the run in the order they were first used."""
    events = pd.DataFrame(run.journal)
    return events.drop_duplicates("stage")[["stage", "hash"]].reset_index(drop=True)


def _half_when_active(site: SiteStages) -> Float[ndarray, " latent"]:
    """Half of each simulated latent's mean activation when it fires, on the calibrate rows."""
    cache, latents = site.cache("calibrate"), np.array(site.simulated)
    return 0.5 * cache.mean[latents] / np.maximum(cache.rate[latents], 1e-9)


def _share(hits: ndarray, cases: ndarray) -> Float[ndarray, " latent"]:
    total = cases.sum(0)
    return np.where(total > 0, hits.sum(0) / np.maximum(total, 1), np.nan)


def _mean(values: ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")

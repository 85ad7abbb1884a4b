"""What the notebooks gather of a site in their cells, for the tests of the report."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from rewrite_utils.report import calibrations, claims, coders, ratings, studies, verdicts
from rewrite_utils.rewrite.measure import losses_of
from rewrite_utils.score.stage import KINDS as SCORE_KINDS
from rewrite_utils.site import SiteStages
from rewrite_utils.stats import Estimate
from rewrite_utils.subject.stage import CACHED_SPLITS


def rates_of(site: SiteStages) -> pd.DataFrame:
    """Notebook 08: sensitivity and specificity of every latent and calibration."""
    cache, latents = site.cache("calibrate"), site.simulated
    told = {source: site.estimates[source].values for source in site.params.rewrite.calibrators}
    return ratings.rates(
        site.true("evaluate"),
        told,
        threshold=0.5 * cache.mean[latents] / np.maximum(cache.rate[latents], 1e-9),
        latents=latents,
        f1=site.scores.set_index("latent")["f1"].reindex(latents).to_numpy(),
    )


def odds_of(site: SiteStages) -> float:
    """Notebook 08: silent latents for every active one."""
    rate = site.cache("calibrate").rate[site.studied].mean()
    return float((1 - rate) / rate)


def even_of(site: SiteStages, *, topk: bool) -> Estimate:
    """Notebook 08: where false alarms break even."""
    told = {"silent_to_active": odds_of(site), "seed": site.params.seed}
    return studies.break_even(site.specificity, topk=topk, **told)


def found_of(site: SiteStages) -> claims.Found:
    """Notebook 09: what the claims are judged on."""
    asked, checkpoint = site.params.rewrite, None
    draws = {"seed": site.params.seed, "resamples": asked.bootstrap}
    if site.params.subject.checkpoints:
        told = losses_of(site.losses, "coder"), site.training_curve, site.params.subject.steps
        checkpoint = verdicts.equivalence(*told, **draws)
    return claims.Found(
        site=site.name,
        kind=site.hookpoint.kind,
        calibrators=asked.calibrators,
        headline=asked.headline,
        losses=site.losses,
        true=site.true("evaluate"),
        estimates={source: site.estimates[source].values for source in asked.calibrators},
        target=site.evidence.target,
        rates=rates_of(site),
        fewer=site.fewer,
        even=even_of(site, topk=True),
        checkpoint=checkpoint,
        **draws,
    )


def coder_table(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """Notebooks 01, 09 and 11: one row a coder."""
    rows = []
    for name, site in sites.items():
        rate, tokens = coders.rates([site.cache(split) for split in CACHED_SPLITS])
        told = site.quality, site.coder.config, site.hookpoint, rate
        random = site.settings.coder == "random"
        rows.append({"site": name} | coders.row(*told, tokens=tokens, random=random))
    return pd.DataFrame(rows)


def measured_of(site: SiteStages) -> calibrations.Measured:
    """Notebook 06: what a calibration is measured on."""
    return calibrations.Measured(
        evidence=site.evidence,
        rows=site.simulated_windows("calibrate").rows,
        ratings=site.ratings("evaluate"),
        whole=site.cache("evaluate").dense(site.simulated_windows("evaluate")),
        latents=site.simulated,
        decoder=site.coder.W_dec.detach().cpu().numpy(),
        k=site.coder.config.k,
        seed=site.params.seed,
    )


def losses_in_latent_space(site: SiteStages, names: list[str]) -> pd.DataFrame:
    """Notebook 06: of some calibrations and the two controls."""
    free = {source: site.estimates[source].values for source in ("token table", "word list")}
    measured = measured_of(site)
    controls = {source: values[: len(measured.whole)] for source, values in free.items()}
    return calibrations.losses(measured, names, controls)


def compared(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """Notebook 12: one row a (site, kind of explanation, test, latent)."""
    found = [
        one.scores_of(test).assign(site=name, kind=kind, test=SCORE_KINDS[test].label)
        for name, site in sites.items()
        for kind, one in site.variants.items()
        for test in one.score_kinds
        if test != "shuffled"
    ]
    return pd.concat(found, ignore_index=True)

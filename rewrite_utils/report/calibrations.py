"""Tables of notebook 06: how every alternative does in latent space, out of sample and why.

In: the sites' ratings, truths and coders. Out: one row a (site, calibration) or a latent. The unit
is mean ablation's squared error; every difference is paired over windows. Errors are those of the
hooked output, ‖(a − â) W_dec‖², with the cross terms between latents that write alike.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils import calibrate, stats
from rewrite_utils.calibrate import Losses, Quantile
from rewrite_utils.calibrate.oracle import rating_shape
from rewrite_utils.rewrite import studies
from rewrite_utils.rewrite.arms import before_topk
from rewrite_utils.stages import SiteStages
from rewrite_utils.stages.studies import held_out, material
from rewrite_utils.subject.splice.sources import mix

ALTERNATIVES = (
    "raw",
    "temperature",
    "prior_shift",
    "quantile:type7",
    "quantile:type8",
    "global_shrink",
    "isotonic",
    "isotonic_shrunk",
    "two_part",
    "isotonic_pooled",
    "logistic_pooled",
    "centred+isotonic_pooled",
    "centred+standardised+isotonic_pooled",
    "centred+standardised+capped+isotonic_pooled",
    "centred+standardised+logistic_pooled",
)
"""Every calibration there is, the paper's first; ``global_shrink`` shrinks quantile type 8."""
UNSEEN, KEPT = "evaluate", "evaluate, top k"
HELD, OWN = "calibrate, held out", "calibrate, in-sample"
"""Where a loss was measured: windows of other rows; the same after TopK; cross-validated on the
calibrate windows; on the windows that were fitted."""


def latent_losses(
    sites: Mapping[str, SiteStages], names: Sequence[str] = ALTERNATIVES
) -> pd.DataFrame:
    """Squared error minus mean ablation's, in units of mean ablation's: below 0 is a gain.

    One row a (site, calibration, place), the headline always among them; the two controls without
    an LLM stand at the end. 95 % bootstrap intervals over windows.
    """
    rows = []
    for site in sites.values():
        declared = before_topk(site.params.rewrite.headline)
        for source, where, found in _measured(site, list(dict.fromkeys([*names, declared]))):
            interval = stats.bootstrap(found.difference, unit="window", seed=site.params.seed)
            row = {"site": site.name, "source": source, "where": where, "windows": interval.n}
            row |= {"difference": interval.value}
            rows.append(row | {"difference_low": interval.low, "difference_high": interval.high})
    return pd.DataFrame(rows)


def choice(sites: Mapping[str, SiteStages], first: str, others: Iterable[str]) -> pd.DataFrame:
    """Cross-validated loss of ``others`` minus that of ``first``, paired over calibrate windows.

    The only evidence that may choose a calibration: the evaluate windows are not looked at.
    """
    rows = []
    for site in sites.values():
        against = _held_out(site, first)
        for source in others:
            difference = _held_out(site, source).estimate - against.estimate
            found = stats.bootstrap(difference, unit="window", seed=site.params.seed)
            rows.append(
                {
                    "site": site.name,
                    "calibration": source,
                    f"loss − {first}'s": found.value,
                    "95 %": stats.ends(found.low, found.high),
                    "calibrate windows": found.n,
                }
            )
    return pd.DataFrame(rows)


def condition(
    sites: Mapping[str, SiteStages], *, by: str = "quantile:type8", aurocs: Sequence[float] = ()
) -> pd.DataFrame:
    """ρ of each latent after matching, beside its squared error in units of mean ablation's.

    ``what``: the simulator's ratings at its few windows, and corrupted oracles at many. A latent
    that is silent in the evaluate windows has no row; one whose matched estimate is the same in all
    of them has no ρ (NaN), but its error counts.
    """
    tables = []
    for site in sites.values():
        estimate = site.evidence.calibrated(by, site.ratings("evaluate"))
        means = site.cache("calibrate").mean[site.simulated]
        real = _per_latent(site.true("evaluate"), estimate, means)
        tables.append(real.assign(site=site.name, what="simulator"))
        asked, given = site.params.studies, material(site)
        held = given.windows(given.evaluate, asked.held_windows, 4)
        for auroc in aurocs:
            fitted, test = studies.rated(given, held, auroc=auroc, windows=max(asked.sizes))
            transform = Quantile().fit(fitted.ratings, fitted.true, target=given.target)
            found = _per_latent(test.true, transform(test.ratings), given.target.mean)
            tables.append(found.assign(site=site.name, what=f"oracle of AUROC {auroc:g}"))
    return pd.concat(tables, ignore_index=True)


def condition_table(latents: pd.DataFrame) -> pd.DataFrame:
    """How many latents meet ρ > ½, and how many lose less than mean ablation.

    ``latents``: those that fire; ``with_rho``: those of them that the median is over.
    """
    grouped = latents.groupby(["site", "what"], sort=False)
    return grouped.agg(
        windows=("windows", "first"),
        latents=("rho", "size"),
        with_rho=("rho", "count"),
        median_rho=("rho", "median"),
        above_half=("rho", lambda rho: int((rho > 0.5).sum())),
        beat_the_mean=("loss", lambda loss: int((loss < 1).sum())),
    ).reset_index()


def before_and_after(
    site: SiteStages, names: Sequence[str], *, windows: int | None = None
) -> dict[str, Float[ndarray, "window latent"]]:
    """True and calibrated activations of the evaluate windows (the paper's figure 1).

    ``windows``: only the first so many calibrate windows are fitted on (figure A1).
    """
    ratings = site.ratings("evaluate")
    evidence = site.evidence.first(windows or site.settings.calibrate_windows)
    told = {name: evidence.calibrated(name, ratings) for name in names}
    return {"true": site.true("evaluate"), **told}


def _measured(site: SiteStages, names: Sequence[str]) -> Iterable[tuple[str, str, Losses]]:
    ratings, true = site.ratings("evaluate"), site.true("evaluate")
    for name in names:
        estimate = site.evidence.calibrated(name, ratings)
        yield name, UNSEEN, _loss(site, true, estimate)
        yield name, KEPT, _after_topk(site, estimate)
        yield name, HELD, _held_out(site, name)
        own = site.evidence.calibrated(name, site.evidence.ratings)
        yield name, OWN, _loss(site, site.evidence.true, own)
    for name in ("token table", "word list"):
        estimate = site.estimates[name].values[: len(true)]
        yield name, UNSEEN, _loss(site, true, estimate)
        yield name, KEPT, _after_topk(site, estimate)


def _held_out(site: SiteStages, name: str) -> Losses:
    """Every calibrate window by a calibration fitted on the other folds; a row is in one fold."""
    return _loss(site, site.evidence.true, held_out(site, name))


def _loss(
    site: SiteStages,
    true: Float[ndarray, "window latent"],
    estimate: Float[ndarray, "window latent"],
) -> Losses:
    mean, decoder = site.evidence.target.mean, _decoder(site)[site.simulated]
    return calibrate.losses(true, estimate, mean, decoder=decoder)


def _after_topk(site: SiteStages, estimate: Float[ndarray, "window latent"]) -> Losses:
    """The loss when the k largest of all latents are kept: true ones may fall out as well.

    Its mean ablation, of the described latents, leaves all others true.
    """
    whole = site.cache("evaluate").dense(site.simulated_windows("evaluate"))
    told, ablated, chosen = whole.copy(), whole.copy(), np.zeros(whole.shape[1], bool)
    told[:, site.simulated], chosen[site.simulated] = estimate, True
    ablated[:, site.simulated] = site.evidence.target.mean
    arguments = (torch.from_numpy(array) for array in (whole, told, chosen))
    kept = mix(*arguments, k=site.coder.config.k).numpy()
    return calibrate.losses(whole, kept, ablated, decoder=_decoder(site))


def _decoder(site: SiteStages) -> Float[ndarray, "latent d_out"]:
    return site.coder.W_dec.detach().double().cpu().numpy()


def _per_latent(
    true: Float[ndarray, "window latent"],
    estimate: Float[ndarray, "window latent"],
    mean: Float[ndarray, " latent"],
) -> pd.DataFrame:
    found = calibrate.correlations(true, estimate)
    error, ablated = (np.square(true - e, dtype=float).mean(0) for e in (estimate, mean))
    table = {"rho": found.rho, "loss": error / np.maximum(ablated, 1e-12)}
    table |= {"positives": found.positives}
    return pd.DataFrame(table)[found.positives > 0].assign(windows=len(true))


def shown_ratings(sites: Mapping[str, SiteStages]) -> pd.DataFrame:
    """What the simulator says: the range of its ratings, and where their variance comes from.

    Of the pairs that were rated; screened ratings have gaps, and then no two-way layout (NaN).
    """
    rows = []
    for site in sites.values():
        ratings = site.evidence.ratings.expected.astype(np.float64)
        rated = ~np.isnan(ratings)
        told, shape = ratings[rated], rating_shape(ratings)
        total = told.var()
        rows.append(
            {
                "site": site.name,
                "ratings": told.size,
                "least": told.min(),
                "median": np.median(told),
                "largest": told.max(),
                "share of variance: windows": shape.window**2 / total,
                "sentences": shape.latents.var() / total,
                "the rest": shape.rest**2 / total,
                "silent pairs": float((site.evidence.true == 0)[rated].mean()),
            }
        )
    return pd.DataFrame(rows)

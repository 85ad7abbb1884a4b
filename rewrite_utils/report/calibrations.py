"""How every calibration does in latent space, out of sample and why (notebook 06).

In: ratings, truths and the coder's decoder. Out: one row a calibration or a latent. The unit is
mean ablation's squared error; every difference is paired over windows. Errors are those of the
hooked output, ‖(a − â) W_dec‖², with the cross terms between latents that write alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils import calibrate, stats
from rewrite_utils.calibrate import Losses, Quantile
from rewrite_utils.report import tables
from rewrite_utils.rewrite import studies
from rewrite_utils.rewrite.estimates import Evidence
from rewrite_utils.rewrite.studies import Material
from rewrite_utils.simulate import Ratings
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


@dataclass(frozen=True)
class Measured:
    """What a calibration of one site is measured on."""

    evidence: Evidence
    """Ratings beside the truth at the calibrate windows."""
    rows: Int[ndarray, " fitted"]
    """The row of text of each calibrate window: a row is in one fold."""
    ratings: Ratings
    """Of the evaluate windows."""
    whole: Float[ndarray, "window every"]
    """True activations of all latents at the evaluate windows."""
    latents: Sequence[int]
    """Those that have a sentence: the columns of the ratings."""
    decoder: Float[ndarray, "every d_model"]
    """The coder's decoder."""
    k: int
    """Latents that the coder's TopK keeps."""
    seed: int
    """Of the folds and the intervals."""

    @property
    def true(self) -> Float[ndarray, "window latent"]:
        """True activations of the described latents at the evaluate windows."""
        return self.whole[:, self.latents]

    def loss(
        self, true: Float[ndarray, "window latent"], estimate: Float[ndarray, "window latent"]
    ) -> Losses:
        """Squared error of each window in units of mean ablation's."""
        mean, decoder = self.evidence.target.mean, self.decoder[self.latents].astype(np.float64)
        return calibrate.losses(true, estimate, mean, decoder=decoder)

    def held_out(self, name: str) -> Losses:
        """Every calibrate window by a calibration fitted on the other folds."""
        estimate = self.evidence.held_out(name, self.rows, seed=self.seed)
        return self.loss(self.evidence.true, estimate)

    def after_topk(self, estimate: Float[ndarray, "window latent"]) -> Losses:
        """When the k largest of all latents are kept: true ones may fall out as well.

        Its mean ablation, of the described latents, leaves all others true.
        """
        told, ablated = self.whole.copy(), self.whole.copy()
        told[:, self.latents], ablated[:, self.latents] = estimate, self.evidence.target.mean
        chosen = np.isin(np.arange(self.whole.shape[1]), self.latents)
        arguments = (torch.from_numpy(array) for array in (self.whole, told, chosen))
        kept = mix(*arguments, k=self.k).numpy()
        return calibrate.losses(self.whole, kept, ablated, decoder=self.decoder.astype(np.float64))


def losses(
    measured: Measured,
    names: Sequence[str],
    controls: Mapping[str, Float[ndarray, "window latent"]],
) -> pd.DataFrame:
    """Squared error minus mean ablation's, in units of mean ablation's: below 0 is a gain.

    One row a (calibration, place); the ``controls``, which need no LLM, stand at the end. 95 %
    bootstrap intervals over windows.
    """
    rows = []
    for source, where, found in _losses(measured, names, controls):
        interval = stats.bootstrap(found.difference, unit="window", seed=measured.seed)
        row = {"source": source, "where": where, "windows": interval.n}
        rows.append(row | interval.named("difference"))
    return pd.DataFrame(rows)


def _losses(
    measured: Measured,
    names: Sequence[str],
    controls: Mapping[str, Float[ndarray, "window latent"]],
) -> Iterator[tuple[str, str, Losses]]:
    evidence = measured.evidence
    for name in names:
        estimate = evidence.calibrated(name, measured.ratings)
        yield name, UNSEEN, measured.loss(measured.true, estimate)
        yield name, KEPT, measured.after_topk(estimate)
        yield name, HELD, measured.held_out(name)
        own = evidence.calibrated(name, evidence.ratings)
        yield name, OWN, measured.loss(evidence.true, own)
    for name, estimate in controls.items():
        yield name, UNSEEN, measured.loss(measured.true, estimate)
        yield name, KEPT, measured.after_topk(estimate)


def headline(losses: pd.DataFrame) -> str:
    """Latent-space loss of one calibration against mean ablation, a site a row."""
    told = zip(losses.itertuples(), tables.intervals(losses, "difference"), strict=True)
    return "; ".join(
        f"{row.site}: squared error − mean ablation's {found} of the variance "
        f"(n = {row.windows} windows)"
        for row, found in told
    )


def choice(measured: Measured, first: str, others: Sequence[str]) -> pd.DataFrame:
    """Cross-validated loss of ``others`` minus that of ``first``, paired over calibrate windows.

    The only evidence that may choose a calibration: the evaluate windows are not looked at.
    """
    rows, against = [], measured.held_out(first)
    for source in others:
        difference = measured.held_out(source).estimate - against.estimate
        found = stats.bootstrap(difference, unit="window", seed=measured.seed)
        row = {"calibration": source, f"loss − {first}'s": found.value}
        row |= {"95 %": stats.ends(found.low, found.high), "calibrate windows": found.n}
        rows.append(row)
    return pd.DataFrame(rows)


def condition(
    true: Float[ndarray, "window latent"],
    estimate: Float[ndarray, "window latent"],
    mean: Float[ndarray, " latent"],
) -> pd.DataFrame:
    """ρ of each latent between truth and estimate, beside its squared error in units of mean
    ablation's.

    A latent that is silent in the windows has no row; one whose estimate is the same in all of them
    has no ρ (NaN), but its error counts.
    """
    found = calibrate.correlations(true, estimate)
    error, ablated = (np.square(true - e, dtype=float).mean(0) for e in (estimate, mean))
    table = {"rho": found.rho, "loss": error / np.maximum(ablated, 1e-12)}
    table |= {"positives": found.positives}
    return pd.DataFrame(table)[found.positives > 0].assign(windows=len(true))


def oracle_condition(material: Material, *, auroc: float, windows: int, held: int) -> pd.DataFrame:
    """``condition`` of a corrupted oracle, matched on ``windows``, at ``held`` other windows."""
    drawn = material.windows(material.evaluate, held, 4)
    fitted, test = studies.rated(material, drawn, auroc=auroc, windows=windows)
    transform = Quantile().fit(fitted.ratings, fitted.true, target=material.target)
    return condition(test.true, transform(test.ratings), material.target.mean)


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

"""What calibration could do with any number of windows, and what false alarms cost: no LLM.

In: latent caches of the calibrate and the evaluate rows, the shape of real ratings. Out: tables and
estimates for the splice. Ratings are a corrupted oracle's (oracle.py), never the simulator's, and
every table's source says so. Where: figures A1 and A2 of the paper, and issue 6, point 2.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils import calibrate
from rewrite_utils.calibrate import ESTIMATORS, Quantile, QuantileTransform, Target
from rewrite_utils.calibrate.oracle import Oracle, RatingShape, rating_shape, with_false_alarms
from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.stage import Caches
from rewrite_utils.latents.windows import draw_windows
from rewrite_utils.params import Params
from rewrite_utils.params.measuring import Studies
from rewrite_utils.rewrite.arms import TOPK, Arm, Estimate
from rewrite_utils.rewrite.estimates import target_of
from rewrite_utils.simulate.stage import Rated as Simulated

ALL_TOKENS, SAME_WINDOWS = "all tokens", "same windows"
"""Where F_true comes from: every token of the calibrate rows (v1), or the rated windows (v2)."""
FLOOR = "true quantiles"
"""The mismatch of F_true itself, laid out at mid-ranks: what differs between rows."""


class Material(NamedTuple):
    """What the studies of one site read."""

    calibrate: LatentCache
    """Activations of the calibrate rows."""
    evaluate: LatentCache
    """Activations of the evaluate rows."""
    latents: Int[ndarray, " latent"]
    """The latents studied."""
    shape: RatingShape
    """Shape of the simulator's real ratings of the calibrate windows."""
    positions: tuple[int, int]
    """First and last position of a row that is rated."""
    seed: int
    """Of every draw."""

    @property
    def target(self) -> Target:
        """True activations at every token of the calibrate rows."""
        return target_of(self.calibrate, self.latents)

    def windows(self, cache: LatentCache, count: int, *key: int) -> Windows:
        """``count`` windows of these rows; fewer ones with the same key are the first of them."""
        first, last = self.positions
        generator = np.random.default_rng([self.seed, *key])
        where = cache.measured
        return draw_windows(where, count, first=first, last=last, generator=generator)

    def true(self, cache: LatentCache, windows: Windows) -> Float[ndarray, "window latent"]:
        """True activations of the studied latents."""
        return cache.dense(windows)[:, self.latents]


def studied(*, cache: Caches, params: Params) -> Int[ndarray, " latent"]:
    """All latents that fire in the calibrate rows, or as many of them as the studies take."""
    alive = np.flatnonzero(cache("calibrate").counts > 0)
    most = params.studies.latents
    if len(alive) <= most:
        return alive
    return np.sort(np.random.default_rng(params.seed).choice(alive, most, replace=False))


def material(
    *, cache: Caches, studied: Int[ndarray, " latent"], ratings: Simulated, params: Params
) -> Material:
    """What the studies with an oracle read: its ratings take the shape of the calibrate ratings."""
    shape = rating_shape(np.maximum(ratings.ranked("calibrate"), 0))
    calibrate, evaluate = cache("calibrate"), cache("evaluate")
    return Material(calibrate, evaluate, studied, shape, params.rated_positions, params.draws)


class Rated(NamedTuple):
    """Windows with an oracle's ratings."""

    true: Float[ndarray, "window latent"]
    """True activations."""
    ratings: Float[ndarray, "window latent"]
    """The oracle's ratings, float16."""

    def first(self, count: int) -> "Rated":
        """The first ``count`` windows."""
        return Rated(self.true[:count], self.ratings[:count])


def rated(
    material: Material, held: Windows, *, auroc: float, windows: int, draw: int = 0
) -> tuple[Rated, Rated]:
    """Calibrate windows and the ``held`` evaluate windows, rated by one oracle."""
    key = [material.seed, draw, round(1000 * auroc)]
    generator = np.random.default_rng(key)
    oracle = Oracle.of(material.shape, material.target, auroc=auroc, generator=generator)
    fitted = material.windows(material.calibrate, windows, 2, draw)
    truths = (material.true(material.calibrate, fitted), material.true(material.evaluate, held))
    first, second = (Rated(t, oracle.ratings(t, generator=generator)) for t in truths)
    return first, second


def estimator_mismatch(material: Material, asked: Studies) -> pd.DataFrame:
    """Mismatch on evaluate windows of all nine estimators, for every size of calibration sample.

    One row a (draw, source of F_true, estimator, n): ``wasserstein``, in units of each latent's
    mean activation, averaged over latents; ``spurious`` maxima, a window; ``firings`` a latent.
    """
    rows, auroc, target = [], asked.aurocs[0], material.target
    for draw in range(asked.draws):
        held = material.windows(material.evaluate, asked.held_windows, 3, draw)
        fitted, test = rated(material, held, auroc=auroc, windows=max(asked.sizes), draw=draw)
        rows.append(_floor(target, test.true) | {"draw": draw})
        for n in asked.sizes:
            found = _mismatches(fitted.first(n), test, target)
            rows += [row | {"draw": draw, "n": n} for row in found]
    table, rate = pd.DataFrame(rows), target.positives.mean() / target.total
    return table.assign(auroc=auroc, latents=len(material.latents), firings=table["n"] * rate)


def _mismatches(fitted: Rated, test: Rated, target: Target) -> Iterator[dict]:
    for name in ESTIMATORS:
        for source, larger in ((ALL_TOKENS, target), (SAME_WINDOWS, None)):
            if larger is None and not fitted.true.any():
                continue
            transform = Quantile(name, name).fit(fitted.ratings, fitted.true, target=larger)
            assert isinstance(transform, QuantileTransform)
            maximum = transform.target.maximum
            found = calibrate.mismatch(test.true, transform(test.ratings), maximum)
            distance = float((found.wasserstein / target.mean).mean())
            row = {"target": source, "estimator": name, "type": ESTIMATORS[name].number}
            yield row | {"wasserstein": distance, "spurious": found.spurious_maxima}


def _floor(target: Target, true: Float[ndarray, "window latent"]) -> dict:
    """The nine lines cannot go below this: F_true's own quantiles against the evaluate windows."""
    n = len(true)
    ideal = np.stack([_quantiles(target, j, n) for j in range(target.latents)], axis=1)
    distance = np.abs(np.sort(true, axis=0) - ideal).mean(axis=0) / target.mean
    return {"target": FLOOR, "estimator": FLOOR, "n": 0, "wasserstein": float(distance.mean())}


def _quantiles(target: Target, latent: int, n: int) -> Float[ndarray, " window"]:
    positive = target.of(latent)
    rank = ((np.arange(n) + 0.5) / n * target.total).astype(np.int64)
    place = rank - (target.total - len(positive))
    return np.concatenate([[0.0], positive])[np.maximum(place + 1, 0)]


def oracle_name(auroc: float, windows: int, calibrator: str) -> str:
    """A source's name; ``read_oracle_name`` takes it apart."""
    return f"oracle of AUROC {auroc:g}, {windows} windows: {calibrator}"


def read_oracle_name(name: str) -> dict[str, float | int | str]:
    """AUROC, n and calibrator of a source; empty for any other source."""
    if not name.startswith("oracle of AUROC "):
        return {}
    head, _, calibrator = name.partition(": ")
    auroc, windows = head.removeprefix("oracle of AUROC ").removesuffix(" windows").split(", ")
    return {"auroc": float(auroc), "n": int(windows), "calibrator": calibrator}


def oracle_estimates(
    material: Material, held: Windows, asked: Studies
) -> dict[str, Float[ndarray, "window latent"]]:
    """Every calibrator fitted on ratings of every quality, the fewest and the most, applied to
    ``held``."""
    found, most = {}, max(asked.sizes)
    for auroc in asked.aurocs:
        fitted, test = rated(material, held, auroc=auroc, windows=most)
        for n in (min(asked.sizes), most):
            part = fitted.first(n)
            for name in asked.calibrators:
                method = calibrate.calibrator(name.removesuffix(TOPK))
                transform = method.fit(part.ratings, part.true, target=material.target)
                found[oracle_name(auroc, n, name)] = transform(test.ratings)
    return found


def alarm_name(specificity: float, *, topk: bool) -> str:
    """A source's name; ``read_alarm_name`` takes it apart."""
    return f"specificity {specificity:g}" + TOPK * topk


def read_alarm_name(name: str) -> dict[str, float | bool]:
    """Specificity and whether TopK follows; empty for any other source."""
    if not name.startswith("specificity "):
        return {}
    level = name.removeprefix("specificity ").removesuffix(TOPK)
    return {"specificity": float(level), "topk": name.endswith(TOPK)}


def alarm_estimates(
    true: Float[ndarray, "window latent"],
    target: Target,
    *,
    specificities: Sequence[float],
    seed: int,
    topk: bool,
) -> dict[str, Float[ndarray, "window latent"]]:
    """True activations with false alarms at every specificity; if the coder can, also with TopK
    afterwards."""
    found = {}
    for level in specificities:
        values = with_false_alarms(true, target, specificity=level, seed=seed)
        found |= {alarm_name(level, topk=cut): values for cut in (False, True)[: 1 + topk]}
    return found


def with_ablations(
    estimates: Mapping[str, Float[ndarray, "window latent"]], mean: Float[ndarray, " latent"]
) -> dict[str, Estimate]:
    """The sources with both ablations of the same latents, as arms that replace all of them."""
    shape = next(iter(estimates.values())).shape
    both = {"zero": np.zeros(shape), "mean": np.broadcast_to(mean, shape)}
    arms = both | dict(estimates)
    return {name: Estimate(a.astype(np.float32), ("top",)) for name, a in arms.items()}


def averaged(losses: pd.DataFrame) -> pd.DataFrame:
    """One row a (window, arm): each floor's mean over its derangements."""
    source = losses["source"].str.replace(r" \d+(?=(\+topk)?$)", "", regex=True)
    arm = ["window", *Arm._fields]
    return losses.assign(source=source).groupby(arm, sort=False, as_index=False).mean()

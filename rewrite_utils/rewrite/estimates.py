"""What every source says about the latents at the evaluate windows: ablations, controls,
calibrations.

In: the ratings of the calibrate and the evaluate windows, true activations of the calibrate rows.
Out: one array a source. Everything is fitted on rows that are not evaluated. Paper §5–6.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils.calibrate import Calibrator, Target, Transform, calibrator, cross_fit
from rewrite_utils.calibrate.screened import Screened
from rewrite_utils.explain.floor import derangement
from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.controls import token_table, word_list
from rewrite_utils.rewrite.arms import TOPK
from rewrite_utils.simulate import Ratings

FOLDS = 24
"""Rows of text are left out one by one, or in so many folds where there are more."""

REFITTED, KEPT = "shuffled explanations", "shuffled explanations, real curve"
"""The two floors: other latents' sentences, by a curve refitted to them or by the real one."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a calibrator is fitted on: ratings beside the truth, at the calibrate windows."""

    ratings: Ratings
    """The simulator's, one column a described latent."""
    true: Float[ndarray, "window latent"]
    """True activations at the same windows."""
    target: Target
    """True activations at every token of the calibrate rows, for means, maxima and F_true."""
    screened: bool = False
    """Whether NaN ratings are pairs that screening left out; otherwise they are an error."""

    def method(self, name: str) -> Calibrator:
        """The calibrator of that name; "+topk" concerns only the splice."""
        method = calibrator(name.removesuffix(TOPK))
        return Screened(method) if self.screened else method

    def fit(self, name: str) -> Transform:
        """The calibrator of that name, fitted."""
        method = self.method(name)
        digits = self.ratings.digits if method.reads_digits else None
        return method.fit(self.ratings.expected, self.true, digits=digits, target=self.target)

    def calibrated(self, name: str, ratings: Ratings) -> Float[ndarray, "window latent"]:
        """Estimated activations for the ratings of other windows."""
        digits = ratings.digits if self.method(name).reads_digits else None
        return self.fit(name)(ratings.expected, digits=digits)

    def first(self, count: int) -> "Evidence":
        """Only the first ``count`` windows; the larger target stays whole."""
        ratings = Ratings(*(field[:count] for field in self.ratings))
        return dataclasses.replace(self, ratings=ratings, true=self.true[:count])

    def held_out(
        self, name: str, groups: Int[ndarray, " window"], *, seed: int
    ) -> Float[ndarray, "window latent"]:
        """Estimates of its own windows, each by the calibration fitted on the other ``groups``
        (rows of text)."""
        method = self.method(name)
        return cross_fit(
            method,
            self.ratings.expected,
            self.true,
            folds=min(FOLDS, len(np.unique(groups))),
            generator=np.random.default_rng(seed),
            digits=self.ratings.digits if method.reads_digits else None,
            groups=groups,
            target=self.target,
        )

    def shuffled(self, order: Int[ndarray, " latent"]) -> "Evidence":
        """The same with each latent's ratings taken from another latent's sentence."""
        return dataclasses.replace(self, ratings=shuffled(self.ratings, order))

    def floors(
        self, name: str, ratings: Ratings, *, draws: int, seed: int
    ) -> dict[str, Float[ndarray, "window latent"]]:
        """Both floors of a calibration, of ``draws`` derangements: other latents' sentences.

        ``REFITTED`` fits the curve on them too: it learns that they say nothing and becomes mean
        ablation, a floor that cannot move. ``KEPT`` reads them through the curve of the real
        sentences: what sentences cost that are believed and are about something else. The first of
        each bears just that name, the others their number too.
        """
        method, found = self.fit(name), {}
        digits = self.method(name).reads_digits
        for draw in range(draws):
            order = derangement(len(self.target.positives), seed + draw)
            other, number = shuffled(ratings, order), f" {draw + 1}" if draw else ""
            found[REFITTED + number] = self.shuffled(order).calibrated(name, other)
            found[KEPT + number] = method(other.expected, digits=other.digits if digits else None)
        return found


def shuffled(ratings: Ratings, order: Int[ndarray, " latent"]) -> Ratings:
    """Ratings with their columns in another order: the floor of shuffled explanations."""
    return Ratings(*(field[:, order] for field in ratings))


def target_of(cache: LatentCache, latents: Int[ndarray, " latent"]) -> Target:
    """All true activations of some latents on a split, for the target side of a calibration."""
    firings = [cache.of(latent).values for latent in latents.tolist()]
    column = np.repeat(np.arange(len(latents)), [len(values) for values in firings])
    value = np.concatenate(firings)
    return Target.from_pairs(column, value, latents=len(latents), total=cache.n_tokens)


def without_llm(
    fitted_on: LatentCache,
    means: LatentCache,
    windows: Windows,
    on: LatentCache,
    latents: Int[ndarray, " latent"],
) -> dict[str, Float[ndarray, "window latent"]]:
    """The ablations and the two controls at the windows of ``on``.

    A word list's 1 and 0 become the latent's mean activation on and off its list, on ``fitted_on``.
    """
    shape = len(windows.rows), len(latents)
    listed = word_list(fitted_on, windows, on)[:, latents]
    on_list, off_list = _list_means(fitted_on, latents)
    return {
        "zero": np.zeros(shape, np.float32),
        "mean": np.broadcast_to(means.mean[latents].astype(np.float32), shape).copy(),
        "token table": token_table(fitted_on, windows, on)[:, latents],
        "word list": np.where(listed > 0, on_list, off_list).astype(np.float32),
    }


def _list_means(
    cache: LatentCache, latents: Int[ndarray, " latent"], *, batch: int = 2048
) -> tuple[Float[ndarray, " latent"], Float[ndarray, " latent"]]:
    """Mean activation of each latent over the tokens on its word list, and over all others."""
    rows, ends = np.nonzero(cache.counted)
    totals, seen = np.zeros((2, len(latents))), np.zeros((2, len(latents)))
    for start in range(0, len(rows), batch):
        windows = Windows(rows[start : start + batch], ends[start : start + batch])
        listed = word_list(cache, windows, cache)[:, latents] > 0
        true = cache.dense(windows)[:, latents]
        for side, which in enumerate((~listed, listed)):
            totals[side] += (true * which).sum(0)
            seen[side] += which.sum(0)
    off_list, on_list = totals / np.maximum(seen, 1)
    return on_list, off_list

"""How good estimated activations are, in latent space: loss against mean ablation, ρ, mismatch.

In: true and estimated activations of the same windows. Out: numbers a window or a latent; intervals
(a bootstrap over the windows) are the caller's. Also cross-fitting, so that no window calibrates
itself.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rewrite_utils.calibrate.protocol import CalibrationError, Calibrator, Digits, Rated, Truth
from rewrite_utils.calibrate.target import Target


class Losses(NamedTuple):
    """Squared errors of each window over its latents; the unit is mean ablation's average."""

    estimate: Float[np.ndarray, " window"]
    """‖(a − â) W_dec‖² of the estimate; without a decoder Σ_j (a_j − â_j)²."""
    mean: Float[np.ndarray, " window"]
    """The same of mean ablation, â = m; averages to 1 over these windows."""

    @property
    def difference(self) -> Float[np.ndarray, " window"]:
        """Paired: estimate − mean ablation. Below 0 on average: better than none."""
        return self.estimate - self.mean

    @property
    def r2(self) -> float:
        """Share of the variance explained, 1 − Σ estimate / Σ mean; mean ablation has 0."""
        return float(1 - self.estimate.sum() / self.mean.sum())


def losses(
    true: Truth,
    estimate: Rated,
    mean: Float[np.ndarray, "... latent"],
    *,
    decoder: Float[np.ndarray, "latent d_out"] | None = None,
) -> Losses:
    """Squared error of each window; ``mean`` comes from the calibration windows.

    ``decoder``: the latents' rows of W_dec. The error is then that of the hooked output, in which
    errors of latents that write in like directions add up and opposite ones cancel; a sum of
    squares weighted by the rows' norms leaves these cross terms out.
    """
    _same(true, estimate)
    errors = ((true - other).astype(np.float64) for other in (estimate, mean))
    written = (error if decoder is None else error @ decoder for error in errors)
    of_estimate, of_mean = (np.square(part).sum(axis=1) for part in written)
    unit = of_mean.mean()
    if unit == 0:
        raise CalibrationError(
            "the true activations equal their means in every window: no variance to explain"
        )
    return Losses(of_estimate / unit, of_mean / unit)


class Correlation(NamedTuple):
    """ρ between true and estimated activations of each latent."""

    rho: Float[np.ndarray, " latent"]
    """Pearson's ρ; NaN where the true or the estimated activations are constant (undefined)."""
    positives: Int[np.ndarray, " latent"]
    """How many true activations ρ rests on."""


def correlations(true: Truth, estimate: Rated) -> Correlation:
    """ρ of each latent. Of estimates by ``cross_fit`` it is fair; in-sample it flatters rare
    latents.

    With equal marginals E(a − â)² = 2 Var(a) (1 − ρ): ρ > ½ beats mean ablation (method.md §6).
    """
    _same(true, estimate)
    a, b = (x - x.mean(axis=0, dtype=np.float64) for x in (true, estimate))
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    rho = np.divide((a * b).sum(axis=0), norm, where=norm > 0, out=np.full(len(norm), np.nan))
    return Correlation(rho, (true > 0).sum(axis=0))


class Mismatch(NamedTuple):
    """How far estimated marginals are from the true ones."""

    wasserstein: Float[np.ndarray, " latent"]
    """Wasserstein-1 distance of each latent's two distributions, in activation units."""
    spurious_maxima: float
    """Mean number, a window, of silent latents estimated at their maximum or above."""


def mismatch(true: Truth, estimate: Rated, maximum: Float[np.ndarray, " latent"]) -> Mismatch:
    """Distances and spurious maxima; ``maximum`` is each latent's largest known activation."""
    _same(true, estimate)
    distance = np.abs(np.sort(true, axis=0) - np.sort(estimate, axis=0)).mean(axis=0)
    top = (estimate >= maximum * (1 - 1e-6)) & (maximum > 0) & (true == 0)
    return Mismatch(distance, float(top.sum(axis=1).mean()))


def cross_fit(
    calibrator: Calibrator,
    predicted: Rated,
    true: Truth,
    *,
    folds: int,
    generator: np.random.Generator,
    digits: Digits = None,
    groups: Int[np.ndarray, " window"] | None = None,
    target: Target | None = None,
) -> Rated:
    """Estimates of every window by a calibrator that was fitted on the other folds.

    ``groups``: windows with the same number (the same row of text) stay in one fold. ``target``: a
    larger sample of true activations, the same in every fold; it may hold the windows themselves,
    one token in thousands.
    """
    fold = _folds(len(predicted), folds, generator, groups)
    out = np.empty(predicted.shape, np.float32)
    for held in range(folds):
        test, train = fold == held, fold != held
        parts = (None, None) if digits is None else (digits[train], digits[test])
        transform = calibrator.fit(predicted[train], true[train], digits=parts[0], target=target)
        out[test] = transform(predicted[test], digits=parts[1])
    return out


def _folds(
    windows: int, folds: int, generator: np.random.Generator, groups: np.ndarray | None
) -> Int[np.ndarray, " window"]:
    """The fold of each window, groups kept whole and folds as equal as groups allow."""
    names, member = np.unique(np.arange(windows) if groups is None else groups, return_inverse=True)
    if not 2 <= folds <= len(names):
        raise CalibrationError(
            f"{folds} folds of {len(names)} windows or groups; need 2 … {len(names)}"
        )
    return (generator.permutation(len(names)) % folds)[member]


def _same(true: np.ndarray, estimate: np.ndarray) -> None:
    if true.shape != estimate.shape:
        raise CalibrationError(
            f"true is {true.shape} and the estimate {estimate.shape}; same windows?"
        )

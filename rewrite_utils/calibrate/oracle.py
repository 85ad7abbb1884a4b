"""The corrupted oracle: ratings that a simulator of a chosen quality would give, for any number of
windows.

In: true activations, and the shape of a real simulator's ratings. Out: ratings 0–9 with that shape
and a chosen AUROC. It is *not* the simulator: its errors are independent given window and latent,
which is optimistic. Used where n real ratings would cost weeks (figures A1 and A2 of the paper).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import brentq
from scipy.stats import norm

from rewrite_utils.calibrate.target import Target


class RatingShape(NamedTuple):
    """What is taken over from real ratings: E = level + window + latent + rest."""

    window: float
    """Standard deviation of the windows' mean ratings: the simulator's mood follows the text."""
    latents: Float[ndarray, " latent"]
    """Mean rating of each real latent minus the overall mean: some sentences sound likelier."""
    rest: float
    """Standard deviation of what is left: the signal is in here."""
    marginal: Float[ndarray, " rating"]
    """All ratings, ascending: the distribution that the oracle's are given, rank by rank."""


def rating_shape(expected: Float[ndarray, "window latent"]) -> RatingShape:
    """The two-way layout of some ratings (window × latent), and their distribution.

    Raises ValueError for fewer than two windows or latents, where nothing can be told apart.
    """
    if min(expected.shape) < 2:
        raise ValueError(f"ratings of shape {expected.shape}; need two windows and two latents")
    ratings = expected.astype(np.float64)
    windows, latents = (ratings.mean(axis) - ratings.mean() for axis in (1, 0))
    rest = ratings - ratings.mean() - windows[:, None] - latents
    return RatingShape(float(windows.std()), latents, float(rest.std()), np.sort(ratings, None))


def lift_for(relative: Float[ndarray, " active"], auroc: float) -> float:
    """The lift δ a unit of relative activation at which active windows outrank silent ones with
    probability ``auroc``: mean of Φ(δ·v / √2) over the activations v, noise of deviation 1.

    Raises ValueError for an AUROC outside [.5, 1).
    """
    if not 0.5 <= auroc < 1:
        raise ValueError(f"AUROC {auroc} is not in [0.5, 1)")
    if not len(relative):
        raise ValueError("no activation to lift: take more windows or livelier latents")

    def excess(lift: float) -> float:
        return float(norm.cdf(lift * relative / np.sqrt(2)).mean() - auroc)

    top = 1.0
    while excess(top) < 0:
        top *= 2
    return float(brentq(excess, 0.0, top)) if auroc > 0.5 else 0.0


class Oracle(NamedTuple):
    """A simulator of chosen quality for some latents."""

    shape: RatingShape
    """Shape of its ratings."""
    size: Float[ndarray, " latent"]
    """Each latent's mean activation when active: the unit of its strength."""
    bias: Float[ndarray, " latent"]
    """Each latent's own level, drawn from the real ones."""
    lift: float
    """Deviations of noise by which an activation of mean size stands out."""

    @classmethod
    def of(
        cls, shape: RatingShape, target: Target, *, auroc: float, generator: np.random.Generator
    ) -> "Oracle":
        """The oracle whose AUROC, averaged over the activations in ``target``, is ``auroc``.

        The AUROC is a latent's own over windows, the drift of the windows included, as for real
        ratings; centring the ratings then raises it.
        """
        size = target.mean_active
        relative = target.values / np.repeat(size, target.positives)
        bias = generator.choice(shape.latents, target.latents)
        return cls(shape, size, bias, lift_for(relative, auroc))

    def ratings(
        self, true: Float[ndarray, "window latent"], *, generator: np.random.Generator
    ) -> Float[ndarray, "window latent"]:
        """Ratings of these windows, float16 in [0, 9] (ties like the simulator's).

        x = latent's level + window's mood + noise + lift · a/size; then the rank of x among all
        windows and latents is given the real rating of that rank. Monotone: no AUROC changes.
        """
        shape = self.shape
        mood = shape.window * generator.standard_normal((len(true), 1))
        noise = shape.rest * generator.standard_normal(true.shape)
        unit = np.hypot(shape.window, shape.rest)
        relative = np.divide(true, self.size, where=self.size > 0, out=np.zeros(true.shape))
        x = self.bias + mood + noise + unit * self.lift * relative
        rank = np.empty(x.size)
        rank[np.argsort(x, axis=None, kind="stable")] = (np.arange(x.size) + 0.5) / x.size
        return np.quantile(shape.marginal, rank).reshape(x.shape).astype(np.float16)


def with_false_alarms(
    true: Float[ndarray, "window latent"], target: Target, *, specificity: float, seed: int
) -> Float[ndarray, "window latent"]:
    """True activations, but each silent (window, latent) fires with probability 1 − specificity.

    A false alarm is as strong as a true activation of that latent drawn from ``target``; a latent
    silent there has none. One seed: the alarms of a higher specificity are among those of a lower.
    """
    if not 0 <= specificity <= 1:
        raise ValueError(f"specificity {specificity} is not in [0, 1]")
    generator = np.random.default_rng(seed)
    luck, drawn = generator.random(true.shape), generator.random(true.shape)
    alarm = (true == 0) & (luck < 1 - specificity) & (target.positives > 0)
    place = target.offsets[:-1] + (drawn * target.positives).astype(np.int64)
    strength = np.concatenate([target.values, [0.0]])[np.minimum(place, len(target.values))]
    return np.where(alarm, strength, true).astype(np.float32)

"""An estimate that no conditional mean can pass: at most the latent's mean when active.

In: another calibrator. Out: its estimates, cut. Why: a curve pooled in units of the latents' means
rests, at its top, on one activation of a rare latent, which is 1/rate of those means; given to a
frequent latent it says P(active) = 60. Where: the latent-space loss of notebook 06.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from rewrite_utils.calibrate.protocol import Around, Digits, Rated, Sample, Transform


@dataclass(frozen=True)
class CappedTransform(Transform):
    """min(inner, top) of each latent."""

    inner: Transform
    """What is cut."""
    top: Float[np.ndarray, " latent"]
    """The largest estimate of each latent."""

    @property
    def latents(self) -> int:
        """Number of latents it was fitted on."""
        return self.inner.latents

    def apply(self, predicted: Rated, digits: Digits = None) -> Rated:
        """The inner estimates, none above ``top``."""
        return np.minimum(self.inner.apply(predicted, digits), self.top)


@dataclass(frozen=True)
class Capped(Around):
    """E[a | E] = P(active | E) · E[a | active, E] ≤ E[a | active], if E says whether, not how much.

    A latent that is silent in the target sample is cut to 0. It adds no parameter to estimate.
    """

    def prepared(self, samples: Iterable[Sample]) -> "Capped":
        """With the inner calibrator prepared."""
        return replace(self, inner=self.inner.prepared(samples))

    def fitted(self, sample: Sample) -> CappedTransform:
        """The inner transform below each latent's mean when active."""
        return CappedTransform(self.inner.fitted(sample), sample.target.mean_active)

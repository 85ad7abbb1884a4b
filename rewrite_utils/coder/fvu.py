"""The one definition of FVU, the fraction of variance unexplained: the loss and the measure.

In: outputs and their reconstructions, whole or as a stream of batches. Out: a number, 0 for perfect
and 1 for the mean. Paper: method §1, and its Table of coder quality.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def fvu(
    y: Float[Tensor, "batch d_out"],
    y_hat: Float[Tensor, "batch d_out"],
    *,
    variance: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Fraction of variance unexplained, `Σ|y − ŷ|² / Σ|y − ȳ|²`; 1 is the mean, 0 is perfect.

    `variance` replaces the denominator when `y` is a part of a larger population.
    """
    return (y - y_hat).square().sum() / (total_variance(y) if variance is None else variance)


def total_variance(
    y: Float[Tensor, "batch d_out"], *, mean: Float[Tensor, " d_out"] | None = None
) -> Float[Tensor, ""]:
    """`Σ|y − ȳ|²` over the batch, the denominator of FVU; `mean`: ȳ of a larger population."""
    return (y - (y.mean(0) if mean is None else mean)).square().sum()


class FVU:
    """FVU of a stream of batches, equal to `fvu` of their concatenation; sums are float64."""

    def __init__(self) -> None:
        """Start empty."""
        self.tokens = 0
        self._error = self._variance = self._mean = torch.zeros((), dtype=torch.float64)

    def update(self, y: Float[Tensor, "batch d_out"], y_hat: Float[Tensor, "batch d_out"]) -> "FVU":
        """Add a batch; the batch variance is merged around the common mean (Chan et al. 1979)."""
        y, y_hat = y.detach().double().cpu(), y_hat.detach().double().cpu()
        n, shift = y.shape[0], y.mean(0) - self._mean
        total = self.tokens + n
        between = shift.square().sum() * self.tokens * n / total
        self._variance = self._variance + total_variance(y) + between
        self._mean = self._mean + shift * n / total
        self._error = self._error + (y - y_hat).square().sum()
        self.tokens = total
        return self

    @property
    def value(self) -> float:
        """The FVU so far; raises if nothing varied."""
        if not self._variance > 0:
            raise ValueError(f"FVU is undefined: {self.tokens} tokens whose target does not vary")
        return float(self._error / self._variance)

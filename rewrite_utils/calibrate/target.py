"""True activations of each latent in sparse form: the positive values, sorted, and the count.

The atom at zero is held as mass (a count), so that ten million tokens cost only their activations.
In: a dense [window latent] array or (latent, value) pairs. Out: what F_true⁻¹, means and rates
need.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num


@dataclass(frozen=True)
class Target:
    """The true activations of each latent over ``total`` places."""

    values: Float[np.ndarray, " active"]
    """The positive activations, latent after latent, ascending within each (float32)."""
    offsets: Int[np.ndarray, " latent_and_one"]
    """Where each latent's values begin in ``values``; the last entry is their number."""
    total: int
    """Number of places (windows or tokens) looked at, the silent ones included."""

    @classmethod
    def from_true(cls, true: Num[np.ndarray, "window latent"]) -> "Target":
        """From dense activations; negative or non-finite ones raise a ValueError."""
        window, latent = np.nonzero(true)
        return cls.from_pairs(
            latent, true[window, latent], latents=true.shape[1], total=true.shape[0]
        )

    @classmethod
    def from_pairs(
        cls,
        latent: Int[np.ndarray, " pair"],
        value: Num[np.ndarray, " pair"],
        *,
        latents: int,
        total: int,
    ) -> "Target":
        """From the (latent, activation) pairs of an activation cache over ``total`` places."""
        if not (np.isfinite(value).all() and (value >= 0).all()):
            raise ValueError(
                "true activations must be finite and ≥ 0 (latents after ReLU and TopK)"
            )
        latent, value = latent[value > 0], value[value > 0].astype(np.float32)
        counts = np.bincount(latent, minlength=latents)
        if len(counts) > latents or counts.max(initial=0) > total:
            raise ValueError(
                f"{latents} latents and {total} places do not fit the pairs: highest latent "
                f"{len(counts) - 1}, most activations of one latent {counts.max(initial=0)}"
            )
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(value[np.lexsort((value, latent))], offsets, total)

    @property
    def latents(self) -> int:
        """Number of latents."""
        return len(self.offsets) - 1

    def of(self, latent: int) -> Float[np.ndarray, " active"]:
        """The sorted positive activations of one latent."""
        return self.values[self.offsets[latent] : self.offsets[latent + 1]]

    @property
    def positives(self) -> Int[np.ndarray, " latent"]:
        """How often each latent is active."""
        return np.diff(self.offsets)

    @property
    def sums(self) -> Float[np.ndarray, " latent"]:
        """Sum of each latent's activations (float64)."""
        return self._sums(self.values)

    @property
    def mean(self) -> Float[np.ndarray, " latent"]:
        """Mean activation, the zeros included."""
        return (self.sums / self.total).astype(np.float32)

    @property
    def mean_active(self) -> Float[np.ndarray, " latent"]:
        """Mean activation when active; 0 for a silent latent."""
        return (self.sums / np.maximum(self.positives, 1)).astype(np.float32)

    @property
    def mean_square(self) -> Float[np.ndarray, " latent"]:
        """Mean squared activation, the zeros included (float64)."""
        return self._sums(self.values.astype(np.float64) ** 2) / self.total

    @property
    def maximum(self) -> Float[np.ndarray, " latent"]:
        """Largest activation; 0 for a silent latent."""
        padded = np.concatenate([[0.0], self.values]).astype(np.float32)
        return np.where(self.positives > 0, padded[self.offsets[1:]], np.float32(0))

    @property
    def smoothed_rate(self) -> Float[np.ndarray, " latent"]:
        """Firing rate, (positives + ½) / (total + 1): never 0 or 1."""
        return (self.positives + 0.5) / (self.total + 1.0)

    def _sums(self, values: Float[np.ndarray, " active"]) -> Float[np.ndarray, " latent"]:
        running = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
        return np.diff(running[self.offsets])

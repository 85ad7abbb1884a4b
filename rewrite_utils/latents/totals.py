"""How much every latent fires on every token: all that counting words and token tables need.

In: a LatentCache. Out: summed activations as a sparse table over the kinds of token that occur, a
few MB where the cache has hundreds. Beyond the paper.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.sparse import csc_array, load_npz, save_npz

from rewrite_utils.latents.cache import LatentCache
from rewrite_utils.runs.whole import whole


class TokenTotals(NamedTuple):
    """Sums over the tokens of some rows that count: not the BOS, not masked ones."""

    kinds: Int[ndarray, " kind"]
    """The token ids that occur, ascending."""
    sums: csc_array
    """Summed activation [kind latent], float32."""
    seen: Int[ndarray, " kind"]
    """How often each kind occurs."""

    @classmethod
    def of(cls, cache: LatentCache) -> "TokenTotals":
        """Counted from a cache."""
        kinds, seen = np.unique(cache.tokens[cache.counted], return_counts=True)
        kind = np.searchsorted(kinds, cache.tokens[cache.row, cache.position])
        latent = np.repeat(np.arange(cache.n_latents), cache.counts)
        shape = len(kinds), cache.n_latents
        sums = csc_array((cache.value.astype(np.float32), (kind, latent)), shape=shape)
        sums.sum_duplicates()
        return cls(kinds, sums, seen)

    @property
    def mean(self) -> Float[ndarray, " latent"]:
        """Mean activation of each latent over all tokens."""
        return np.asarray(self.sums.sum(0)).ravel() / max(int(self.seen.sum()), 1)

    def at(
        self, kinds: Int[ndarray, " asked"]
    ) -> tuple[Float[ndarray, "asked latent"], Int[ndarray, " asked"]]:
        """Sums and occurrences of these kinds; zeros for one that was never met."""
        place = np.searchsorted(self.kinds, kinds).clip(max=len(self.kinds) - 1)
        met = self.kinds[place] == kinds
        sums = self.sums[place].toarray() * met[:, None]
        return sums.astype(np.float64), np.where(met, self.seen[place], 0)

    def write(self, folder: Path) -> None:
        """Two files in ``folder``."""
        with whole(folder / "sums.npz") as file, file.open("wb") as stream:
            save_npz(stream, self.sums)
        with whole(folder / "kinds.npz") as file, file.open("wb") as stream:
            np.savez_compressed(stream, kinds=self.kinds, seen=self.seen)

    @classmethod
    def read(cls, folder: Path) -> "TokenTotals":
        """What ``write`` wrote."""
        with np.load(folder / "kinds.npz") as kept:
            return cls(kept["kinds"], csc_array(load_npz(folder / "sums.npz")), kept["seen"])

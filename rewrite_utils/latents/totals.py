"""A stage of notebook 13: how much every latent fires on every token, over rows of training text.

In: a coder, train rows, which no reader is calibrated or measured on. Out: summed activations as a
sparse table over the kinds of token that occur, a few MB where a cache has hundreds: all that
counting words and token tables need. Beyond the paper.
"""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.sparse import csc_array, load_npz, save_npz

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.latents.cache import LatentCache, cache_latents
from rewrite_utils.latents.stage import cached_cost
from rewrite_utils.params import Params, Site
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.stage import Declared
from rewrite_utils.runs.whole import whole
from rewrite_utils.subject.corpus import Corpus
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.stage import split_rows


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
        shape = len(kinds), cache.n_latents
        sums = csc_array((cache.value.astype(np.float32), (kind, cache.latent)), shape=shape)
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
        """Sums of every latent's activation by kind of token, over train rows."""
        with np.load(folder / "kinds.npz") as kept:
            return cls(kept["kinds"], csc_array(load_npz(folder / "sums.npz")), kept["seen"])


def make_totals(
    folder: Path,
    *,
    collector: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    corpus: Corpus,
    params: Params,
    name: str,
) -> dict[str, Any]:
    """Run the coder over train rows and keep the sums by kind of token."""
    rows, batches = corpus.rows("train")[: params.readers.train_rows or None], folder / "batches"
    how = {"name": f"{name}, train", "masked": corpus.masked}
    cache, _ = cache_latents(collector, hookpoint, coder, rows, folder=batches, **how)
    TokenTotals.of(cache).write(folder)
    shutil.rmtree(batches)
    return {"rows": len(rows)}


def totals_cost(*, params: Params, settings: Site, name: str, model: ModelShape) -> Cost | None:
    """The coder over these rows."""
    if not settings.reader:
        return None
    rows = min(params.readers.train_rows or 2**62, split_rows(params)["train"])
    what = f"{rows:,} train rows for words and token tables"
    return cached_cost("13_totals", name, what, params, settings, model, rows=rows)


TOTALS = Declared(
    name="13_totals",
    make=make_totals,
    read=TokenTotals.read,
    on=("coder_stage", "corpus_stage"),
    hashes=lambda *, params: {"rows": params.readers.train_rows},
    cost=totals_cost,
)

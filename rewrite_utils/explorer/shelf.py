"""What a run knows about its latents, read once, so that taking one latent out is a slice.

In: the stages of a site. Out: readings of one latent: its sentence, and what the simulator said
beside the truth at every rated window. Draws nothing.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.explorer import alone
from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.runs.run import Stage
from rewrite_utils.simulate import Ratings
from rewrite_utils.stages import SIMULATED, SiteStages


class Rated(NamedTuple):
    """One latent at the windows that the simulator rated, calibrate before evaluate."""

    split: ndarray
    """The split of each window; the calibrator was fitted on "calibrate"."""
    windows: Windows
    """Rows and ends within their split."""
    true: Float[ndarray, " window"]
    """True activation at the window's last token."""
    expected: Float[ndarray, " window"]
    """The simulator's E, 0 … 9."""
    predicted: Float[ndarray, " window"]
    """The calibrated prediction, in the unit of the truth."""


class Reading(NamedTuple):
    """One sentence of one latent, and what came of it."""

    latent: int
    """Index in the coder."""
    sentence: str
    """What the simulator read."""
    origin: str
    """Who wrote it: explainer, curated, yours (and then kept, or saved)."""
    rated: Rated
    """What was predicted."""
    alone: pd.DataFrame
    """What each arm costs the model (``alone.verdict``)."""
    losses: Float[ndarray, " window"]
    """CE of each evaluate window with the prediction in the latent's place, nats."""


@dataclasses.dataclass(frozen=True)
class Shelf:
    """Everything the explorer shows of one site."""

    site: SiteStages
    """Its stages."""

    @property
    def latents(self) -> list[int]:
        """The latents that have a sentence, in order."""
        return self.site.simulated

    @property
    def cache(self) -> LatentCache:
        """Activations on the explain rows: firing rates, histograms, windows."""
        return self.site.cache("explain")

    def place(self, latent: int) -> int:
        """The latent's column in the ratings.

        Raises KeyError naming the latents that have a sentence.
        """
        if latent not in self._places:
            known = ", ".join(map(str, self.latents[:12]))
            more = " …" if len(self.latents) > 12 else ""
            raise KeyError(
                f"latent {latent} has no sentence in this run; those that do: {known}{more}"
            )
        return self._places[latent]

    @functools.cached_property
    def _places(self) -> dict[int, int]:
        return {latent: place for place, latent in enumerate(self.latents)}

    @functools.cached_property
    def ratings(self) -> dict[str, Ratings]:
        """The simulator's ratings of both splits, one column a latent."""
        return {split: self.site.ratings(split) for split in SIMULATED}

    @functools.cached_property
    def true(self) -> dict[str, Float[ndarray, "window latent"]]:
        """True activations at the same windows."""
        return {split: self.site.true(split) for split in SIMULATED}

    @functools.cached_property
    def predicted(self) -> dict[str, Float[ndarray, "window latent"]]:
        """The ratings, calibrated by the run's headline calibrator."""
        name = self.site.params.rewrite.headline
        return {
            split: self.site.evidence.calibrated(name, self.ratings[split]) for split in SIMULATED
        }

    @functools.cached_property
    def alone_stage(self) -> Stage:
        """Losses with one latent replaced at a time."""
        return alone.stage(self.site)

    @functools.cached_property
    def losses(self) -> pd.DataFrame:
        """One row a (window, latent, arm): the loss with this latent alone replaced."""
        return pd.read_parquet(self.alone_stage / "alone.parquet")

    @functools.cached_property
    def scores(self) -> pd.DataFrame:
        """Detection scores, by latent."""
        return self.site.scores.set_index("latent")

    @functools.cached_property
    def order(self) -> Float[ndarray, " latent"]:
        """Share of the output's variance that each latent with a sentence carries."""
        return self.site.energy[self.latents]

    @functools.lru_cache(maxsize=256)  # noqa: B019 (a shelf lives as long as its process)
    def reading(self, latent: int) -> Reading:
        """The run's own sentence of a latent and what came of it."""
        place = self.place(latent)
        columns = {split: (self.ratings[split].expected[:, place], self.predicted[split][:, place])
                   for split in SIMULATED}  # fmt: skip
        origin = "curated" if latent in self.site.curated else "explainer"
        sentence = self.site.sentences[latent]
        return self.read(latent, sentence, origin, columns=columns, losses=self.losses)

    def read(
        self,
        latent: int,
        sentence: str,
        origin: str,
        *,
        columns: dict[str, tuple[ndarray, ndarray]],
        losses: pd.DataFrame,
    ) -> Reading:
        """A sentence with what came of it: (E, prediction) in both splits, and losses alone."""
        params = self.site.params
        options = {"seed": params.seed, "resamples": params.rewrite.bootstrap}
        return Reading(
            latent,
            sentence,
            origin,
            self.rated(latent, columns),
            alone.verdict(losses, latent, **options),
            alone.of_arm(losses, latent, "sentence"),
        )

    def rated(self, latent: int, columns: dict[str, tuple[ndarray, ndarray]]) -> Rated:
        """The truth of a latent beside given (E, prediction) columns of both splits."""
        place, site = self.place(latent), self.site
        windows = [site.simulated_windows(split) for split in SIMULATED]
        return Rated(
            np.repeat(SIMULATED, [len(part.rows) for part in windows]),
            Windows(*(np.concatenate(parts) for parts in zip(*windows, strict=True))),
            np.concatenate([self.true[split][:, place] for split in SIMULATED]),
            np.concatenate([columns[split][0] for split in SIMULATED]).astype(np.float64),
            np.concatenate([columns[split][1] for split in SIMULATED]).astype(np.float64),
        )

"""What the simulator makes of the sentences, at the drawn windows.

In: a site with its sentences and their scores. Out: ratings beside the true activations.
"""

import functools
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils import prompts
from rewrite_utils import simulate as simulating
from rewrite_utils.activations import Windows
from rewrite_utils.runs import Stage
from rewrite_utils.stages import builders
from rewrite_utils.stages.builders import SIMULATED
from rewrite_utils.stages.worded import WordedSite
from rewrite_utils.windows import draw_windows


class ToldSite(WordedSite):
    """A site up to its ratings."""

    @functools.cached_property
    def simulation_stage(self) -> Stage:
        """The simulator's rating of every (window, sentence)."""
        asked = self._simulation_key()
        return self._stage("05_simulation", builders.make_simulation, *asked)

    @property
    def is_simulated(self) -> bool:
        """Whether the ratings are there already; they are not made."""
        return self._finished("05_simulation", *self._simulation_key())

    def _simulation_key(self) -> tuple[dict[str, Any], list[Stage]]:
        inputs = [self.sentences_stage]
        if self.params.simulate.show_score:
            inputs.append(self.scores_stage)
        content = {
            "simulate": self.params.simulate.content(),
            "windows": [self.settings.calibrate_windows, self.settings.evaluate_windows],
            "llm": self.params.simulator.content(),
            "prompt": prompts.digest("simulate"),
            "seed": self.params.seed,
        } | (self.params.score.reading() if self.params.simulate.show_score else {})
        return content, inputs

    @property
    def simulated(self) -> list[int]:
        """The latents that were simulated: the columns of the ratings."""
        return list(self.sentences)

    def windows(self, split: str) -> Windows:
        """The windows of a split; in evaluate the simulated ones come first, then the controls'."""
        count = self.settings.calibrate_windows
        if split == "evaluate":
            count = max(self.settings.control_windows, self.settings.evaluate_windows)
        first, last = self.params.rated_positions
        generator = np.random.default_rng([self.params.seed, SIMULATED.index(split)])
        n_rows = len(self.cache(split).tokens)
        return draw_windows(n_rows, count, first=first, last=last, generator=generator)

    def simulated_windows(self, split: str) -> Windows:
        """The windows of a split that the simulator rates."""
        rows, ends = self.windows(split)
        kept = {
            "calibrate": self.settings.calibrate_windows,
            "evaluate": self.settings.evaluate_windows,
        }
        return Windows(rows[: kept[split]], ends[: kept[split]])

    def ratings(self, split: str) -> simulating.Ratings:
        """The simulator's ratings of a split's windows, columns as in ``simulated``."""
        return simulating.read_ratings(self.simulation_stage / split)

    def true(self, split: str) -> Float[ndarray, "window latent"]:
        """True activations at the simulated windows of the simulated latents."""
        return self.cache(split).dense(self.simulated_windows(split))[:, self.simulated]

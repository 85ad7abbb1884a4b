"""What the simulator makes of the sentences, at the drawn windows.

In: a site with its sentences and their scores. Out: ratings beside the true activations.
"""

import functools
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from rewrite_utils import simulate as simulating
from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.windows import draw_windows
from rewrite_utils.llm import prompts
from rewrite_utils.runs.run import Stage
from rewrite_utils.stages import builders, rated
from rewrite_utils.stages.builders import SIMULATED
from rewrite_utils.stages.worded import WordedSite


class ToldSite(WordedSite):
    """A site up to its ratings."""

    @functools.cached_property
    def simulation_stage(self) -> Stage:
        """The simulator's rating of every (window, sentence)."""
        return self._stage("05_simulation", rated.make_simulation, *self._simulation_key())

    def simulate_part(self, part: simulating.Part) -> bool:
        """Rate only some pairs now; what is rated is kept for the rest. True once all are.

        Raises ValueError for a latent that has no sentence.
        """
        simulating.require_known(part, self.simulated)
        make = functools.partial(rated.make_simulation, part=part)
        try:
            self._stage("05_simulation", make, *self._simulation_key())
        except simulating.Unfinished:
            return False
        return True

    @property
    def is_simulated(self) -> bool:
        """Whether the ratings are there already; they are not made."""
        return self._finished("05_simulation", *self._simulation_key())

    def _simulation_key(self) -> tuple[dict[str, Any], list[Stage]]:
        asked = self.params.simulate
        inputs = [self.sentences_stage]
        if asked.show_score:
            inputs.append(self.scores_stage)
        content = {
            "simulate": asked.content(),
            "windows": [self.settings.calibrate_windows, self.settings.evaluate_windows],
            "llm": self.params.simulator.content(),
            "prompt": prompts.digest(simulating.wording(asked)),
            "seed": self.params.seed,
        } | (self.params.score.reading() if asked.show_score else {})
        return content, inputs

    @functools.cached_property
    def descriptions(self) -> dict[int, str]:
        """What the simulator reads about each simulated latent."""
        return {
            latent: builders.description(self, latent, sentence)
            for latent, sentence in self.sentences.items()
        }

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

    def ranked(self, split: str) -> Float[ndarray, "window latent"]:
        """E as it ranks pairs: those that screening left out stand below all others, at −1."""
        return np.nan_to_num(self.ratings(split).expected.astype(np.float64), nan=-1.0)

    def sent(self, split: str) -> Bool[ndarray, "window latent"]:
        """Which pairs went to the simulator: all of them unless ``simulate.screen`` is below 1."""
        return simulating.read_sent(self.simulation_stage / split)

    def true(self, split: str) -> Float[ndarray, "window latent"]:
        """True activations at the simulated windows of the simulated latents."""
        return self.cache(split).dense(self.simulated_windows(split))[:, self.simulated]

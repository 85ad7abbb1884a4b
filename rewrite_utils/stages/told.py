"""The half of the paper's diagram that is written in English: sentences, scores, ratings.

In: a site with its latents. Out: what the explainer says of them, how it scores, what the simulator
makes of it at the drawn windows.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray

from rewrite_utils import curated, prompts
from rewrite_utils import score as scoring
from rewrite_utils import simulate as simulating
from rewrite_utils.activations import Windows
from rewrite_utils.runs import Stage
from rewrite_utils.stages import builders, rated
from rewrite_utils.stages.builders import SIMULATED
from rewrite_utils.stages.coded import CodedSite
from rewrite_utils.windows import draw_windows


class ToldSite(CodedSite):
    """A site up to its ratings."""

    @functools.cached_property
    def explanations_stage(self) -> Stage:
        """One sentence a described latent."""
        content = {
            "explain": self.params.explain.content(),
            "llm": self.params.explainer.content(),
            "prompt": prompts.digest("explain"),
            "described": self.settings.described,
            "seed": self.params.seed,
        }
        return self._stage(
            "03_explanations", builders.make_explanations, content, [self.latents_stage]
        )

    @functools.cached_property
    def curated(self) -> dict[int, str]:
        """The sentences that the parameter ``explain.curated`` puts in place of the explainer's."""
        file = self.params.explain.curated
        return curated.read(file, site=self.name, coder=self.coder_stage.hash) if file else {}

    @functools.cached_property
    def sentences_stage(self) -> Stage:
        """The explanations that count: the explainer's, curated sentences in their place."""
        if not self.curated:
            return self.explanations_stage
        content = {"curated": {str(latent): text for latent, text in self.curated.items()}}
        return self._stage("03_curated", builders.make_curated, content, [self.explanations_stage])

    @functools.cached_property
    def explanations(self) -> pd.DataFrame:
        """One row a described latent; ``sentence`` is missing where the explainer failed."""
        return pd.read_parquet(self.sentences_stage / "explanations.parquet")

    @functools.cached_property
    def sentences(self) -> dict[int, str]:
        """The sentence of every latent that has one.

        Raises ExplanationError when none has.
        """
        kept = self.explanations.dropna(subset=["sentence"])
        if kept.empty:
            replies = self.explanations_stage / "explanations.parquet"
            raise simulating.ExplanationError(
                f"none of the {len(self.explanations)} latents of site {self.name!r} got a "
                f"sentence; the raw replies are in {replies}"
            )
        return dict(zip(kept["latent"].astype(int), kept["sentence"], strict=True))

    @functools.cached_property
    def scores_stage(self) -> Stage:
        """Detection judgements on the score rows."""
        content = {
            "score": self.params.score.content(),
            "llm": self.params.explainer.content(),
            "prompt": prompts.digest("detect"),
            "seed": self.params.seed,
        }
        return self._stage("04_scores", builders.make_scores, content, [self.sentences_stage])

    @functools.cached_property
    def judgements(self) -> pd.DataFrame:
        """One row a (latent, window): active or not, and the probability of "yes"."""
        return pd.read_parquet(self.scores_stage / "judgements.parquet")

    @functools.cached_property
    def scores(self) -> pd.DataFrame:
        """Detection scores, one row a latent."""
        return scoring.scores(self.judgements)

    @functools.cached_property
    def simulation_stage(self) -> Stage:
        """The simulator's rating of every (window, sentence)."""
        return self._simulation(rated.make_simulation)

    def simulate_part(self, part: simulating.Part) -> bool:
        """Rate only some pairs now; what is rated is kept for the rest. True once all are.

        Raises ValueError for a latent that has no sentence.
        """
        simulating.require_known(part, self.simulated)
        try:
            self._simulation(functools.partial(rated.make_simulation, part=part))
        except simulating.Unfinished:
            return False
        return True

    def _simulation(self, make: Callable[..., dict[str, Any]]) -> Stage:
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
        }
        return self._stage("05_simulation", make, content, inputs)

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

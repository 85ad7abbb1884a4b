"""The paper's diagram as code: each arrow is a property that makes its stage once, or reuses it.

In: a Run and the name of a site. Out: the artefacts a notebook shows. What a stage reads and hashes
is said in this file, ``told.py`` and ``coded.py``, and nowhere else; how it computes is in the file
of its noun. Nothing flows back.
"""

import functools

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.rewrite import arms as rewrite
from rewrite_utils.rewrite import measure, usefulness
from rewrite_utils.rewrite.estimates import Evidence, derangement, shuffled, target_of, without_llm
from rewrite_utils.runs.run import Run, Stage
from rewrite_utils.simulate import Ratings
from rewrite_utils.stages import builders
from rewrite_utils.stages.builders import CACHED_SPLITS, SIMULATED
from rewrite_utils.stages.told import ToldSite

__all__ = ["CACHED_SPLITS", "SIMULATED", "SiteStages", "open_sites"]


def open_sites(run: Run) -> dict[str, "SiteStages"]:
    """Every site of a run, by name, in the order of its parameter file."""
    return {name: SiteStages(run, name) for name in run.params.sites}


class SiteStages(ToldSite):
    """Every stage of one site, in the paper's order; a property makes what it needs first."""

    @functools.cached_property
    def rewrite_stage(self) -> Stage:
        """The loss of every arm at every evaluate window."""
        content = {
            "rewrite": self.params.rewrite.content(),
            "control_windows": self.settings.control_windows,
            "seed": self.params.seed,
        } | self.params.score.reading()
        if self.params.rewrite.headline.endswith(rewrite.TOPK):
            content["floor"] = "top k as the headline"
        inputs = [self.scores_stage, self.simulation_stage]
        if "useful" in self.params.rewrite.orders:
            inputs.append(self.usefulness_stage)
        return self._stage("07_rewrite", builders.make_rewrite, content, inputs)

    @functools.cached_property
    def losses(self) -> pd.DataFrame:
        """One row a (window, arm)."""
        return pd.read_parquet(self.rewrite_stage / "losses.parquet")

    @functools.cached_property
    def verdict(self) -> pd.DataFrame:
        """One row an arm: what it costs, paired against ablation of the same latents.

        On the simulated windows only, the controls too: all arms have seen the same text.
        """
        return self._judged(self.losses[self.losses["window"] < self.settings.evaluate_windows])

    @functools.cached_property
    def control_verdict(self) -> pd.DataFrame:
        """The same for the arms that need no LLM, on all evaluate windows."""
        free = ["coder", "zero", "mean", "token table", "word list", "output zero", "output mean"]
        return self._judged(self.losses[self.losses["source"].isin(free)])

    def _judged(self, losses: pd.DataFrame) -> pd.DataFrame:
        return measure.verdict(
            losses,
            variance=float(self.output_moments.variance),
            seed=self.params.seed,
            resamples=self.params.rewrite.bootstrap,
        )

    @functools.cached_property
    def checkpoints_stage(self) -> Stage:
        """The loss of every checkpoint of the subject at the evaluate windows."""
        asked = self.params.subject
        content = {
            "subject": asked.content() | {"revision": "", "collect_dtype": ""},
            "checkpoints": list(asked.checkpoints),
            "windows": len(self.windows("evaluate").rows),
            "positions": list(self.params.rated_positions),
            "seed": self.params.seed,
        }
        made, inputs = builders.make_checkpoints, [self.corpus_stage]
        return self._stage("07_checkpoints", made, content, inputs)

    @functools.cached_property
    def training_curve(self) -> pd.DataFrame:
        """One row an evaluate window, one column a checkpoint: its loss there, in nats."""
        return pd.read_parquet(self.checkpoints_stage / "losses.parquet")

    def verdict_of(self, source: str, count: int) -> pd.Series:
        """The verdict on one source with its first ``count`` latents by score replaced."""
        table = self.verdict
        rows = table[(table["source"] == source) & (table["count"] == count)]
        return rows[rows["order"].isin(["all", "top"])].iloc[0]

    def shown(self) -> str:
        """The evidence about the first described latent as its prompt shows it."""
        latent = int(self.described[0])
        return self.evidence_source.questions([latent])[latent].text

    @property
    def rankings(self) -> dict[str, Float[ndarray, " simulated"]]:
        """What puts the simulated latents in order: detection F1; if asked for, usefulness."""
        tables = {"top": self.scores["f1"].set_axis(self.scores["latent"])}
        if "useful" in self.params.rewrite.orders:
            useful = self.usefulness
            tables["useful"] = useful["usefulness"].set_axis(useful["latent"])
        return {
            order: values.reindex(self.simulated).to_numpy(np.float64)
            for order, values in tables.items()
        }

    @functools.cached_property
    def usefulness_stage(self) -> Stage:
        """The loss with each latent alone predicted or at its mean, at the calibrate windows."""
        content = {"calibrator": self.params.rewrite.headline, "seed": self.params.seed}
        made, inputs = builders.make_usefulness, [self.simulation_stage]
        return self._stage("07_usefulness", made, content, inputs)

    @functools.cached_property
    def usefulness(self) -> pd.DataFrame:
        """One row a simulated latent: what its prediction wins over its mean, cross-validated."""
        losses = pd.read_parquet(self.usefulness_stage / "losses.parquet")
        resamples = self.params.rewrite.bootstrap
        return usefulness.usefulness(losses, seed=self.params.seed, resamples=resamples)

    @functools.cached_property
    def evidence(self) -> Evidence:
        """Ratings beside the truth at the calibrate windows: what calibrators are fitted on."""
        target = target_of(self.cache("calibrate"), np.array(self.simulated))
        screened = self.params.simulate.screen < 1
        return Evidence(self.ratings("calibrate"), self.true("calibrate"), target, screened)

    @functools.cached_property
    def estimates(self) -> dict[str, rewrite.Estimate]:
        """Every source of the rewrite: ablations and controls at all evaluate windows, the
        calibrated ratings at the simulated ones, which come first.
        """
        asked, latents = self.params.rewrite, np.array(self.simulated)
        free = without_llm(
            self.cache("explain"),
            self.cache("calibrate"),
            self.windows("evaluate"),
            self.cache("evaluate"),
            latents,
        )
        ratings = self.ratings("evaluate")
        told = {name: self.evidence.calibrated(name, ratings) for name in asked.calibrators}
        found = {
            name: rewrite.Estimate(values, asked.orders) for name, values in (free | told).items()
        }
        return found | (self._floor(ratings) if len(latents) > 1 else {})

    def _floor(self, ratings: Ratings) -> dict[str, rewrite.Estimate]:
        """Ratings of other latents' sentences, calibrated and spliced as the headline; needs two
        latents."""
        order, asked = derangement(len(self.simulated), self.params.seed), self.params.rewrite
        floor = self.evidence.shuffled(order)
        values = floor.calibrated(asked.headline, shuffled(ratings, order))
        kept = asked.headline.endswith(rewrite.TOPK)
        return {"shuffled explanations": rewrite.Estimate(values, asked.orders, topk=kept)}

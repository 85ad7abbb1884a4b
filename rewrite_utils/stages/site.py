"""The paper's diagram as code: each arrow is a property that makes its stage once, or reuses it.

In: a Run and the name of a site. Out: the artefacts a notebook shows. What a stage reads and hashes
is said here and nowhere else; how it computes is in the file of its noun. Nothing flows back.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils import activations, curated, measure, prompts, rewrite
from rewrite_utils import explain as explaining
from rewrite_utils import score as scoring
from rewrite_utils import simulate as simulating
from rewrite_utils.activations import LatentCache, OutputMoments, Windows
from rewrite_utils.coders import SparseCoder
from rewrite_utils.corpus import Corpus
from rewrite_utils.estimates import Evidence, derangement, shuffled, target_of, without_llm
from rewrite_utils.models import Hookpoint, Subject, load_subject, parse_hookpoint, token_texts
from rewrite_utils.params import ParameterError, Params, Site
from rewrite_utils.runs import Run, Stage
from rewrite_utils.stages import builders, coders
from rewrite_utils.stages.builders import CACHED_SPLITS, SIMULATED
from rewrite_utils.windows import draw_windows

__all__ = ["CACHED_SPLITS", "SIMULATED", "SiteStages", "open_sites"]

Build = Callable[["SiteStages", Path], dict[str, Any]]


@functools.cache
def subject(model: str, dtype: str, revision: str) -> Subject:
    """The subject model, loaded once a process."""
    return load_subject(model, dtype=dtype, revision=revision or None)


def open_sites(run: Run) -> dict[str, "SiteStages"]:
    """Every site of a run, by name, in the order of its parameter file."""
    return {name: SiteStages(run, name) for name in run.params.sites}


class SiteStages:
    """Every stage of one site, in the paper's order; a property makes what it needs first."""

    def __init__(self, run: Run, site: str) -> None:
        """Raises ParameterError when the run has no site of that name."""
        if site not in run.params.sites:
            raise ParameterError(
                f"no site {site!r} in run {run.params.name!r}; it has {', '.join(run.params.sites)}"
            )
        self.run, self.name = run, site
        self.params: Params = run.params
        self.settings: Site = run.params.sites[site]
        self._caches: dict[str, LatentCache] = {}

    # ── subject and text ──────────────────────────────────────────────────────────────────────

    @functools.cached_property
    def subject(self) -> Subject:
        """The language model under study."""
        asked = self.params.subject
        return subject(asked.model, asked.dtype, asked.revision)

    @functools.cached_property
    def collector(self) -> Subject:
        """The same model in the precision that activations are collected in."""
        asked = self.params.subject
        return subject(asked.model, asked.collected_in, asked.revision)

    @functools.cached_property
    def hookpoint(self) -> Hookpoint:
        """The place in the subject."""
        return parse_hookpoint(self.settings.hookpoint, n_layers=self.subject.n_layers)

    @functools.cached_property
    def corpus_stage(self) -> Stage:
        """Rows of tokens in five splits, the same for all sites."""
        asked = self.params.corpus
        content = {"corpus": asked.content(), "tokenizer": self.params.subject.model}
        return self.run.stage(
            "00_corpus",
            functools.partial(builders.make_corpus, self),
            parameters=content | {"seed": self.params.seed},
        )

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The corpus, loaded."""
        return Corpus.read(self.corpus_stage.folder)

    def texts(self, ids: ndarray) -> list[str]:
        """The exact text of each token id."""
        return token_texts(self.subject.tokenizer, ids.tolist())

    # ── coder and latents ─────────────────────────────────────────────────────────────────────

    @functools.cached_property
    def coder_stage(self) -> Stage:
        """The coder: trained on the train rows, or loaded and written down again."""
        subject = {"subject": self.params.subject.content(), "seed": self.params.seed}
        content = coders.content(self) | subject
        return self._stage("01_coder", coders.make_coder, content, [self.corpus_stage])

    @functools.cached_property
    def coder(self) -> SparseCoder:
        """The coder, loaded."""
        return SparseCoder.load(self.coder_stage.folder)

    @property
    def training(self) -> pd.DataFrame:
        """The training curve: step, FVU, dead latents; empty for a loaded coder."""
        return pd.read_parquet(self.coder_stage / "training.parquet")

    @functools.cached_property
    def quality_stage(self) -> Stage:
        """Loss and FVU with the coder, its latents at their mean or at zero, the output gone."""
        return self._stage("01_quality", builders.make_quality, {}, [self.latents_stage])

    @functools.cached_property
    def quality(self) -> pd.DataFrame:
        """One row an arm: ΔCE with its interval over rows, FVU."""
        return pd.read_parquet(self.quality_stage / "quality.parquet")

    @functools.cached_property
    def latents_stage(self) -> Stage:
        """Sparse activations of every latent over all rows that are not training rows."""
        return self._stage("02_latents", builders.make_latents, {}, [self.coder_stage])

    def cache(self, split: str) -> LatentCache:
        """The latent cache of one split."""
        if split not in self._caches:
            file = self.latents_stage / f"{split}.safetensors"
            self._caches[split] = LatentCache.read(file)
        return self._caches[split]

    @functools.cached_property
    def output_moments(self) -> OutputMoments:
        """Mean and variance of the hooked output, over the calibrate rows."""
        return OutputMoments.read(self.latents_stage / "moments.safetensors")

    @functools.cached_property
    def energy(self) -> Float[ndarray, " latent"]:
        """Share of the output's variance each latent carries alone, on the explain rows."""
        return activations.energy(self.cache("explain"), self.coder)

    @functools.cached_property
    def described(self) -> Int[ndarray, " described"]:
        """The latents that get a sentence, in order of index.

        Raises ParameterError when fewer fire often enough than were asked for.
        """
        alive = self.cache("explain").counts >= self.params.explain.min_firings
        wanted = self.settings.described or int(alive.sum())
        if alive.sum() < max(wanted, 1):
            raise ParameterError(
                f"sites.{self.name}.described = {wanted}, but only {int(alive.sum())} latents fire "
                f"at least {self.params.explain.min_firings} times in the explain rows: lower it, "
                "lower explain.min_firings, or train the coder longer"
            )
        ranked = np.argsort(-np.where(alive, self.energy, -1), kind="stable")
        return np.sort(ranked[:wanted])

    # ── sentences, scores, ratings ────────────────────────────────────────────────────────────

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
        inputs = [self.sentences_stage]
        if self.params.simulate.show_score:
            inputs.append(self.scores_stage)
        content = {
            "simulate": self.params.simulate.content(),
            "windows": [self.settings.calibrate_windows, self.settings.evaluate_windows],
            "llm": self.params.simulator.content(),
            "prompt": prompts.digest("simulate"),
            "seed": self.params.seed,
        }
        return self._stage("05_simulation", builders.make_simulation, content, inputs)

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

    # ── the rewrite ───────────────────────────────────────────────────────────────────────────

    @functools.cached_property
    def rewrite_stage(self) -> Stage:
        """The loss of every arm at every evaluate window."""
        content = {
            "rewrite": self.params.rewrite.content(),
            "control_windows": self.settings.control_windows,
            "seed": self.params.seed,
        }
        inputs = [self.scores_stage, self.simulation_stage]
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
        return explaining.evidence(
            self.cache("explain"),
            [latent],
            self.params.explain,
            token_texts=self.texts,
            skip=self.subject.tokenizer.all_special_ids,
            seed=self.params.seed,
        )[latent].text

    @property
    def rankings(self) -> dict[str, Float[ndarray, " simulated"]]:
        """What puts the simulated latents in order: detection F1, and share of the output."""
        f1 = self.scores.set_index("latent")["f1"].reindex(self.simulated)
        return {"top": f1.to_numpy(np.float64), "useful": self.energy[self.simulated]}

    @functools.cached_property
    def evidence(self) -> Evidence:
        """Ratings beside the truth at the calibrate windows: what calibrators are fitted on."""
        target = target_of(self.cache("calibrate"), np.array(self.simulated))
        return Evidence(self.ratings("calibrate"), self.true("calibrate"), target)

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
        order = derangement(len(latents), self.params.seed)
        floor = self.evidence.shuffled(order).calibrated(asked.headline, shuffled(ratings, order))
        return {
            name: rewrite.Estimate(values, asked.orders)
            for name, values in (free | told | {"shuffled explanations": floor}).items()
        }

    # ── below ────────────────────────────────────────────────────────────────────────────────────

    def _stage(
        self, name: str, build: Build, content: dict[str, Any], inputs: list[Stage]
    ) -> Stage:
        made = functools.partial(build, self)
        version = builders.VERSIONS.get(name, 1)
        return self.run.stage(
            f"{name}.{self.name}", made, parameters=content, inputs=inputs, version=version
        )

"""Sentences and their scores: what the explainer says of each latent, and how well a judge can use
it.

In: a site with its latents. Out: sentences (plain, contrastive, refined, chosen by hand, or read
from a delphi run), judgements of several kinds, scores. Paper §3–4.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy import ndarray

from rewrite_utils.explain import asking as explaining
from rewrite_utils.explain import curated, delphi, logits
from rewrite_utils.explain.contrast import Contrast
from rewrite_utils.explain.evidence import Source
from rewrite_utils.llm import embedding, prompts
from rewrite_utils.runs.run import Stage
from rewrite_utils.score import detection
from rewrite_utils.score import scores as scoring
from rewrite_utils.simulate import ExplanationError
from rewrite_utils.stages import wording
from rewrite_utils.stages.coded import CodedSite
from rewrite_utils.subject.model import quotable_texts


class ScoreKind(NamedTuple):
    """One kind of judgement; each is a stage of its own."""

    stage: str
    """Its name on disk."""
    task: str
    """What the judge is asked: "detect" or "fuzz"."""
    label: str
    """Its name in tables."""


SCORE_KINDS = {
    "detection": ScoreKind("04_scores", "detect", "detection"),
    "hard": ScoreKind("04_hard", "detect", "detection, hard negatives"),
    "fuzzing": ScoreKind("04_fuzzing", "fuzz", "fuzzing"),
    "shuffled": ScoreKind("04_shuffled", "detect", "detection, another latent's sentence (floor)"),
}


class WordedSite(CodedSite):
    """A site up to the scores of its sentences."""

    def quoted(self, ids: ndarray) -> list[str]:
        """The text of each token id as a prompt quotes it: special tokens are named in words."""
        return quotable_texts(self.subject.tokenizer, ids.tolist())

    # ── sentences ─────────────────────────────────────────────────────────────────────────────

    def contrast(self, split: str, *, by: str, window_tokens: int, rivals: int) -> Contrast:
        """What finds the hard negatives of a split."""
        embed = embedding.embedder() if by == "embedding" else None
        cache, decoder = self.cache(split), self.coder.W_dec.detach().float().cpu().numpy()
        return Contrast(cache, by, window_tokens, rivals, self.quoted, decoder, embed)

    @functools.cached_property
    def evidence_source(self) -> Source:
        """Where the explainer's evidence comes from."""
        asked = self.params.explain
        contrast, promoted = None, None
        if asked.contrast != "none":
            contrast = self.contrast(
                "explain",
                by=asked.contrast,
                window_tokens=asked.window_tokens,
                rivals=asked.rivals,
            )
        if asked.logits:
            promoted = functools.partial(
                logits.promoted, self.subject, self.coder, count=asked.logits
            )
        cache = self.cache("explain")
        return Source(cache, asked, self.quoted, self.params.seed, contrast, promoted)

    @functools.cached_property
    def explanations_stage(self) -> Stage:
        """One sentence a described latent."""
        asked = self.params.explain
        content: dict[str, Any] = {
            "explain": asked.content(),
            "llm": self.params.explainer.content(),
            "prompt": prompts.digest(explaining.wording(asked)),
            "described": self.settings.described,
            "seed": self.params.seed,
        }
        if asked.contrast == "embedding":
            content["embedder"] = embedding.DEFAULT
        elif asked.contrast != "none":
            content["rivals' deciles"] = "all"
        inputs = [self.latents_stage]
        return self._stage("03_explanations", wording.make_explanations, content, inputs)

    @functools.cached_property
    def refined_stage(self) -> Stage:
        """The same sentences after one round on held-out explain windows."""
        content = {
            "refine": self.params.explain.refine,
            "prompt": [prompts.digest("refine"), prompts.digest("detect_one")],
        }
        inputs = [self.explanations_stage]
        return self._stage("03_refined", wording.make_refined, content, inputs)

    @functools.cached_property
    def delphi_stage(self) -> Stage:
        """The sentences of a delphi run."""
        folder = self.params.explain.delphi
        content = {"files": delphi.digest(folder, self.hookpoint.name)}
        return self._stage("03_delphi", wording.make_delphi, content, [self.latents_stage])

    @functools.cached_property
    def written_stage(self) -> Stage:
        """The sentences as an LLM left them: delphi's, the explainer's, or those refined."""
        asked = self.params.explain
        if asked.delphi:
            return self.delphi_stage
        return self.refined_stage if asked.refine else self.explanations_stage

    @functools.cached_property
    def curated(self) -> dict[int, str]:
        """The sentences that the parameter ``explain.curated`` puts in place of the explainer's."""
        file = self.params.explain.curated
        return curated.read(file, site=self.name, coder=self.coder_stage.hash) if file else {}

    @functools.cached_property
    def sentences_stage(self) -> Stage:
        """The explanations that count: the explainer's, curated sentences in their place."""
        if not self.curated:
            return self.written_stage
        content = {"curated": {str(latent): text for latent, text in self.curated.items()}}
        return self._stage("03_curated", wording.make_curated, content, [self.written_stage])

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
            replies = self.written_stage / "explanations.parquet"
            raise ExplanationError(
                f"none of the {len(self.explanations)} latents of site {self.name!r} got a "
                f"sentence; the raw replies are in {replies}"
            )
        return dict(zip(kept["latent"].astype(int), kept["sentence"], strict=True))

    # ── scores ────────────────────────────────────────────────────────────────────────────────

    @property
    def score_kinds(self) -> tuple[str, ...]:
        """The kinds of judgements this run asks for, detection first; see SCORE_KINDS."""
        asked = self.params.score
        wanted = {"hard": asked.hard, "fuzzing": asked.fuzzing, "shuffled": asked.shuffled}
        return ("detection", *(kind for kind, on in wanted.items() if on))

    def kind_stage(self, kind: str) -> Stage:
        """The judgements of one kind, on the score rows."""
        name, task, _ = SCORE_KINDS[kind]
        if self.params.explain.delphi and kind in delphi.SCORES:
            folder = self.params.explain.delphi
            content = {"files": delphi.digest(folder, self.hookpoint.name, scores=kind)}
            made = functools.partial(wording.make_delphi_judgements, kind=kind)
            return self._stage(name, made, content, [self.sentences_stage])
        asked = self.params.score
        own = {
            "hard": {"hard": asked.hard, "by": asked.hard_by, "rivals": asked.rivals}
            | ({} if asked.hard_by == "embedding" else {"rivals' deciles": "all"}),
            "fuzzing": {"fuzzing": asked.fuzzing, "marks": self.params.explain.threshold},
        }
        content = {
            "score": asked.content(),
            "llm": self.params.explainer.content(),
            "prompt": prompts.digest(detection.wording(task, asked.per_prompt)),
            "seed": self.params.seed,
        } | own.get(kind, {})
        made = functools.partial(wording.make_judgements, kind=kind, task=task)
        return self._stage(name, made, content, [self.sentences_stage])

    @functools.cached_property
    def scores_stage(self) -> Stage:
        """Detection judgements on the score rows."""
        return self.kind_stage("detection")

    def judgements_of(self, kind: str) -> pd.DataFrame:
        """One row a (latent, window): whether yes is right, and the probability of "yes"."""
        stage = self.scores_stage if kind == "detection" else self.kind_stage(kind)
        return pd.read_parquet(stage / "judgements.parquet")

    @functools.cached_property
    def judgements(self) -> pd.DataFrame:
        """The judgements of detection."""
        return self.judgements_of("detection")

    def scores_of(self, kind: str) -> pd.DataFrame:
        """One row a latent; a latent that cannot be scored has missing numbers."""
        return scoring.scores(self.judgements_of(kind), threshold=self.params.score.threshold)

    @functools.cached_property
    def scores(self) -> pd.DataFrame:
        """Detection scores, one row a latent."""
        return self.scores_of("detection")

    def score_intervals(self, kind: str = "detection") -> pd.DataFrame:
        """Intervals over each latent's windows."""
        asked = self.params
        return scoring.intervals(
            self.judgements_of(kind), threshold=asked.score.threshold, seed=asked.seed
        )

    def f1_of(self, latent: int) -> float | None:
        """Detection F1 of one sentence; None where it could not be scored."""
        f1 = self.scores.set_index("latent")["f1"].get(latent, np.nan)
        return None if np.isnan(f1) else float(f1)

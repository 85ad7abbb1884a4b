"""All stages of one site, composed in the paper's order: a property a result.

``open_sites(run)["early"].scores`` makes what it needs first (text, coder, latents, sentences, …)
and reuses what is there. How a stage is made, what it hashes and what it stands on is said in the
``stage.py`` of its room; here stands only that it exists, and under which name.
"""

import functools
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy import ndarray

from rewrite_utils.coder import quality as measuring
from rewrite_utils.coder import stage as coding
from rewrite_utils.explain import levels
from rewrite_utils.explain import stage as explaining
from rewrite_utils.latents import stage as caching
from rewrite_utils.latents import totals as counting
from rewrite_utils.latents.cache import Windows
from rewrite_utils.params import ParameterError, Params
from rewrite_utils.params import Site as Settings
from rewrite_utils.params.asking import PLAIN
from rewrite_utils.rewrite import example as showing
from rewrite_utils.rewrite import label_stage as labelling
from rewrite_utils.rewrite import layer_stage as layering
from rewrite_utils.rewrite import stage as rewriting
from rewrite_utils.rewrite import studies, usefulness
from rewrite_utils.rewrite import study_stages as studying
from rewrite_utils.rewrite.splicer import splicer
from rewrite_utils.runs.run import Run, Stage
from rewrite_utils.runs.stage import Chosen, Derived, Made, Staged, StagedSite
from rewrite_utils.score import stage as scoring
from rewrite_utils.score.scores import intervals, scores
from rewrite_utils.simulate import running
from rewrite_utils.simulate import stage as simulating
from rewrite_utils.simulate import ways as asking
from rewrite_utils.simulate.readers import stage as readings
from rewrite_utils.simulate.readers.kept import Kept
from rewrite_utils.subject import stage as reading


class SiteStages(StagedSite):
    """Every result of one site; a property makes what it needs first."""

    def __init__(self, run: Run, name: str) -> None:
        """Raises ParameterError when the run has no site of that name."""
        if name not in run.params.sites:
            raise ParameterError(
                f"no site {name!r} in run {run.params.name!r}; it has {', '.join(run.params.sites)}"
            )
        self.run, self.name = run, name
        self.params: Params = run.params
        self.settings: Settings = run.params.sites[name]

    # ── 00 subject and text ───────────────────────────────────────────────────────────────────
    subject = Derived(reading.subject)
    collector = Derived(reading.collector)
    hookpoint = Derived(reading.hookpoint)
    corpus_stage = Staged(reading.CORPUS)
    corpus = Made(reading.CORPUS)
    texts = Derived(explaining.texts)
    quoted = Derived(explaining.quoted)

    # ── 01 coder ──────────────────────────────────────────────────────────────────────────────
    coder_stage = Staged(coding.CODER)
    coder = Made(coding.CODER)
    training = Derived(coding.training)
    quality = Made(measuring.QUALITY)

    # ── 02 latents ────────────────────────────────────────────────────────────────────────────
    latents_stage = Staged(caching.LATENTS)
    cache = Made(caching.LATENTS)
    special_firings = Derived(caching.special_firings)
    windows = Derived(caching.Drawn)
    output_moments = Derived(caching.output_moments)
    output_mean = Derived(caching.output_mean)
    output_variance = Derived(caching.output_variance)
    latent_means = Derived(caching.latent_means)
    energy = Derived(caching.energy)
    described = Derived(caching.described)

    # ── 03 explanations ───────────────────────────────────────────────────────────────────────
    evidence_source = Derived(explaining.evidence_source)
    explanations_stage = Staged(explaining.EXPLANATIONS)
    refined_stage = Staged(scoring.REFINED)
    delphi_stage = Staged(explaining.DELPHI)
    labels_stage = Staged(explaining.LABELS)
    written_stage = Chosen(explaining.written_by)
    curated = Derived(explaining.kept_by_hand)
    curated_stage = Staged(explaining.CURATED)
    sentences_stage = Chosen(explaining.counted_by)
    explanations = Derived(explaining.explanations)
    sentences = Derived(explaining.sentences)
    simulated = Derived(explaining.simulated)

    # ── 04 scores ─────────────────────────────────────────────────────────────────────────────
    score_kinds = Derived(scoring.kinds)
    scores_stage = Staged(scoring.JUDGED["detection"])
    scores = Derived(scoring.score_table)

    # ── 05 simulation ─────────────────────────────────────────────────────────────────────────
    telling = Derived(simulating.Telling)
    descriptions = Derived(simulating.descriptions)
    simulation_stage = Staged(simulating.SIMULATION)
    ratings = Made(simulating.SIMULATION)
    ways = Derived(asking.Ways)
    screening_curves = Derived(simulating.screening_curves)

    # ── 06 calibration, and the studies around the rewrite ────────────────────────────────────
    evidence = Derived(rewriting.evidence)
    estimates = Derived(rewriting.estimates)
    held_out = Derived(studying.held_out)
    studied = Derived(studies.studied)
    material = Derived(studies.material)
    study = Derived(studying.study)
    few_windows = Derived(studying.few_windows)
    screened_estimates = Derived(studying.screened_estimates)
    estimators = Made(studying.ESTIMATORS)
    oracle = Made(studying.ORACLE)
    fewer = Made(studying.FEWER)
    shrink = Made(studying.SHRINK)
    screened = Made(studying.SCREENED)
    specificity = Made(studying.SPECIFICITY)

    # ── 07 rewrite ────────────────────────────────────────────────────────────────────────────
    splicer = Derived(splicer)
    judged = Derived(rewriting.judged)
    rankings = Derived(rewriting.rankings)
    rewrite_stage = Staged(rewriting.REWRITE)
    losses = Made(rewriting.REWRITE)
    verdict = Derived(rewriting.verdict)
    example = Derived(showing.example)
    control_verdict = Derived(rewriting.control_verdict)
    floors = Made(studying.FLOORS)
    usefulness_stage = Staged(usefulness.USEFULNESS)
    usefulness = Derived(usefulness.useful_table)
    checkpoints_stage = Staged(rewriting.CHECKPOINTS)
    training_curve = Made(rewriting.CHECKPOINTS)

    # ── 13 whole layers, read ─────────────────────────────────────────────────────────────────
    totals_stage = Staged(counting.TOTALS)
    totals = Made(counting.TOTALS)
    read_latents = Derived(levels.read_latents)
    told = Derived(levels.told)
    told_stage = Staged(levels.TOLD)
    told_more = Made(levels.TOLD)
    level_records = Derived(levels.level_records)
    level_texts = Derived(levels.level_texts)
    senses = Derived(readings.senses)
    readers_stage = Staged(readings.READERS)
    readers = Made(readings.READERS)
    reader_rows = Derived(readings.reader_rows)
    reader = Derived(layering.reader)
    token_reader = Derived(layering.token_reader)
    exchanged = Derived(layering.exchanged)
    edited_reader = Derived(layering.edited_reader)
    replacements = Derived(layering.replacements)
    layer_losses = Made(layering.LAYER)
    layer_verdict = Derived(layering.layer_verdict)
    label_benchmark = Made(labelling.BENCHMARK)

    @property
    def states_folder(self) -> Path:
        """Where the run keeps what an LLM's pass over its texts has given."""
        return self.run.folder / "states"

    @functools.cached_property
    def other(self) -> "SiteStages | None":
        """The site whose readers are tried here, too; None where none is asked for."""
        read = [name for name, site in self.params.sites.items() if site.reader]
        others = [name for name in read if name != self.name]
        asked = self.params.readers.elsewhere and self.settings.reader
        return SiteStages(self.run, others[0]) if asked and others else None

    @property
    def other_readers_stage(self) -> Stage:
        """Its readers."""
        return (self.other or self).readers_stage

    @property
    def elsewhere(self) -> readings.Elsewhere:
        """Its latents, to fit a reader on."""
        site = self.other or self
        told = site.level_texts, site.cache, site.coder, site.subject, site.params, site.name
        return readings.elsewhere_of(*told)

    @property
    def elsewhere_stage(self) -> Stage:
        """The reader fitted there; this site's own readers where there is no such site."""
        return self.stage(readings.ELSEWHERE) if self.other else self.readers_stage

    @functools.cached_property
    def elsewhere_reader(self) -> Kept | None:
        """The same, read."""
        return self.read(readings.ELSEWHERE) if self.other else None

    def useful(self) -> pd.DataFrame:
        """``usefulness``, for what may or may not need it."""
        return self.usefulness

    def shown(self) -> str:
        """The evidence about the first described latent as its prompt shows it."""
        latent = int(self.described[0])
        return self.evidence_source.questions([latent])[latent].text

    @property
    def judgements(self) -> pd.DataFrame:
        """The judgements of detection."""
        return self.judgements_of("detection")

    def judgements_of(self, kind: str) -> pd.DataFrame:
        """One row a (latent, window): whether yes is right, and the probability of "yes"."""
        return scoring.read_judgements(self.kind_stage(kind).folder)

    def scores_of(self, kind: str) -> pd.DataFrame:
        """One row a latent, by the judgements of one kind."""
        return scores(self.judgements_of(kind), threshold=self.params.score.threshold)

    def score_intervals(self, kind: str = "detection") -> pd.DataFrame:
        """The same with intervals over each latent's windows."""
        threshold = self.params.score.threshold
        return intervals(self.judgements_of(kind), threshold=threshold, seed=self.params.seed)

    def f1_of(self, latent: int) -> float | None:
        """Detection F1 of one sentence; None where it could not be scored."""
        f1 = self.scores.set_index("latent")["f1"].get(latent, np.nan)
        return None if np.isnan(f1) else float(f1)

    def true(self, split: str) -> Float[ndarray, "window latent"]:
        """True activations at the simulated windows of the simulated latents."""
        return self.cache(split).dense(self.windows.simulated(split))[:, self.simulated]

    def true_everywhere(self, split: str) -> Float[ndarray, "window latent token"]:
        """The same at every token of those windows."""
        length = self.params.simulate.window_tokens
        return simulating.true_everywhere(
            self.cache, self.windows, self.simulated, length=length, split=split
        )

    def simulated_windows(self, split: str) -> Windows:
        """The windows of a split that the simulator rates."""
        return self.windows.simulated(split)

    def ranked(self, split: str) -> Float[ndarray, "window latent"]:
        """E as it ranks pairs: those that screening left out stand below all others, at −1."""
        return self.ratings.ranked(split)

    def sent(self, split: str) -> Bool[ndarray, "window latent"]:
        """Which pairs went to the simulator: all of them unless ``simulate.screen`` is below 1."""
        return self.ratings.sent(split)

    def own_ratings(self) -> Stage:
        """The stage of the run's own way to ask."""
        return self.simulation_stage

    def simulate_part(self, part: running.Part) -> bool:
        """Rate only some pairs now; what is rated is kept for the rest. True once all are.

        Raises ValueError for a latent that has no sentence.
        """
        running.require_known(part, self.simulated)
        try:
            self.stage(simulating.SIMULATION, part=part)
        except running.Unfinished:
            return False
        return True

    @property
    def is_simulated(self) -> bool:
        """Whether the ratings are there already; they are not made."""
        return self.finished(simulating.SIMULATION)

    def kind_stage(self, kind: str) -> Stage:
        """The judgements of one kind."""
        return self.scores_stage if kind == "detection" else self.stage(scoring.JUDGED[kind])

    def variant(self, kind: str) -> "SiteStages":
        """The site with sentences of another kind (see ``Explain.of_kind``): text, coder and
        latents are the same stages."""
        explain = self.params.explain.of_kind(kind)
        run = self.run.with_params(self.params.model_copy(update={"explain": explain}))
        return SiteStages(run, self.name)

    @property
    def variants(self) -> dict[str, "SiteStages"]:
        """The plain kind and every kind that ``explain.compared`` names; without any, the site as
        it is, so that nothing is asked of an LLM."""
        compared = self.params.explain.compared
        if not compared:
            return {PLAIN: self}
        return {kind: self.variant(kind) for kind in dict.fromkeys((PLAIN, *compared))}


def open_sites(run: Run) -> dict[str, SiteStages]:
    """Every site of a run, by name, in the order of its parameter file."""
    return {name: SiteStages(run, name) for name in run.params.sites}

"""The first half of the paper's diagram: subject, text, coder, and what its latents do.

In: a Run and the name of a site. Out: stages and what is read from them. What a stage reads and
hashes is said here and in the two files that build on this one; how it computes, elsewhere.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.latents import cache as activations
from rewrite_utils.latents.cache import LatentCache, OutputMoments
from rewrite_utils.params import ParameterError, Params, Site
from rewrite_utils.runs.machine import precision
from rewrite_utils.runs.run import Run, Stage
from rewrite_utils.stages import builders, coders
from rewrite_utils.subject.corpus import Corpus
from rewrite_utils.subject.model import (
    Hookpoint,
    Subject,
    load_subject,
    parse_hookpoint,
    token_texts,
)

Build = Callable[[Any, Path], dict[str, Any]]


@functools.cache
def subject(model: str, dtype: str, device: str, revision: str) -> Subject:
    """The subject model, loaded once a process."""
    return load_subject(model, dtype=dtype, device=device, revision=revision or None)


class CodedSite:
    """A site up to its latents; a property makes what it needs first."""

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

    @functools.cached_property
    def subject(self) -> Subject:
        """The language model under study."""
        asked = self.params.subject
        return subject(asked.model, asked.measured_in, asked.device, asked.revision)

    @functools.cached_property
    def collector(self) -> Subject:
        """The same model in the precision that activations are collected in."""
        asked = self.params.subject
        dtype = precision(asked.collected_in, device=asked.device)
        return subject(asked.model, dtype, asked.device, asked.revision)

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
        """The coder, loaded, on the subject's device."""
        return SparseCoder.load(self.coder_stage.folder).to(self.subject.device)

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

    def _finished(self, name: str, content: dict[str, Any], inputs: list[Stage]) -> bool:
        """Whether a stage is there already; nothing is made but its inputs."""
        version = builders.VERSIONS.get(name, 1)
        return self.run.finished(
            f"{name}.{self.name}", parameters=content, inputs=inputs, version=version
        )

    def _stage(
        self, name: str, build: Build, content: dict[str, Any], inputs: list[Stage]
    ) -> Stage:
        made = functools.partial(build, self)
        version = builders.VERSIONS.get(name, 1)
        return self.run.stage(
            f"{name}.{self.name}", made, parameters=content, inputs=inputs, version=version
        )

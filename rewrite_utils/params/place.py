"""Where the rewrite happens: the subject, its text, and the sites with their coders."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from rewrite_utils.params.section import SPLITS, Section


class Subject(Section):
    """The language model that is being rewritten."""

    UNHASHED: ClassVar[frozenset[str]] = frozenset({"checkpoints", "device"})
    model: str = "embedded/smollm2-135m-instruct"
    """Hub name, folder, or embedded/…"""
    revision: str = ""
    """Hub revision (Pythia's checkpoints are "step1000" …); empty is the newest."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the passes that losses are measured in; auto: float32 (bfloat16 moves the loss
    of a token by .05 nat)."""
    collect_dtype: Literal["auto", "", "float32", "bfloat16"] = "auto"
    """Precision of the passes that collect activations (training data, latent caches); auto: the
    one that a product timed at the start shows to be faster on this machine; empty: as dtype."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Where it and the coder compute: auto (a GPU if there is one), cpu, cuda or cuda:1; the LLMs
    find a GPU by themselves."""
    checkpoints: tuple[str, ...] = ()
    """Revisions along its training ("step0", "step1" …), last one the whole training: patched
    losses are compared with theirs; empty: not done."""

    @property
    def steps(self) -> tuple[int, ...]:
        """The training step of each checkpoint: the number its name ends with."""
        found = [re.search(r"\d+$", name) for name in self.checkpoints]
        return tuple(int(number[0]) for number in found if number)

    @model_validator(mode="after")
    def _in_order(self) -> "Subject":
        steps = self.steps
        if len(steps) < len(self.checkpoints) or list(steps) != sorted(set(steps)):
            raise ValueError(
                f"checkpoints {', '.join(self.checkpoints)} must end with their training step and "
                "stand in its order"
            )
        if len(steps) == 1:
            raise ValueError("one checkpoint makes no training curve: name two or more, or none")
        return self

    @property
    def measured_in(self) -> str:
        """The precision that losses are measured in."""
        return "float32" if self.dtype == "auto" else self.dtype

    @property
    def collected_in(self) -> str:
        """The precision that activations are collected in; "auto" is the machine's to say."""
        return self.collect_dtype or self.measured_in


class Corpus(Section):
    """The text, cut into rows and split once into five disjoint parts."""

    BEFORE: ClassVar[Mapping[str, Any]] = {"draw": "seed", "special_tokens": "kept"}
    LATER: ClassVar[frozenset[str]] = frozenset({"apart_from"})

    sources: tuple[str, ...] = Field(("embedded/wikipedia",), min_length=1)
    """Embedded texts or hub datasets ("monology/pile-uncopyrighted:train[:1%]")."""
    row_tokens: int = Field(128, ge=40)
    """Tokens in a row, the BOS included (paper: 256)."""
    train: float = Field(0.70, ge=0, le=1)
    """Share of the documents that train the coder."""
    explain: float = Field(0.10, ge=0, le=1)
    """Share that explanations may quote."""
    score: float = Field(0.06, ge=0, le=1)
    """Share that scores are measured on."""
    calibrate: float = Field(0.07, ge=0, le=1)
    """Share that calibrators are fitted on."""
    evaluate: float = Field(0.07, ge=0, le=1)
    """Share that losses are measured on."""
    max_rows: int = Field(0, ge=0)
    """At most this many rows in each part but train (0: all). More of them begin with the same
    rows, in a run of the same name."""
    draw: Literal["name", "seed"] = "name"
    """What rows and windows are drawn by, train and the parts' documents aside: the run's name and
    the seed, so that a second run of a seed is a second draw; or the seed alone, where a larger
    max_rows only adds to the rows of a smaller run (runs before November 2026)."""
    apart_from: tuple[int, ...] = ()
    """Seeds of earlier runs on the same text: the documents that those fitted calibrations or
    measured on are left out of evaluate, so that it holds text no choice was made on."""
    faithful: bool = False
    """True: one part serves explain, score, calibrate and evaluate, as in the authors' code;
    figures say so."""
    special_tokens: Literal["masked", "kept"] = "masked"
    """Control tokens inside rows (the end of a text): masked, nothing is trained, cached, described
    or measured on them; kept, they are tokens like any other, as in runs made before this name."""

    @property
    def shares(self) -> dict[str, float]:
        """Share of the documents in each of the five splits."""
        return {split: getattr(self, split) for split in SPLITS}

    @model_validator(mode="after")
    def _whole(self) -> "Corpus":
        total = sum(self.shares.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(
                f"the shares of the five splits add up to {total:.4f}, not 1: {self.shares}"
            )
        return self


class Site(Section):
    """One place of the subject that is rewritten: a hookpoint, its coder, and which latents get
    sentences."""

    hookpoint: str
    """layers.N.mlp (a transcoder: MLP input → MLP output) or layers.N (an SAE on the residual
    stream)."""
    coder: str = ""
    """A trained coder to load (sparsify folder or hub name), or "random": the control with random
    weights; empty: train one with the settings below."""
    bias_convention: Literal["current", "pre-2025-02"] = "current"
    """How a loaded transcoder reads its input: as it is, or minus b_dec (sparsify before 12
    February 2025)."""
    latents: int = Field(64, ge=1)
    """Width of the coder."""
    k: int = Field(4, ge=1)
    """Latents kept by TopK at each token."""
    skip: bool = False
    """Give the transcoder a linear skip connection (the paper's has one)."""
    tokens: int = Field(700_000, ge=1)
    """Training tokens at most; fewer if the train split is smaller."""
    epochs: int = Field(2, ge=1)
    """Passes over the training tokens."""
    batch: int = Field(1024, ge=1)
    """Tokens in a training step."""
    stream: bool = False
    """Compute activations while training, whole rows a step, instead of storing them first: no
    disk, but every epoch runs the subject again."""
    lr: float = Field(0.0, ge=0)
    """Peak learning rate; 0 means the paper's 2e-4 / sqrt(latents / 2^14) (Signum: 5e-3 / …)."""
    optimizer: Literal["adam", "signum"] = "adam"
    """Adam (v1's), or schedule-free Signum (v2's)."""
    warmup_steps: int = Field(1000, ge=0)
    """Steps of linear warm-up (Adam only), at most a tenth of all."""
    auxk_alpha: float = Field(0.0, ge=0)
    """Weight of the AuxK loss that revives dead latents; 0: off, as in the paper's run."""
    dead_after: int = Field(1_000_000, ge=1)
    """A latent is dead in training (for AuxK and its curve) when silent for this many tokens."""
    normalize_decoder: bool = False
    """Keep the decoder's rows at norm 1 while training (an SAE trained with Adam)."""
    described: int = Field(0, ge=0)
    """How many latents get a sentence, those that carry most of the output first; 0: all of
    them."""
    calibrate_windows: int = Field(60, ge=2)
    """Windows simulated to fit the calibrators (paper: 1K and 10K)."""
    evaluate_windows: int = Field(40, ge=2)
    """Windows simulated to measure the rewrite."""
    control_windows: int = Field(300, ge=2)
    """Evaluate windows for the arms that need no LLM; the simulated windows are the first of
    them."""
    reader: str = ""
    """The arm that the verdict on the whole layer is about, declared before the run; empty: this
    site is not read."""
    arms: tuple[str, ...] = ()
    """Its readers; empty: ``readers.arms``."""

    @model_validator(mode="after")
    def _fits(self) -> "Site":
        for complaint in self._complaints():
            raise ValueError(complaint)
        return self

    def _complaints(self) -> Iterator[str]:
        if self.k > self.latents:
            yield f"k = {self.k} is more than the coder's {self.latents} latents; lower k"
        if self.described > self.latents:
            yield f"described = {self.described} is more than the {self.latents} latents"
        if self.normalize_decoder and (self.hookpoint.endswith(".mlp") or self.optimizer != "adam"):
            yield (
                "normalize_decoder = true is for SAEs (layers.N) trained with adam: a transcoder's "
                "decoder starts at 0, Signum averages weights; leave it out"
            )
        if self.bias_convention != "current" and self.coder in ("", "random"):
            yield (
                f"bias_convention = {self.bias_convention!r} is for coders that are loaded: name "
                "one in coder, or leave it out"
            )

"""One frozen model of everything a run may vary; every stage reads the same YAML (params/*.yaml).

A misspelt name is an error that names the nearest real one. ``content()`` is what a stage hashes:
all fields that determine a result, and none of those that only decide how fast it is made.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

ROOT = Path(__file__).resolve().parent.parent
SPLITS = ("train", "explain", "score", "calibrate", "evaluate")


class ParameterError(ValueError):
    """A parameter that does not exist or has a value that cannot be; the message says which and
    why."""


class Section(BaseModel):
    """A frozen group of parameters that rejects unknown names and explains each field in a
    docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    UNHASHED: ClassVar[frozenset[str]] = frozenset()

    def content(self) -> dict[str, Any]:
        """What determines a stage's result, as JSON-able values; fields in ``UNHASHED`` (speed,
        or read only when a table is drawn) left out."""
        return self.model_dump(mode="json", exclude=set(self.UNHASHED))


class Subject(Section):
    """The language model that is being rewritten."""

    UNHASHED: ClassVar[frozenset[str]] = frozenset({"checkpoints"})
    model: str = "embedded/smollm2-135m-instruct"
    """Hub name, folder, or embedded/…"""
    revision: str = ""
    """Hub revision (Pythia's checkpoints are "step1000" …); empty is the newest."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the passes that losses are measured in."""
    collect_dtype: Literal["", "float32", "bfloat16"] = ""
    """Precision of the passes that collect activations (training data, latent caches); empty: as
    dtype."""
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
    def collected_in(self) -> str:
        """The precision that activations are collected in."""
        return self.collect_dtype or self.dtype


class Corpus(Section):
    """The text, cut into rows and split once into five disjoint parts."""

    sources: tuple[str, ...] = ("embedded/wikipedia",)
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
    """At most this many rows in each part but train (0: all)."""
    faithful: bool = False
    """True: one part serves explain, score, calibrate and evaluate, as in the authors' code;
    figures say so."""

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
    lr: float = Field(0.0, ge=0)
    """Peak learning rate; 0 means the paper's 2e-4 / sqrt(latents / 2^14) (Signum: 5e-3 / …)."""
    optimizer: Literal["adam", "signum"] = "adam"
    """Adam (v1's), or schedule-free Signum (v2's)."""
    warmup_steps: int = Field(1000, ge=0)
    """Steps of linear warm-up (Adam only), at most a tenth of all."""
    auxk_alpha: float = Field(0.0, ge=0)
    """Weight of the AuxK loss that revives dead latents; 0: off, as in the paper's run."""
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

    @model_validator(mode="after")
    def _fits(self) -> "Site":
        if self.k > self.latents:
            raise ValueError(
                f"k = {self.k} is more than the coder's {self.latents} latents; lower k"
            )
        if self.described > self.latents:
            raise ValueError(
                f"described = {self.described} is more than the {self.latents} latents"
            )
        if self.bias_convention != "current" and self.coder in ("", "random"):
            raise ValueError(
                f"bias_convention = {self.bias_convention!r} is for coders that are loaded: name "
                "one in coder, or leave it out"
            )
        return self


class LLM(Section):
    """A language model that writes, scores or simulates."""

    UNHASHED: ClassVar[frozenset[str]] = frozenset({"engine", "threads", "memory_gb"})
    model: str = "embedded/qwen2.5-coder-1.5b-instruct"
    """Hub name, folder, or embedded/…"""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the weights and of the key-value cache."""
    context: int = Field(2048, ge=256)
    """Longest prompt with its answer, in tokens."""
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """auto: vLLM where it can be imported, transformers elsewhere."""
    threads: int = Field(0, ge=0)
    """CPU threads; 0: all cores."""
    memory_gb: float = Field(2.0, gt=0)
    """GiB for the key-value cache."""


class Explain(Section):
    """How a sentence is asked for (paper: 40 windows of 32 tokens, Llama-3.1-70B, temperature
    0.7)."""

    UNHASHED: ClassVar[frozenset[str]] = frozenset({"curated"})  # 03_curated hashes its sentences

    windows: int = Field(10, ge=1)
    """Activating windows shown."""
    window_tokens: int = Field(16, ge=4)
    """Tokens in each window shown."""
    strategy: Literal["quantiles", "top", "random"] = "quantiles"
    """Which windows: evenly from ten rank deciles of the window maximum, the strongest, or any."""
    min_firings: int = Field(20, ge=1)
    """Latents that fire less often in the explain split are not described (paper: 200)."""
    threshold: float = Field(0.2, ge=0, lt=1)
    """Tokens above this share of the window's own maximum are delimited."""
    words: int = Field(5, ge=0)
    """Strongest tokens, by mean activation on the explain rows, that the explainer is told."""
    evidence: Literal["none", "pieces", "tokens"] = "tokens"
    """What the simulator sees in brackets behind the sentence: nothing, the tokens the explainer
    named, or the strongest tokens (paper: nothing)."""
    temperature: float = Field(0.7, ge=0)
    """Sampling temperature."""
    max_tokens: int = Field(48, ge=8)
    """Longest answer."""
    retries: int = Field(2, ge=0)
    """New seeds tried when an answer has no sentence in it."""
    curated: str = ""
    """The explorer's curated.parquet (runs/<name>/curated.parquet): its sentences replace the
    explainer's; empty: none."""


class Score(Section):
    """Detection: which of five windows contain the concept? (paper: 100 activating + 100
    random)."""

    activating: int = Field(10, ge=1)
    """Activating windows a latent, evenly from the rank deciles of the score split."""
    random: int = Field(10, ge=1)
    """Random windows a latent, from rows where it fires nowhere."""
    window_tokens: int = Field(16, ge=4)
    """Tokens in each window."""
    per_prompt: int = Field(5, ge=1)
    """Windows shown in one prompt."""


class Simulate(Section):
    """The paper's unit: one latent, one window, its last token, an expected rating 0–9 from one
    forward pass."""

    window_tokens: int = Field(32, ge=2)
    """Tokens in a window; it ends at the rated token."""
    first_position: int = Field(33, ge=1)
    """Earliest position in the row that is rated."""
    last_position: int = Field(0, ge=0)
    """Latest position that is rated (paper: 223 of 256); 0: the last one with a next token."""
    show_rate: bool = False
    """Tell the simulator how often the latent fires."""
    show_score: bool = False
    """Tell the simulator the sentence's detection score."""
    align: int = Field(32, ge=1)
    """The shared part of a prompt is padded to a multiple of this, the block of vLLM's prefix
    cache."""


class Rewrite(Section):
    """The arms of the rewrite and how they are counted."""

    UNHASHED: ClassVar[frozenset[str]] = frozenset({"bootstrap"})

    fractions: tuple[float, ...] = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Shares of the described latents that are replaced by their predictions."""
    orders: tuple[Literal["top", "random", "useful"], ...] = ("top", "random")
    """Which latents go first: best score, drawn anew for each window, or largest share of the
    output."""
    calibrators: tuple[str, ...] = (
        "raw+topk",
        "quantile:type7+topk",
        "quantile:type8",
        "isotonic",
        "centred+standardised+isotonic_pooled",
        "centred+standardised+capped+isotonic_pooled",
        "centred+standardised+logistic_pooled",
    )
    """Calibrations whose rewrites are measured; a name that ends in +topk keeps
    only the k largest latents afterwards, as the paper does."""
    headline: str = "centred+standardised+isotonic_pooled"
    """The calibrator that the verdict is about, declared before the run."""
    bootstrap: int = Field(2000, ge=100)
    """Resamples of the windows behind every interval."""


class Studies(Section):
    """What is measured around the rewrite without asking an LLM."""

    latents: int = Field(256, ge=2)
    """Latents of a study at most, drawn among those that fire in the calibrate rows."""
    aurocs: tuple[Annotated[float, Field(ge=0.5, lt=1)], ...] = (0.7, 0.85, 0.95)
    """Qualities of the corrupted oracle; the first serves the study of the estimators."""
    sizes: tuple[int, ...] = (100, 300, 1000, 3000, 10_000)
    """Calibration windows of the corrupted oracle (paper: 1K and 10K); the rewrite is measured for
    the fewest and the most."""
    draws: int = Field(3, ge=1)
    """How often the windows of the study of the estimators are drawn anew."""
    held_windows: int = Field(2000, ge=2)
    """Evaluate windows that the estimators' mismatch is measured on."""
    calibrators: tuple[str, ...] = (
        "quantile:type7+topk",
        "quantile:type8",
        "isotonic",
        "centred+standardised+isotonic_pooled",
        "centred+standardised+logistic_pooled",
    )
    """Calibrations of the corrupted oracle that are spliced."""
    factors: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5)
    """Global shrink factors tried on held-out calibrate windows; 0 is mean ablation."""
    specificities: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (
        *(0.0, 0.5, 0.8, 0.9, 0.95, 0.98),
        *(0.99, 0.995, 0.999, 0.9999),
    )
    """Synthetic specificities of otherwise true activations."""
    fewer: float = Field(0.25, gt=0, lt=1)
    """Share of the simulated calibrate windows that stands for fewer predictions (paper: 1K of
    10K)."""


class Params(Section):
    """A whole run."""

    name: str
    """The run's folder is runs/<name>."""
    seed: int = 22
    """Every random choice of the run descends from it."""
    figures: str = "figures"
    """Folder the figures are written to."""
    subject: Subject = Subject()
    corpus: Corpus = Corpus()
    sites: dict[str, Site]
    explainer: LLM = LLM()
    simulator: LLM = LLM()
    explain: Explain = Explain()
    score: Score = Score()
    simulate: Simulate = Simulate()
    rewrite: Rewrite = Rewrite()
    studies: Studies = Studies()

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        last = self.simulate.last_position or self.corpus.row_tokens - 2
        if not self.simulate.first_position <= last <= self.corpus.row_tokens - 2:
            raise ValueError(
                f"rated positions {self.simulate.first_position} … {last} do not fit a row of "
                f"{self.corpus.row_tokens} tokens whose last one has no next token"
            )
        if self.simulate.window_tokens > self.simulate.first_position:
            raise ValueError(
                f"a window of {self.simulate.window_tokens} tokens cannot end at position "
                f"{self.simulate.first_position}: raise simulate.first_position"
            )
        for name in ("explain", "score"):
            length = getattr(self, name).window_tokens
            if length >= self.corpus.row_tokens:
                raise ValueError(
                    f"{name}.window_tokens = {length} does not fit a row of "
                    f"{self.corpus.row_tokens} tokens with BOS: at most "
                    f"{self.corpus.row_tokens - 1}"
                )
        if self.rewrite.headline not in self.rewrite.calibrators:
            raise ValueError(
                f"rewrite.headline {self.rewrite.headline!r} is not in rewrite.calibrators"
            )
        return self

    @property
    def rated_positions(self) -> tuple[int, int]:
        """First and last position of a row that may be rated, both included."""
        return (
            self.simulate.first_position,
            self.simulate.last_position or self.corpus.row_tokens - 2,
        )


def load(file: str | Path, overrides: Mapping[str, Any] | None = None) -> Params:
    """Read ``file`` (looked for here, then below the repository), then set ``overrides`` by dotted
    name.

    Raises ParameterError: the file or a name does not exist, or a value is impossible.
    """
    path = find(file)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is not readable YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ParameterError(f"{path} holds a {type(raw).__name__}, not named parameters")
    for name, value in (overrides or {}).items():
        _set(raw, name, value)
    return parse(raw, origin=str(path))


def parse(raw: Mapping[str, Any], *, origin: str = "parameters") -> Params:
    """Validate nested ``raw`` parameters; every complaint names the parameter, its value and the
    fix."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = [_complaint(item) for item in error.errors()]
        raise ParameterError(f"{origin}: " + "; ".join(lines)) from None


def find(file: str | Path) -> Path:
    """``file`` as given, else below the repository's root; a bare name also means
    params/<name>.yaml."""
    tried = [Path(file), ROOT / file, ROOT / "params" / f"{file}.yaml"]
    for path in tried:
        if path.is_file():
            return path
    folder = ROOT / "params"
    known = sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))
    raise ParameterError(f"no parameter file {str(file)!r}; params/ holds {', '.join(known)}")


def names(model: type[BaseModel] = Params, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every dotted parameter name with its default and its one-line meaning; a site's as
    ``sites.<site>.…``."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from names(kind, f"{prefix}{name}.")
        elif name == "sites":
            yield from names(Site, f"{prefix}sites.<site>.")
        else:
            default = "(required)" if field.is_required() else field.default
            yield prefix + name, default, field.description or ""


def _set(raw: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one dotted parameter in the nested mapping; unknown names are caught here with the
    nearest one."""
    sites = list(raw.get("sites") or {})
    known = [name.replace("<site>", site) for name, *_ in names() for site in (sites or ["<site>"])]
    if dotted not in known:
        raise ParameterError(f"no parameter {dotted!r}" + _nearest(dotted, known))
    *path, last = dotted.split(".")
    for part in path:
        raw = raw.setdefault(part, {})
    raw[last] = value


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (
        f"; did you mean {close[0]!r}?"
        if close
        else "; see python -m rewrite_utils.series --parameters"
    )


def _complaint(item: Any) -> str:
    """One pydantic error as a sentence."""
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        sites = item["loc"][1:2] if item["loc"][0] == "sites" else ("<site>",)
        return f"no parameter {where!r}" + _nearest(
            where, [name.replace("<site>", str(sites[0])) for name, *_ in names()]
        )
    if item["type"] == "missing":
        return f"parameter {where!r} is missing"
    message = item["msg"].removeprefix("Value error, ")
    return (
        f"{where} = {item['input']!r}: {message}"
        if where and not isinstance(item["input"], dict)
        else message
    )

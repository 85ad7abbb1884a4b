"""What language models are asked: which model, for sentences, for scores, for ratings."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from rewrite_utils.params.section import Section

CPU_CACHE = 2.0
"""GiB of keys and values on a CPU where nothing else is asked for."""
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
"""What names an environment variable, and no key."""


class LLM(Section):
    """A language model that writes, scores or simulates."""

    UNHASHED: ClassVar[frozenset[str]] = frozenset(
        {"engine", "threads", "memory_gb", "address", "key_variable", "workers", "worker_engine"}
    )
    LATER: ClassVar[frozenset[str]] = frozenset({"endpoint", "top_logprobs", "samples"})
    model: str = "embedded/qwen2.5-coder-1.5b-instruct"
    """Hub name, folder, or embedded/…"""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Precision of the weights and of the key-value cache; auto: the one that a product timed at
    the start shows to be faster on this machine, if the model fits into memory in it."""
    context: int = Field(2048, ge=256)
    """Longest prompt with its answer, in tokens."""
    engine: Literal["auto", "vllm", "transformers", "server", "ray"] = "auto"
    """auto: vLLM where it can be imported (not on a CPU without fast bfloat16), transformers
    elsewhere; server: the one at ``address``, hosted or your own; ray: the chunks of work spread
    over ``workers``."""
    address: str = ""
    """server: its OpenAI-compatible address (make serve starts one at 127.0.0.1:8000/v1); ray: the
    cluster's, empty for one on this machine."""
    key_variable: str = ""
    """server: the environment variable that holds its key, by name; empty: it asks for none."""
    endpoint: Literal["completions", "chat"] = "completions"
    """server: completions takes prompts as token ids (vLLM and its like; the tokenizer is read
    here), chat takes messages (hosted LLMs; a model's name is enough)."""
    top_logprobs: int = Field(0, ge=0, le=128)
    """server: likeliest tokens among which an answer is looked for (OpenAI tells 20, others 5); 0:
    the answers' own probabilities, which vLLM's completions tell."""
    samples: int = Field(0, ge=0)
    """server: answers drawn a prompt, whose shares are its probabilities, where a server tells no
    log-probabilities; 0: none, such a server is refused."""
    workers: int = Field(2, ge=1)
    """ray: actors, each with an engine of its own."""
    worker_engine: Literal["auto", "vllm", "transformers"] = "auto"
    """ray: the engine of each actor."""
    threads: int = Field(0, ge=0)
    """CPU threads; 0: all cores."""
    memory_gb: float = Field(0.0, ge=0)
    """GiB for the key-value cache; 0: 2 on a CPU, on a GPU as its free memory allows."""

    @field_validator("key_variable")
    @classmethod
    def _named_not_told(cls, name: str) -> str:
        if name and not VARIABLE.fullmatch(name):
            raise PydanticCustomError(
                "secret",
                "not an environment variable's name: put the key "
                "into a variable such as LLM_KEY and write LLM_KEY here",
            )
        return name


PLAIN = "plain"
KINDS: dict[str, tuple[str, Any]] = {
    "embedding": ("contrast", "embedding"),
    "decoder": ("contrast", "decoder"),
    "cofiring": ("contrast", "cofiring"),
    "logits": ("logits", 5),
    "refined": ("refine", 6),
}
"""Kinds of explanations beside the plain one: the parameter that makes each, and its value where
the run has none of its own."""


class Explain(Section):
    """How a sentence is asked for (paper: 40 windows of 32 tokens, Llama-3.1-70B, temperature
    0.7)."""

    # 03_curated, 03_delphi, 03_labels and 03_refined hash what they read themselves
    UNHASHED: ClassVar[frozenset[str]] = frozenset(
        {"curated", "delphi", "labels", "refine", "compared"}
    )
    LATER: ClassVar[frozenset[str]] = frozenset({"contrast", "counterexamples", "rivals", "logits"})
    BEFORE: ClassVar[Mapping[str, Any]] = {"deciles": "strongest", "quotes": "same"}

    windows: int = Field(10, ge=1)
    """Activating windows shown."""
    window_tokens: int = Field(16, ge=4)
    """Tokens in each window shown."""
    strategy: Literal["quantiles", "top", "random"] = "quantiles"
    """Which windows: evenly from ten rank deciles of the window maximum, the strongest, or any."""
    deciles: Literal["strongest", "spread"] = "spread"
    """Which deciles give one where fewer than ten windows are shown, or are left over: some at
    equal steps over all ten (paper: 40 windows, 4 from each), or the strongest ones."""
    min_firings: int = Field(20, ge=1)
    """Latents that fire less often in the explain split are not described (paper: 200)."""
    threshold: float = Field(0.2, ge=0, lt=1)
    """Tokens above this share of the window's own maximum are delimited."""
    words: int = Field(5, ge=0)
    """Strongest tokens, by mean activation on the explain rows, that the explainer is told."""
    quotes: Literal["apart", "same"] = "apart"
    """What a token without letters or digits stands in: quotes that it does not hold itself, so
    that a list of quotes can be read; or always "…" (runs before November 2026)."""
    evidence: Literal["none", "pieces", "tokens"] = "tokens"
    """What the simulator sees in brackets behind the sentence: nothing, the tokens the explainer
    named, or the strongest tokens (paper: nothing)."""
    temperature: float = Field(0.7, ge=0)
    """Sampling temperature."""
    max_tokens: int = Field(48, ge=8)
    """Longest answer."""
    retries: int = Field(2, ge=0)
    """New seeds tried when an answer has no sentence in it."""
    contrast: Literal["none", "embedding", "decoder", "cofiring"] = "none"
    """Counterexamples shown: none, the silent windows nearest in meaning to those shown, or windows
    of the latents most similar by decoder cosine or by firing on the same tokens."""
    counterexamples: int = Field(5, ge=1)
    """Silent windows shown where there is contrast."""
    rivals: int = Field(3, ge=1)
    """Most similar latents whose windows are taken."""
    logits: int = Field(0, ge=0)
    """Tokens named at both ends of what the latent's decoder row does to the logits; 0: none."""
    refine: int = Field(0, ge=0)
    """Firing windows, and as many silent ones, of the explain rows that were not shown: the
    sentence is tried on them and written once more from its mistakes; 0: not done."""
    compared: tuple[str, ...] = ()
    """Kinds of explanations that notebook 12 makes and compares with the plain ones: embedding,
    decoder, cofiring, logits, refined, or several joined by +."""
    curated: str = ""
    """The explorer's curated.parquet (runs/<name>/curated.parquet): its sentences replace the
    explainer's; empty: none."""
    delphi: str = ""
    """A delphi run's folder (with explanations/ and scores/): its sentences and scores are read and
    no explainer is asked; empty: none."""
    labels: str = ""
    """Labels from elsewhere in the explainer's place: Neuronpedia's export (JSON lines), a delphi
    run's folder, or a table of latent and label (CSV, TSV); empty: none."""

    @model_validator(mode="after")
    def _one_origin(self) -> "Explain":
        if self.delphi and self.labels:
            raise ValueError(
                f"explain.delphi = {self.delphi!r} and explain.labels = {self.labels!r} both say "
                "where sentences come from: leave one out"
            )
        return self

    @field_validator("compared")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        for kind in kinds:
            unknown = sorted(set(kind.split("+")) - KINDS.keys())
            if unknown:
                raise ValueError(
                    f"no kind of explanation {unknown[0]!r}; use {', '.join(KINDS)}, joined by +"
                )
        return kinds

    def of_kind(self, kind: str) -> "Explain":
        """The same settings for plain explanations, or for another kind of them."""
        changed: dict[str, Any] = {"contrast": "none", "logits": 0, "refine": 0}
        changed |= {"delphi": "", "labels": "", "curated": ""}
        for part in kind.split("+") if kind != PLAIN else ():
            name, value = KINDS[part]
            own = getattr(self, name) if name in ("logits", "refine") else None
            changed[name] = own or value
        return self.model_copy(update=changed)

    @property
    def options(self) -> tuple[str, ...]:
        """Parts of the prompt beyond the plain one."""
        asked = {"contrast": self.contrast != "none", "logits": self.logits > 0}
        return tuple(name for name, on in asked.items() if on)


class Score(Section):
    """Detection: which of five windows contain the concept? (paper: 100 activating + 100
    random)."""

    # every further score is a stage of its own, which hashes its number; see ``own``
    UNHASHED: ClassVar[frozenset[str]] = frozenset(
        {"threshold", "shuffled", "hard", "hard_by", "rivals", "fuzzing"}
    )
    BEFORE: ClassVar[Mapping[str, Any]] = {"deciles": "strongest"}
    activating: int = Field(10, ge=1)
    """Activating windows a latent, evenly from the rank deciles of the score split."""
    deciles: Literal["strongest", "spread"] = "spread"
    """As explain.deciles: below ten activating windows "strongest" tests a sentence on the latent's
    stronger firings only."""
    random: int = Field(10, ge=1)
    """Random windows a latent, from rows where it fires nowhere."""
    window_tokens: int = Field(16, ge=4)
    """Tokens in each window."""
    per_prompt: int = Field(5, ge=1)
    """Windows shown in one prompt; 1: a wording of its own, with the description first."""
    threshold: Literal["half", "prior"] = "half"
    """Probability from which on the judge said yes, for F1 and balanced accuracy: one half, or
    where it says yes as often as windows are active."""
    shuffled: bool = False
    """Also judge every latent's windows by another latent's sentence: the floor."""
    hard: int = Field(0, ge=0)
    """Hard negatives a latent for a second detection score; 0: none."""
    hard_by: Literal["embedding", "decoder", "cofiring"] = "embedding"
    """What makes them hard; see explain.contrast."""
    rivals: int = Field(3, ge=1)
    """Most similar latents whose windows are taken as hard negatives."""
    fuzzing: int = Field(0, ge=0)
    """Windows a latent with true marks, and as many with marks on other tokens; 0: no fuzzing
    (paper, v2: figure A1)."""

    def reading(self) -> dict[str, str]:
        """What decides F1 beside the judgements, for the stages that rank by it."""
        return {} if self.threshold == "half" else {"threshold": self.threshold}


class Simulate(Section):
    """The paper's unit: one latent, one window, its last token, an expected rating 0–9 from one
    forward pass."""

    LATER: ClassVar[frozenset[str]] = frozenset(
        {"mode", "layout", "digits", "show_contrast", "notes", "screen", "screen_by"}
    )
    BEFORE: ClassVar[Mapping[str, Any]] = {"screen_cut": "each"}

    mode: Literal["last", "all"] = "last"
    """last: one pass a (latent, window), its last token is rated (paper); all: every token of the
    window is rated in one pass (by the engine transformers, which auto then means)."""
    layout: Literal["window_first", "explanation_first", "original"] = "window_first"
    """What prompts share: the window, the sentence, or (as in the authors' code, sentence before
    window, pair by pair) only the few-shots. Mode all always shares the sentence."""
    digits: Literal["tokens", "strings"] = "tokens"
    """tokens: one token a digit; strings: every token that reads as a digit counts, for tokenizers
    that write " 7" as one token."""
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
    show_contrast: int = Field(0, ge=0)
    """Tell the simulator so many tokens that stand beside the latent's firings and never fire."""
    notes: Literal["behind", "ahead"] = "behind"
    """Where rate, score and contrast tokens stand: behind the sentence, in numbers, which no
    few-shot shows; or ahead of it, in words, as the few-shots of a prompt of its own show them
    (mode last, layout window_first)."""
    screen: float = Field(1.0, gt=0, le=1)
    """Share of each latent's windows that goes to the simulator, the most plausible ones by
    ``screen_by``; what is left out is a bin of its own in calibration. 1: all of them (paper)."""
    screen_by: Literal["lexical", "embedding", "both"] = "both"
    """What the cheap first pass compares: words of sentence and window's end, their embeddings, or
    both ranks together."""
    screen_cut: Literal["calibrate", "each"] = "calibrate"
    """Where ``screen`` and ``studies.shares`` are counted: on the calibrate windows, whose cut then
    holds at every other window as it would in use; or on the windows of each split, a quota that
    sees all of them (runs before November 2026)."""
    align: int = Field(32, ge=1)
    """The shared part of a prompt is padded to a multiple of this, the block of vLLM's prefix
    cache."""

    @model_validator(mode="after")
    def _notes_have_a_prompt(self) -> "Simulate":
        if self.notes == "ahead" and (self.mode, self.layout) != ("last", "window_first"):
            raise ValueError(
                f"notes 'ahead' has a prompt for mode 'last' and layout 'window_first', not for "
                f"{self.mode!r} and {self.layout!r}; use notes 'behind'"
            )
        return self

    def content(self) -> dict[str, Any]:
        """As of every section; nothing is cut where everything is sent."""
        found = super().content()
        return found if self.screen < 1 else {k: v for k, v in found.items() if k != "screen_cut"}

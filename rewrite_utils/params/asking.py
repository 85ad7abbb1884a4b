"""What language models are asked: which model, for sentences, for scores, for ratings."""

from typing import ClassVar, Literal

from pydantic import Field

from rewrite_utils.params.section import Section


class LLM(Section):
    """A language model that writes, scores or simulates."""

    UNHASHED: ClassVar[frozenset[str]] = frozenset(
        {"engine", "threads", "memory_gb", "address", "workers", "worker_engine"}
    )
    model: str = "embedded/qwen2.5-coder-1.5b-instruct"
    """Hub name, folder, or embedded/…"""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the weights and of the key-value cache."""
    context: int = Field(2048, ge=256)
    """Longest prompt with its answer, in tokens."""
    engine: Literal["auto", "vllm", "transformers", "server", "ray"] = "auto"
    """auto: vLLM where it can be imported, transformers elsewhere; server: a vLLM server at
    ``address``; ray: the chunks of work spread over ``workers``."""
    address: str = ""
    """server: its OpenAI-compatible address (make serve starts one at 127.0.0.1:8000/v1); ray: the
    cluster's, empty for one on this machine."""
    workers: int = Field(2, ge=1)
    """ray: actors, each with an engine of its own."""
    worker_engine: Literal["auto", "vllm", "transformers"] = "auto"
    """ray: the engine of each actor."""
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

    LATER: ClassVar[frozenset[str]] = frozenset(
        {"mode", "layout", "digits", "show_contrast", "screen", "screen_by"}
    )
    mode: Literal["last", "all"] = "last"
    """last: one pass a (latent, window), its last token is rated (paper); all: every token of the
    window is rated in one pass (needs simulator.engine: transformers)."""
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
    screen: float = Field(1.0, gt=0, le=1)
    """Share of each latent's windows that goes to the simulator, the most plausible ones by
    ``screen_by``; what is left out is a bin of its own in calibration. 1: all of them (paper)."""
    screen_by: Literal["lexical", "embedding", "both"] = "both"
    """What the cheap first pass compares: words of sentence and window's end, their embeddings, or
    both ranks together."""
    align: int = Field(32, ge=1)
    """The shared part of a prompt is padded to a multiple of this, the block of vLLM's prefix
    cache."""

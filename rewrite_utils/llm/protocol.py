"""What the experiment asks of a language model: text, and the probabilities of forced answers.

In: prompts as token ids, each split into a part that many prompts share and a part of its own.
Out: `Generation`s, and `Choices` read from one forward pass at a forced answer position (paper §5);
nothing is sampled or parsed there. Knows nothing of latents; the engines are in ``engines/``.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from transformers import PreTrainedTokenizerBase

BLOCK = 32
"""Tokens in a block of vLLM's prefix cache; a shared prefix is kept in whole blocks only."""


class Prompt(NamedTuple):
    """One prompt as token ids: ``shared + own``."""

    shared: tuple[int, ...]
    """The beginning that many prompts of a call have in common; computed once. May be empty."""
    own: tuple[int, ...]
    """The rest, computed for this prompt; at least one token."""


class Generation(NamedTuple):
    """The reply to one prompt."""

    text: str
    """The reply without special tokens, cut before the first stop string."""
    tokens: tuple[int, ...]
    """The tokens as generated, with the end token or the stop string if there was one."""
    finished: bool
    """True if it ended by an end token or a stop string, False if it ran into ``max_tokens``."""


class Choices(NamedTuple):
    """The probabilities of the allowed answers."""

    probabilities: Float[ndarray, "prompt answer option"]
    """float32, renormalised: sums to 1 over the options."""
    mass: Float[ndarray, "prompt answer"]
    """float32: what the options had of the whole vocabulary before renormalising."""


class Usage(NamedTuple):
    """What an engine has done since it was opened."""

    prompts: int = 0
    """Prompts answered; for `Engine.choices` with one answer, predictions."""
    prompt_tokens: int = 0
    """Tokens of these prompts, shared ones counted for every prompt."""
    cached_tokens: int = 0
    """Those of ``prompt_tokens`` taken from an earlier prompt's cache instead of computed."""
    generated_tokens: int = 0
    """Tokens written."""
    seconds: float = 0.0
    """Wall time inside the calls."""

    @property
    def prompts_per_second(self) -> float:
        """Prompts a second; NaN before the first call."""
        return self.prompts / self.seconds if self.seconds else float("nan")

    @property
    def tokens_per_second(self) -> float:
        """Tokens put through the model a second; NaN before the first call."""
        # The last token of a reply is read off and never put in.
        written = self.generated_tokens - self.prompts
        computed = self.prompt_tokens - self.cached_tokens + written
        return computed / self.seconds if self.seconds else float("nan")

    @property
    def cached_share(self) -> float:
        """Share of the prompt tokens that came from the cache; NaN before the first call."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else float("nan")

    def plus(self, other: "Usage") -> "Usage":
        """Both together."""
        return Usage(
            self.prompts + other.prompts,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.generated_tokens + other.generated_tokens,
            self.seconds + other.seconds,
        )

    def since(self, before: "Usage") -> "Usage":
        """What was done after ``before`` was read."""
        return Usage(*(now - then for now, then in zip(self, before, strict=True)))

    def summary(self) -> dict[str, str]:
        """For a progress bar: prompts/s, computed tokens/s, cached share."""
        return {
            "prompts/s": f"{self.prompts_per_second:.1f}",
            "tokens/s": f"{self.tokens_per_second:.0f}",
            "cached": f"{self.cached_share:.0%}",
        }


class EngineError(RuntimeError):
    """The engine gave something that cannot be used, such as a NaN."""


class EngineDied(EngineError):
    """The engine's process ended while it was needed."""


@runtime_checkable
class Engine(Protocol):
    """A language model that answers prompts; close it when done, or use it in ``with``."""

    tokenizer: PreTrainedTokenizerBase
    workers: int
    """Calls that it can answer at a time, each from a thread of its own; usually 1."""

    @property
    def context(self) -> int:
        """Tokens of the longest prompt with its answer."""
        ...

    @property
    def usage(self) -> Usage:
        """What was done since the engine was opened."""
        ...

    def choices(
        self,
        prompts: Sequence[Prompt],
        *,
        options: Sequence[int],
        answers: int = 1,
        progress: str | None = None,
    ) -> Choices:
        """Probabilities of the ``options`` (token ids) as the next token of each prompt.

        With ``answers`` > 1 the most likely option is appended and the next answer read behind it.
        Raises ValueError on a prompt that does not fit, EngineError on NaN, EngineDied if the
        engine dies.
        """
        ...

    def choices_inside(
        self,
        prompts: Sequence[Prompt],
        *,
        at: Sequence[Sequence[int]],
        options: Sequence[int],
        progress: str | None = None,
    ) -> Choices:
        """Probabilities of the ``options`` behind tokens ``at`` of each prompt's own part.

        As many answers a prompt, all from one pass. Raises EngineError from an engine that only
        reads behind a prompt's end.
        """
        ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        progress: str | None = None,
    ) -> list[Generation]:
        """Up to ``max_tokens`` tokens for each prompt, in order; each has its own random stream."""
        ...

    def forget_prefixes(self) -> None:
        """Empty the prefix cache, so that the next call cannot depend on earlier ones."""
        ...

    def close(self) -> None:
        """Release the model; may be called twice."""
        ...

    def __enter__(self) -> "Engine": ...

    def __exit__(self, *error: object) -> None: ...


def renormalised(logprobs: Float[ndarray, "prompt answer option"]) -> Choices:
    """p(o) = exp l(o) / Σ exp l and mass = Σ exp l, from log-probabilities l (whole vocabulary).

    Raises EngineError on NaN and where no option has any probability.
    """
    wide = logprobs.astype(np.float64)
    top = wide.max(-1, keepdims=True)
    bad = ~np.isfinite(top[..., 0])
    if bad.any():
        prompt, answer = (int(i) for i in np.argwhere(bad)[0])
        raise EngineError(
            f"prompt {prompt}, answer {answer}: the options' log-probabilities are "
            f"{logprobs[prompt, answer].tolist()}; the model's weights or its dtype are damaged "
            "(float16 overflows in many models: use bfloat16 or float32)"
        )
    total = np.exp(wide - top).sum(-1, keepdims=True)
    probabilities = np.exp(wide - top) / total
    mass = (np.exp(top) * total)[..., 0]
    return Choices(probabilities.astype(np.float32), mass.astype(np.float32))


def option_tokens(
    tokenizer: PreTrainedTokenizerBase, options: Sequence[str], *, after: str = ":"
) -> list[int]:
    """The one token that each option is when it stands behind the text ``after``.

    Raises ValueError, naming the tokenizer, if an option is not exactly one token there.
    """
    before = text_tokens(tokenizer, after)
    ids: list[int] = []
    for option in options:
        tokens = text_tokens(tokenizer, after + option)
        if len(tokens) != len(before) + 1 or tokens[:-1] != before or tokens[-1] in ids:
            pieces = tokenizer.convert_ids_to_tokens(list(tokens[-6:]))
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} does not write {option!r} behind "
                f"{after[-20:]!r} as one token of its own (the end is {pieces}), so its "
                "probability cannot be read from one position; choose another model or another "
                "beginning of the answer"
            )
        ids.append(tokens[-1])
    return ids


def digit_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of the digits 0…9; raises ValueError if they are not single tokens."""
    return option_tokens(tokenizer, "0123456789")


def text_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The text as it stands: nothing is added in front or behind."""
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def chat_tokens(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Mapping[str, str]],
    *,
    answer: str = "",
    options: Sequence[str] = (),
) -> tuple[int, ...]:
    """The conversation up to the forced beginning ``answer`` of the assistant's reply.

    ``turns`` are {"role": …, "content": …}. Raises ValueError if one of ``options`` would not be
    exactly one token at this place (behind "Rating:" some tokenizers write " 7", others " ", "7").
    """
    opened = tokenizer.apply_chat_template(
        [dict(turn) for turn in turns], tokenize=False, add_generation_prompt=True
    )
    text = f"{opened}{answer}"
    option_tokens(tokenizer, options, after=text)
    return text_tokens(tokenizer, text)


def align(tokens: Sequence[int], *, at: int, filler: int, multiple: int = BLOCK) -> tuple[int, ...]:
    """Copies of ``filler`` put in at index ``at`` until the length is a multiple of ``multiple``.

    A shared prefix that ends inside a block is computed again for every prompt, up to
    ``multiple`` - 1 tokens. Raises ValueError if ``at`` is not in the sequence.
    """
    if not 0 <= at <= len(tokens):
        raise ValueError(f"at = {at} is outside the {len(tokens)} tokens; use 0 … {len(tokens)}")
    missing = -len(tokens) % multiple
    return (*tokens[:at], *(filler,) * missing, *tokens[at:])

"""The words between the experiment and a language model: prompts, replies, answers, counts, errors.

A prompt is token ids, split into a part that many prompts share and a part of its own. An answer is
read from one forward pass at a forced position (paper §5); nothing is sampled or parsed there. What
takes and gives these is in ``engine``.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

BLOCK = 32
"""Tokens in a block of vLLM's prefix cache; a shared prefix is kept in whole blocks only."""
MOST_OPTIONS = 128
"""vLLM reads the log-probabilities of at most this many chosen tokens."""
Logprobs = Float[ndarray, "prompt answer option"]
"""Log-probabilities of the options over the whole vocabulary."""


class Prompt(NamedTuple):
    """One prompt as token ids: ``shared + own``."""

    shared: tuple[int, ...]
    """The beginning that many prompts of a call have in common; computed once. May be empty."""
    own: tuple[int, ...]
    """The rest, computed for this prompt; at least one token."""


class Generation(NamedTuple):
    """The reply to one prompt."""

    text: str
    """The reply without special tokens."""
    tokens: tuple[int, ...]
    """The tokens as generated, with the end token if there was one."""
    finished: bool
    """True if it ended by an end token, False if it ran into ``max_tokens`` and was cut off."""


class Sampling(NamedTuple):
    """How replies are drawn."""

    max_tokens: int
    """Longest reply in tokens."""
    temperature: float
    """0: always the most likely token."""


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

    def plus(self, other: "Usage") -> "Usage":
        """Both together."""
        return Usage(*(one + more for one, more in zip(self, other, strict=True)))

    def since(self, before: "Usage") -> "Usage":
        """What was done after ``before`` was read."""
        return Usage(*(now - then for now, then in zip(self, before, strict=True)))

    def summary(self) -> dict[str, str]:
        """For a progress bar: prompts and computed tokens a second, cached share; NaN at first."""
        # The last token of a reply is read off and never put in.
        written = self.generated_tokens - self.prompts
        computed = self.prompt_tokens - self.cached_tokens + written
        seconds, tokens = self.seconds or np.nan, self.prompt_tokens or np.nan
        return {
            "prompts/s": f"{self.prompts / seconds:.1f}",
            "tokens/s": f"{computed / seconds:.0f}",
            "cached": f"{self.cached_tokens / tokens:.0%}",
        }


class EngineError(RuntimeError):
    """The engine gave something that cannot be used, such as a NaN."""


class EngineDied(EngineError):
    """The engine's process ended while it was needed."""


def renormalised(logprobs: Logprobs) -> Choices:
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

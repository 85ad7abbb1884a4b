"""An engine: a language model that answers prompts, and what all engines do the same way.

In: the caller's prompts. Out: `Generation`s and `Choices` in the caller's order. Checks, order by
shared prefix, slices and counts are here; an engine adds how a slice of prompts is computed. Knows
nothing of latents.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from rewrite_utils.llm.protocol import (
    MOST_OPTIONS,
    Choices,
    EngineError,
    Generation,
    Logprobs,
    Prompt,
    Sampling,
    Usage,
    renormalised,
)

SLICE = 256
"""Prompts handed to the model at a time."""
Answer = TypeVar("Answer")
Read = Callable[[list[int], list[Prompt]], tuple[Sequence[Answer], Usage]]
"""What a slice's prompts (with their row numbers) are answered by, and what it took."""


class Engine(ABC):
    """A language model that answers prompts; close it when done, or use it in ``with``.

    An engine says how a slice of prompts is computed: ``_choices``, ``_generate`` and, if it can,
    ``_choices_inside``.
    """

    workers: int = 1
    """Calls that it can answer at a time, each from a thread of its own."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        vocab_size: int,
        max_tokens: int,
        label: str = "",
    ) -> None:
        """``max_tokens``: of the longest prompt with its answer; ``label``: what computes, such as
        "vllm bfloat16"; two with one label give the same numbers up to the last bits."""
        self.tokenizer, self.context, self.usage = tokenizer, max_tokens, Usage()
        self._label, self._vocab_size = label or type(self).__name__, vocab_size
        self._counting = threading.Lock()

    @property
    def label(self) -> str:
        """What computes the answers; it is kept with them."""
        return self._label

    def choices(
        self, prompts: Sequence[Prompt], *, options: Sequence[int], answers: int = 1
    ) -> Choices:
        """Probabilities of the ``options`` (token ids) as the next token of each prompt.

        With ``answers`` > 1 the most likely option is appended and the next answer read behind it.
        Raises ValueError on a prompt that does not fit, EngineError on NaN, EngineDied if the
        engine dies.
        """
        if answers < 1:
            raise ValueError(f"answers = {answers}: at least one is read")
        self._check_prompts(prompts, room=answers)
        asked = list(options)
        return self._read(
            prompts, lambda _, part: self._choices(part, asked, answers), options, answers
        )

    def choices_inside(
        self, prompts: Sequence[Prompt], *, at: Sequence[Sequence[int]], options: Sequence[int]
    ) -> Choices:
        """Probabilities of the ``options`` behind tokens ``at`` of each prompt's own part.

        As many answers a prompt, all from one pass. Raises EngineError from an engine that only
        reads behind a prompt's end.
        """
        self._check_prompts(prompts, room=0)
        answers, asked = _check_places(prompts, at), list(options)

        def read(rows: list[int], part: list[Prompt]) -> tuple[Logprobs, Usage]:
            return self._choices_inside(part, [list(at[row]) for row in rows], asked)

        return self._read(prompts, read, options, answers)

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Generation]:
        """Up to ``max_tokens`` tokens for each prompt, in order; each has its own random stream."""
        if max_tokens < 1 or temperature < 0:
            raise ValueError(
                f"max_tokens = {max_tokens}, temperature = {temperature}: use ≥ 1 and ≥ 0"
            )
        self._check_prompts(prompts, room=max_tokens)
        sampling = Sampling(max_tokens, temperature)

        def write(rows: list[int], part: list[Prompt]) -> tuple[list[Generation], Usage]:
            return self._generate(part, sampling, [prompt_seed(seed, row) for row in rows])

        return self._in_slices(prompts, write)

    @abstractmethod
    def close(self) -> None:
        """Release the model; may be called twice."""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def _choices(
        self, prompts: list[Prompt], options: list[int], answers: int
    ) -> tuple[Logprobs, Usage]:
        """Log-probabilities of the options, and what it took."""

    @abstractmethod
    def _generate(
        self, prompts: list[Prompt], sampling: Sampling, seeds: list[int]
    ) -> tuple[list[Generation], Usage]:
        """The replies, and what it took."""

    def _choices_inside(
        self, prompts: list[Prompt], places: list[list[int]], options: list[int]
    ) -> tuple[Logprobs, Usage]:
        """As ``_choices``, behind tokens of the own parts; engines that cannot say so."""
        raise EngineError(
            f"{type(self).__name__} reads only what follows a prompt, not inside it "
            "(simulate.mode: all needs that): use simulator.engine: transformers"
        )

    def _read(
        self, prompts: Sequence[Prompt], read: Read, options: Sequence[int], answers: int
    ) -> Choices:
        """The answers that ``read`` finds behind the prompts of each slice."""
        self._check_options(options)
        found = self._in_slices(prompts, read)
        shape = len(prompts), answers, len(options)
        return renormalised(np.array(found, np.float32).reshape(shape))

    def _in_slices(self, prompts: Sequence[Prompt], ask: Read[Answer]) -> list[Answer]:
        """What ``ask`` gives for every prompt, similar shared parts having been asked together."""
        answers: dict[int, Answer] = {}
        order = by_shared(prompts)
        for start in range(0, len(order), SLICE):
            rows, began = order[start : start + SLICE], time.perf_counter()
            found, usage = ask(rows, [prompts[row] for row in rows])
            answers |= zip(rows, found, strict=True)
            with self._counting:
                spent = usage._replace(seconds=time.perf_counter() - began)
                self.usage = self.usage.plus(spent)
        return [answers[row] for row in range(len(prompts))]

    def _check_prompts(self, prompts: Sequence[Prompt], *, room: int) -> None:
        parts = {part for prompt in prompts for part in prompt}
        ranges = {part: (min(part, default=0), max(part, default=0)) for part in parts}
        for row, prompt in enumerate(prompts):
            lows, highs = zip(*(ranges[part] for part in prompt), strict=True)
            low, high = min(lows), max(highs)
            length = len(prompt.shared) + len(prompt.own)
            if not prompt.own:
                raise ValueError(f"prompt {row} has no token of its own; it needs at least one")
            if low < 0 or high >= self._vocab_size:
                raise ValueError(
                    f"prompt {row} has token {low if low < 0 else high}, but the vocabulary has "
                    f"{self._vocab_size} tokens; was it made with another model's tokenizer?"
                )
            if length + room > self.context:
                raise ValueError(
                    f"prompt {row} has {length} tokens and needs {room} for the answer: more than "
                    f"the context of {self.context}; shorten it or open the engine with more"
                )

    def _check_options(self, options: Sequence[int]) -> None:
        if not 1 <= len(options) <= MOST_OPTIONS or len(set(options)) < len(options):
            raise ValueError(
                f"options = {list(options)[:20]}: use 1 … {MOST_OPTIONS} different token ids"
            )
        if min(options) < 0 or max(options) >= self._vocab_size:
            raise ValueError(
                f"options = {list(options)[:20]}: the vocabulary has {self._vocab_size} tokens"
            )


def by_shared(prompts: Sequence[Prompt]) -> list[int]:
    """Row numbers sorted by the shared part; rows with the same one keep their order."""
    distinct = sorted({prompt.shared for prompt in prompts})
    rank = {shared: number for number, shared in enumerate(distinct)}
    return sorted(range(len(prompts)), key=lambda row: rank[prompts[row].shared])


def prompt_seed(seed: int, row: int) -> int:
    """An independent seed for each prompt of a call."""
    return int(np.random.SeedSequence([seed, row]).generate_state(1)[0])


def _check_places(prompts: Sequence[Prompt], at: Sequence[Sequence[int]]) -> int:
    """Answers a prompt is read at; raises ValueError unless all have as many, inside."""
    counts = {len(places) for places in at}
    if len(at) != len(prompts) or len(counts) > 1:
        raise ValueError(f"{len(prompts)} prompts, {len(at)} lists of {sorted(counts)} places")
    for row, (prompt, places) in enumerate(zip(prompts, at, strict=True)):
        if not places or min(places) < 0 or max(places) >= len(prompt.own):
            raise ValueError(f"prompt {row}: places {list(places)} of {len(prompt.own)} own tokens")
    return counts.pop() if counts else 0

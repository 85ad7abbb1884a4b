"""What every engine does the same way: check, order by shared prefix, slice, count, renormalise.

In: the caller's prompts. Out: answers in the caller's order. An engine adds only how a slice of
prompts is computed. Slices keep the loss of a kill small and let a progress bar move.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from rewrite_utils.llm.protocol import (
    Choices,
    EngineError,
    Generation,
    Prompt,
    Usage,
    renormalised,
)

SLICE = 256
"""Prompts handed to the model at a time."""
MOST_OPTIONS = 128
"""vLLM reads the log-probabilities of at most this many chosen tokens."""


class Sampling(NamedTuple):
    """How replies are drawn."""

    max_tokens: int
    """Longest reply in tokens."""
    temperature: float
    """0: always the most likely token."""
    stop: tuple[str, ...]
    """Texts that end a reply."""


class BaseEngine(ABC):
    """Checks, ordering and counting; a subclass answers slices."""

    workers: int = 1
    """Calls that it can answer at a time, each from a thread of its own."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, vocab_size: int, max_tokens: int
    ) -> None:
        self.tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_tokens = max_tokens
        self._usage = Usage()
        self._counting = threading.Lock()

    @property
    def context(self) -> int:
        """Tokens of the longest prompt with its answer."""
        return self._max_tokens

    @property
    def usage(self) -> Usage:
        """What was done since the engine was opened."""
        return self._usage

    def choices(
        self,
        prompts: Sequence[Prompt],
        *,
        options: Sequence[int],
        answers: int = 1,
        progress: str | None = None,
    ) -> Choices:
        """See `rewrite_utils.llm.protocol.Engine.choices`."""
        self._check_options(options, answers)
        self._check_prompts(prompts, room=answers)
        logprobs = np.empty((len(prompts), answers, len(options)), np.float32)
        for rows, part in self._slices(prompts, progress):
            start = time.perf_counter()
            logprobs[rows], usage = self._choices(part, list(options), answers)
            self._count(usage, start)
        return renormalised(logprobs)

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
        """See `rewrite_utils.llm.protocol.Engine.generate`."""
        if max_tokens < 1 or temperature < 0:
            raise ValueError(
                f"max_tokens = {max_tokens}, temperature = {temperature}: use ≥ 1 and ≥ 0"
            )
        self._check_prompts(prompts, room=max_tokens)
        sampling = Sampling(max_tokens, temperature, tuple(stop))
        replies: dict[int, Generation] = {}
        for rows, part in self._slices(prompts, progress):
            start = time.perf_counter()
            seeds = [prompt_seed(seed, row) for row in rows]
            found, usage = self._generate(part, sampling, seeds)
            replies.update(zip(rows, found, strict=True))
            self._count(usage, start)
        return [replies[row] for row in range(len(prompts))]

    def choices_inside(
        self,
        prompts: Sequence[Prompt],
        *,
        at: Sequence[Sequence[int]],
        options: Sequence[int],
        progress: str | None = None,
    ) -> Choices:
        """See `rewrite_utils.llm.protocol.Engine.choices_inside`."""
        self._check_options(options, 1)
        self._check_prompts(prompts, room=0)
        answers = _check_places(prompts, at)
        logprobs = np.empty((len(prompts), answers, len(options)), np.float32)
        for rows, part in self._slices(prompts, progress):
            start = time.perf_counter()
            places = [list(at[row]) for row in rows]
            logprobs[rows], usage = self._choices_inside(part, places, list(options))
            self._count(usage, start)
        return renormalised(logprobs)

    def _choices_inside(
        self, prompts: list[Prompt], places: list[list[int]], options: list[int]
    ) -> tuple[Float[ndarray, "prompt answer option"], Usage]:
        """As ``_choices``, behind tokens of the own parts; engines that cannot say so."""
        raise EngineError(
            f"{type(self).__name__} reads only what follows a prompt, not inside it "
            "(simulate.mode: all needs that): use simulator.engine: transformers"
        )

    @abstractmethod
    def _choices(
        self, prompts: list[Prompt], options: list[int], answers: int
    ) -> tuple[Float[ndarray, "prompt answer option"], Usage]:
        """Log-probabilities over the whole vocabulary of the options, and what it took."""

    @abstractmethod
    def _generate(
        self, prompts: list[Prompt], sampling: Sampling, seeds: list[int]
    ) -> tuple[list[Generation], Usage]:
        """The replies, and what it took."""

    @abstractmethod
    def forget_prefixes(self) -> None:
        """Empty the prefix cache."""

    @abstractmethod
    def close(self) -> None:
        """Release the model."""

    def __enter__(self) -> "BaseEngine":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _slices(
        self, prompts: Sequence[Prompt], progress: str | None
    ) -> Iterator[tuple[list[int], list[Prompt]]]:
        """Row numbers and prompts, equal and similar shared parts next to each other."""
        order = by_shared(prompts)
        bar = tqdm(total=len(prompts), desc=progress, unit="prompt", disable=progress is None)
        with bar:
            for start in range(0, len(order), SLICE):
                rows = order[start : start + SLICE]
                yield rows, [prompts[row] for row in rows]
                bar.set_postfix(self._usage.summary())
                bar.update(len(rows))

    def _count(self, usage: Usage, start: float) -> None:
        with self._counting:
            self._usage = self._usage.plus(usage._replace(seconds=time.perf_counter() - start))

    def _check_prompts(self, prompts: Sequence[Prompt], *, room: int) -> None:
        ranges = {shared: _range(shared) for shared in {prompt.shared for prompt in prompts}}
        for row, prompt in enumerate(prompts):
            (low, high), (own_low, own_high) = ranges[prompt.shared], _range(prompt.own)
            low, high = min(low, own_low), max(high, own_high)
            length = len(prompt.shared) + len(prompt.own)
            if not prompt.own:
                raise ValueError(f"prompt {row} has no token of its own; it needs at least one")
            if low < 0 or high >= self._vocab_size:
                raise ValueError(
                    f"prompt {row} has token {low if low < 0 else high}, but the vocabulary has "
                    f"{self._vocab_size} tokens; was it made with another model's tokenizer?"
                )
            if length + room > self._max_tokens:
                raise ValueError(
                    f"prompt {row} has {length} tokens and needs {room} for the answer: more than "
                    f"the context of {self._max_tokens}; shorten it or open the engine with more"
                )

    def _check_options(self, options: Sequence[int], answers: int) -> None:
        if answers < 1:
            raise ValueError(f"answers = {answers}: at least one is read")
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


def _range(tokens: tuple[int, ...]) -> tuple[int, int]:
    return (min(tokens), max(tokens)) if tokens else (0, 0)

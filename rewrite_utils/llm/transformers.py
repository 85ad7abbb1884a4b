"""The transformers engine: the shared prefix is computed once and lent to a whole batch.

In: slices of prompts, sorted by shared part. Out: log-probabilities or replies, without vLLM. For
tests, small machines, and accelerators that vLLM does not know. Batches are padded between the
shared and the own part, so the last token stands at the same place in every row.
"""

import contextlib
import operator
from collections.abc import Iterator
from itertools import groupby, takewhile
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedTokenizerBase,
)

from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.passes import Model, Run, draw, option_logprobs
from rewrite_utils.llm.protocol import EngineError, Generation, Logprobs, Prompt, Sampling, Usage
from rewrite_utils.params.asking import CPU_CACHE
from rewrite_utils.runs import machine

STEP_TOKENS = 2048
"""Most tokens of a forward pass on a CPU, where more gain nothing."""
CACHE = 1 / 2
"""Of a GPU's free memory, what keys and values may take where nothing else is asked for."""


class TransformersEngine(Engine):
    """A transformers model with an explicit key-value cache for shared prefixes."""

    def __init__(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens: int = 2048,
        threads: int | None = None,
        memory_gb: float = 0.0,
    ) -> None:
        super().__init__(
            tokenizer,
            vocab_size=model.config.vocab_size,
            max_tokens=max_tokens,
            label=f"transformers {str(model.dtype).removeprefix('torch.')}",
        )
        self._model: Model = model.eval()
        self._threads = threads
        on_cpu = model.device.type == "cpu"
        free = CPU_CACHE * 2**30 if on_cpu else CACHE * machine.memory(model.device)
        self._memory = memory_gb * 2**30 or free
        config = model.config.get_text_config()
        states = 4 * (config.hidden_size + config.intermediate_size) * model.dtype.itemsize
        self._step = machine.at_once(STEP_TOKENS, each=states, device=model.device)
        self._token_bytes = inspected(model)
        self._ends = end_tokens(model, tokenizer)
        self._forget()

    @classmethod
    def load(
        cls, model: str, *, dtype: str, max_tokens: int, threads: int | None, memory_gb: float
    ) -> "TransformersEngine":
        """Read the model's folder; on a GPU if there is one."""
        weights: Model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        tokenizer = AutoTokenizer.from_pretrained(model)
        how = {"max_tokens": max_tokens, "threads": threads, "memory_gb": memory_gb}
        return cls(weights.to(machine.device()), tokenizer, **how)

    def close(self) -> None:
        """Let go of the weights."""
        self._forget()
        self._model = None

    def _forget(self) -> None:
        self._shared: tuple[int, ...] = ()
        self._cache = DynamicCache()

    def _choices(
        self, prompts: list[Prompt], options: list[int], answers: int
    ) -> tuple[Logprobs, Usage]:
        found = torch.empty(len(prompts), answers, len(options))
        choice = torch.tensor(options)
        with self._computing():
            for rows, run in self._runs(prompts, room=answers):
                for answer in range(answers):
                    if answer:
                        run.append(choice[found[rows, answer - 1].argmax(-1)])
                    found[rows, answer] = option_logprobs(self._model, run.hidden, options)
        return found.numpy(), self._used(prompts, answers * len(prompts))

    def _choices_inside(
        self, prompts: list[Prompt], places: list[list[int]], options: list[int]
    ) -> tuple[Logprobs, Usage]:
        found = torch.empty(len(prompts), len(places[0]), len(options))
        with self._computing():
            for rows, run in self._runs(prompts, room=0):
                for row, states in zip(rows, run.states, strict=True):
                    padding = len(states) - len(prompts[row].own)
                    here = states[[padding + place for place in places[row]]]
                    found[row] = option_logprobs(self._model, here, options)
        return found.numpy(), self._used(prompts, len(prompts))

    def _generate(
        self, prompts: list[Prompt], sampling: Sampling, seeds: list[int]
    ) -> tuple[list[Generation], Usage]:
        replies: dict[int, Generation] = {}
        with self._computing():
            for rows, run in self._runs(prompts, room=sampling.max_tokens):
                written = self._write(run, sampling, [seeds[row] for row in rows])
                replies.update(zip(rows, written, strict=True))
        ordered = [replies[row] for row in range(len(prompts))]
        return ordered, self._used(prompts, sum(len(reply.tokens) for reply in ordered))

    def _write(self, run: Run, sampling: Sampling, seeds: list[int]) -> list[Generation]:
        """Token by token until every row has ended."""
        dice = [torch.Generator().manual_seed(seed) for seed in seeds]
        tokens: list[list[int]] = [[] for _ in seeds]
        for step in range(sampling.max_tokens):
            drawn = draw(self._model.get_output_embeddings()(run.hidden), sampling, dice)
            for row, token in zip(tokens, drawn.tolist(), strict=True):
                if not self._ended(row):
                    row.append(token)
            if all(map(self._ended, tokens)):
                break
            if step + 1 < sampling.max_tokens:
                run.append(drawn)
        texts = (str(self.tokenizer.decode(row, skip_special_tokens=True)) for row in tokens)
        pairs = zip(texts, tokens, strict=True)
        return [Generation(text, tuple(row), self._ended(row)) for text, row in pairs]

    def _ended(self, tokens: list[int]) -> bool:
        return bool(tokens) and tokens[-1] in self._ends

    def _runs(self, prompts: list[Prompt], *, room: int) -> Iterator[tuple[list[int], Run]]:
        """Rows with one shared part, sorted by length, as many as fit into memory, on their way."""
        for shared, group in groupby(range(len(prompts)), key=lambda row: prompts[row].shared):
            rows = sorted(group, key=lambda row: len(prompts[row].own))
            own = len(prompts[rows[-1]].own)
            fits = self._memory // (self._token_bytes * (len(shared) + own + room))
            size = max(1, min(int(fits), self._step // own))
            for start in range(0, len(rows), size):
                some = rows[start : start + size]
                self._share(shared)
                yield some, Run(self._model, self._cache, [prompts[row].own for row in some])

    def _share(self, shared: tuple[int, ...]) -> None:
        """Bring the cache to this prefix, keeping what it has in common."""
        kept = sum(takewhile(bool, map(operator.eq, self._shared, shared)))
        cache, surplus = self._cache, len(self._shared) - kept
        self._forget()  # an interrupted pass must not leave half a prefix behind
        if kept == 0:
            cache = DynamicCache()
        elif surplus:
            cache.crop(-surplus)
        for start in range(kept, len(shared), self._step):
            piece = torch.tensor([shared[start : start + self._step]], device=self._model.device)
            self._model.base_model(piece, past_key_values=cache, use_cache=True)
        self._shared, self._cache = shared, cache
        self._computed += len(shared) - kept

    def _used(self, prompts: list[Prompt], generated: int) -> Usage:
        shared = sum(len(prompt.shared) for prompt in prompts)
        own = sum(len(prompt.own) for prompt in prompts)
        return Usage(len(prompts), shared + own, shared - self._computed, generated)

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """Without gradients, with this engine's number of threads."""
        if self._model is None:
            raise EngineError("this engine is closed; open another one")
        self._computed = 0  # tokens of shared parts, in this call
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads or before)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)


def end_tokens(model: Model, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a reply."""
    given = getattr(model.generation_config, "eos_token_id", None)
    listed = given if isinstance(given, list) else [given]
    return frozenset({*listed, tokenizer.eos_token_id} - {None})


@torch.inference_mode()
def inspected(model: Model) -> int:
    """Bytes that a token takes in the cache, after making sure that the output head is plain.

    Raises ValueError for architectures that scale or cap their logits: `option_logprobs` would be
    wrong.
    """
    tokens = torch.tensor([[1, 2]], device=model.device)
    cache = DynamicCache()
    states = model.base_model(tokens, past_key_values=cache, use_cache=True).last_hidden_state
    ours = model.get_output_embeddings()(states)
    if not torch.allclose(ours, model(tokens).logits.to(ours.dtype), rtol=0.02, equal_nan=True):
        raise ValueError(
            f"{type(model).__name__} changes its logits behind the output head (scaling, capping), "
            "which the transformers engine does not follow; use engine 'vllm'"
        )
    layers: list[Any] = cache.layers
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers) // 2

"""The transformers engine: the shared prefix is computed once and lent to a whole batch.

In: slices of prompts, sorted by shared part. Out: log-probabilities or replies, without vLLM. For
tests, small machines, and accelerators that vLLM does not know. Batches are padded between the
shared and the own part, so the last token stands at the same place in every row.
"""

import contextlib
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

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

STEP_TOKENS = 2048
"""Most tokens of a forward pass; more gain nothing on a CPU."""


class Batch(NamedTuple):
    """Rows that go through the model together."""

    rows: list[int]
    """Their places in the slice."""
    prompts: list[Prompt]
    """All with the same shared part, of similar length."""


class TransformersEngine(Engine):
    """A transformers model with an explicit key-value cache for shared prefixes."""

    def __init__(
        self,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens: int = 2048,
        threads: int | None = None,
        memory_gb: float = 2.0,
    ) -> None:
        super().__init__(
            tokenizer,
            vocab_size=model.config.vocab_size,
            max_tokens=max_tokens,
            label=f"transformers {str(model.dtype).removeprefix('torch.')}",
        )
        self._model: Model = model.eval()
        self._threads = threads
        self._memory = memory_gb * 2**30
        self._token_bytes = inspected(model)
        self._ends = end_tokens(model, tokenizer)
        self.forget_prefixes()

    @classmethod
    def load(
        cls, model: str, *, dtype: str, max_tokens: int, threads: int | None, memory_gb: float
    ) -> "TransformersEngine":
        """Read the model's folder; on a GPU if there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        weights: Model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        tokenizer = AutoTokenizer.from_pretrained(model)
        return cls(
            weights.to(device),
            tokenizer,
            max_tokens=max_tokens,
            threads=threads,
            memory_gb=memory_gb,
        )

    def forget_prefixes(self) -> None:
        """Empty the prefix cache."""
        self._shared: tuple[int, ...] = ()
        self._cache = DynamicCache()

    def close(self) -> None:
        """Let go of the weights."""
        self.forget_prefixes()
        self._model = None

    def _choices(
        self, prompts: list[Prompt], options: list[int], answers: int
    ) -> tuple[Logprobs, Usage]:
        found = torch.empty(len(prompts), answers, len(options))
        computed = 0
        choice = torch.tensor(options)
        with self._computing():
            for batch in self._batches(prompts, room=answers):
                computed += self._share(batch.prompts[0].shared)
                run = Run(self._model, self._cache, [prompt.own for prompt in batch.prompts])
                for answer in range(answers):
                    if answer:
                        run.append(choice[found[batch.rows, answer - 1].argmax(-1)])
                    found[batch.rows, answer] = option_logprobs(self._model, run.hidden, options)
        return found.numpy(), self._used(prompts, computed, answers * len(prompts))

    def _choices_inside(
        self, prompts: list[Prompt], places: list[list[int]], options: list[int]
    ) -> tuple[Logprobs, Usage]:
        found = torch.empty(len(prompts), len(places[0]), len(options))
        computed = 0
        with self._computing():
            for batch in self._batches(prompts, room=0):
                computed += self._share(batch.prompts[0].shared)
                run = Run(self._model, self._cache, [prompt.own for prompt in batch.prompts])
                for row, states in zip(batch.rows, run.states, strict=True):
                    padding = len(states) - len(prompts[row].own)
                    here = states[[padding + place for place in places[row]]]
                    found[row] = option_logprobs(self._model, here, options)
        return found.numpy(), self._used(prompts, computed, len(prompts))

    def _generate(
        self, prompts: list[Prompt], sampling: Sampling, seeds: list[int]
    ) -> tuple[list[Generation], Usage]:
        replies: dict[int, Generation] = {}
        computed = 0
        with self._computing():
            for batch in self._batches(prompts, room=sampling.max_tokens):
                computed += self._share(batch.prompts[0].shared)
                run = Run(self._model, self._cache, [prompt.own for prompt in batch.prompts])
                written = self._write(run, sampling, [seeds[row] for row in batch.rows])
                replies.update(zip(batch.rows, written, strict=True))
        ordered = [replies[row] for row in range(len(prompts))]
        generated = sum(len(reply.tokens) for reply in ordered)
        return ordered, self._used(prompts, computed, generated)

    def _write(self, run: "Run", sampling: Sampling, seeds: list[int]) -> list[Generation]:
        """Token by token until every row has ended."""
        dice = [torch.Generator().manual_seed(seed) for seed in seeds]
        tokens: list[list[int]] = [[] for _ in seeds]
        for step in range(sampling.max_tokens):
            drawn = draw(self._model.get_output_embeddings()(run.hidden), sampling, dice)
            for row, token in zip(tokens, drawn.tolist(), strict=True):
                if not self._ended(row, sampling):
                    row.append(token)
            if all(self._ended(row, sampling) for row in tokens):
                break
            if step + 1 < sampling.max_tokens:
                run.append(drawn)
        return [self._reply(row, sampling) for row in tokens]

    def _ended(self, tokens: list[int], sampling: Sampling) -> bool:
        if tokens and tokens[-1] in self._ends:
            return True
        return bool(sampling.stop) and any(stop in self._text(tokens) for stop in sampling.stop)

    def _reply(self, tokens: list[int], sampling: Sampling) -> Generation:
        text = self._text(tokens)
        cut = min([text.find(stop) for stop in sampling.stop if stop in text], default=len(text))
        return Generation(text[:cut], tuple(tokens), self._ended(tokens, sampling))

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _batches(self, prompts: list[Prompt], *, room: int) -> Iterator[Batch]:
        """Rows with one shared part, sorted by length, as many as fit into memory."""
        for shared, group in groupby(range(len(prompts)), key=lambda row: prompts[row].shared):
            rows = sorted(group, key=lambda row: len(prompts[row].own))
            own = len(prompts[rows[-1]].own)
            fits = self._memory // (self._token_bytes * (len(shared) + own + room))
            size = max(1, min(int(fits), STEP_TOKENS // own))
            for start in range(0, len(rows), size):
                chosen = rows[start : start + size]
                yield Batch(chosen, [prompts[row] for row in chosen])

    def _share(self, shared: tuple[int, ...]) -> int:
        """Bring the cache to this prefix, keeping what it has in common; the tokens computed."""
        kept = common_prefix(self._shared, shared)
        cache, surplus = self._cache, len(self._shared) - kept
        self.forget_prefixes()  # an interrupted pass must not leave half a prefix behind
        if kept == 0:
            cache = DynamicCache()
        elif surplus:
            cache.crop(-surplus)
        for start in range(kept, len(shared), STEP_TOKENS):
            piece = torch.tensor([shared[start : start + STEP_TOKENS]], device=self._model.device)
            self._model.base_model(piece, past_key_values=cache, use_cache=True)
        self._shared, self._cache = shared, cache
        return len(shared) - kept

    def _used(self, prompts: list[Prompt], computed: int, generated: int) -> Usage:
        shared = sum(len(prompt.shared) for prompt in prompts)
        own = sum(len(prompt.own) for prompt in prompts)
        return Usage(len(prompts), shared + own, shared - computed, generated)

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """Without gradients, with this engine's number of threads."""
        if self._model is None:
            raise EngineError("this engine is closed; open another one")
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads or before)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)


def common_prefix(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Length of the common beginning."""
    same = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(same, min(len(one), len(other)))


def end_tokens(model: Model, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end a reply."""
    config = model.generation_config
    given = config.eos_token_id if config is not None else None
    own: Any = tokenizer.eos_token_id
    listed = given if isinstance(given, list) else [given]
    return frozenset(token for token in (*listed, own) if token is not None)


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

"""The server engine: a language model somewhere else, through its OpenAI-compatible address.

In: slices of prompts, one request a prompt, a bounded number in flight. Out: what the server says
of the options. Prompts go as token ids to /completions, or as messages to /chat/completions, where
the server's tokenizer is its own business. A server that stays away is an `EngineDied`, and nothing
of that call is kept. `make serve` starts one here.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from rewrite_utils.llm.address import IN_FLIGHT, WAITS, Address, checked
from rewrite_utils.llm.answers import among_likeliest, complete, counted, exact, usage_of
from rewrite_utils.llm.conversation import BYTES_A_TOKEN, bytes_tokenizer, continued, turns_of
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import EngineError, Generation, Logprobs, Prompt, Sampling, Usage
from rewrite_utils.llm.tokens import text_tokens
from rewrite_utils.params import LLM

ROOM = 8
"""Tokens that a chat may spend on the beginning of its answer."""
CONTEXTS = ("max_model_len", "context_length", "context_window", "max_context_length")
"""Names under which servers tell a model's context."""
Body = dict[str, Any]


class ServerEngine(Engine):
    """A model on a server; this side makes and reads requests only."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        llm: LLM,
        *,
        vocab_size: int,
        waits: tuple[float, ...] = WAITS,
    ) -> None:
        """``llm``: the model's name there, the address, and how answers are read."""
        self._llm, self._chat = llm, llm.endpoint == "chat"
        self._address = Address(llm.address, key_variable=llm.key_variable, waits=waits)
        self._pool = ThreadPoolExecutor(IN_FLIGHT)
        longest = min(llm.context, self._longest())
        super().__init__(
            tokenizer,
            vocab_size=vocab_size,
            max_tokens=longest * (BYTES_A_TOKEN if self._chat else 1),
            label=self._way(),
        )

    @classmethod
    def connect(cls, llm: LLM, folder: str) -> "ServerEngine":
        """Read the tokenizer in ``folder``, or of a chat make one, and ask for the model there.

        Raises ValueError without a whole address, a key or that model, EngineError if the server
        does not answer as such a server does, EngineDied if nobody answers.
        """
        checked(llm.address)
        if llm.endpoint == "chat":
            tokenizer = bytes_tokenizer(llm.model)
            return cls(tokenizer, llm, vocab_size=len(tokenizer))
        config = AutoConfig.from_pretrained(folder).get_text_config()
        return cls(AutoTokenizer.from_pretrained(folder), llm, vocab_size=config.vocab_size)

    def close(self) -> None:
        """Let go of the connections; the server runs on."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._address.close()

    def _way(self) -> str:
        """How answers are read, for those who read the numbers."""
        if self._llm.samples:
            return f"{self._llm.endpoint} server, {self._llm.samples} drawn answers counted"
        if self._llm.top_logprobs:
            return f"{self._llm.endpoint} server, among {self._llm.top_logprobs} likeliest tokens"
        return "chat server" if self._chat else "vllm server"

    # ── answers ──────────────────────────────────────────────────────────────────────────────

    def _choices(
        self, prompts: list[Prompt], options: list[int], answers: int
    ) -> tuple[Logprobs, Usage]:
        if self._llm.samples:
            return self._counted(prompts, options, answers)
        if self._llm.top_logprobs:
            return self._among_likeliest(prompts, options, answers)
        if self._chat:
            raise EngineError(
                "a chat endpoint tells no log-probabilities of chosen tokens: set "
                "simulator.top_logprobs to as many likeliest tokens as it tells (OpenAI: 20), or "
                "simulator.samples to count drawn answers"
            )
        asked = {
            "max_tokens": answers,
            "temperature": 0.0,
            "ignore_eos": True,
            "allowed_token_ids": options,
            "logprobs": 0,
            "logprob_token_ids": options,
            "return_tokens_as_token_ids": True,
        }
        return self._asked(prompts, asked, lambda reply: exact(reply, options, answers))

    def _among_likeliest(
        self, prompts: list[Prompt], options: list[int], answers: int
    ) -> tuple[Logprobs, Usage]:
        top, texts = self._llm.top_logprobs, self._texts(options)
        asked = {"logprobs": True, "top_logprobs": top} if self._chat else {"logprobs": top}
        asked |= {"max_tokens": self._length(answers), "temperature": 0.0}
        behind = {"beginning": self._beginning(prompts[0])}
        return self._asked(
            prompts, asked, lambda reply: among_likeliest(reply, texts, answers, **behind)
        )

    def _counted(
        self, prompts: list[Prompt], options: list[int], answers: int
    ) -> tuple[Logprobs, Usage]:
        """Many servers draw one answer a request whatever ``n`` says: the rest is asked for."""
        texts, beginning = self._texts(options), self._beginning(prompts[0])
        drawn: list[list[str]] = [[] for _ in prompts]
        usage = Usage(len(prompts))
        for attempt in range(self._llm.samples):
            rows = [row for row, found in enumerate(drawn) if len(found) < self._llm.samples]
            if not rows:
                break
            how = {"max_tokens": self._length(answers), "temperature": 1.0, "seed": attempt}
            missing = [self._llm.samples - len(drawn[row]) for row in rows]
            pairs = zip(rows, missing, strict=True)
            replies = self._ask([self._body(prompts[row], n=n, **how) for row, n in pairs])
            for row, reply in zip(rows, replies, strict=True):
                drawn[row] += [continued(text, beginning) for text, _ in self._said(reply)]
            usage = usage.plus(usage_of(replies))
        found = [counted(some[: self._llm.samples], texts, answers) for some in drawn]
        return np.stack(found), usage

    def _generate(
        self, prompts: list[Prompt], sampling: Sampling, seeds: list[int]
    ) -> tuple[list[Generation], Usage]:
        asked = sampling._asdict() | ({} if self._chat else {"return_token_ids": True})
        if self._chat:
            asked["max_tokens"] += ROOM
        pairs = zip(prompts, seeds, strict=True)
        replies = self._ask([self._body(prompt, **asked, seed=seed) for prompt, seed in pairs])
        found = [self._reply(*pair) for pair in zip(prompts, replies, strict=True)]
        return found, usage_of(replies)._replace(prompts=len(prompts))

    def _reply(self, prompt: Prompt, reply: Any) -> Generation:
        """Its tokens, where the server does not tell them, as this side's tokenizer reads it."""
        text, reason = self._said(reply)[0]
        text = continued(text, self._beginning(prompt))
        tokens = reply["choices"][0].get("token_ids") or text_tokens(self.tokenizer, text)
        return Generation(text, tuple(tokens), reason == "stop")

    # ── requests ─────────────────────────────────────────────────────────────────────────────

    def _asked(
        self, prompts: list[Prompt], asked: Body, read: Callable[[Any], np.ndarray]
    ) -> tuple[Logprobs, Usage]:
        """What ``read`` finds in the reply to each prompt, and what the replies took."""
        replies = self._ask([self._body(prompt, **asked) for prompt in prompts])
        usage = usage_of(replies)._replace(prompts=len(replies))
        return np.stack([read(reply) for reply in replies]), usage

    def _body(self, prompt: Prompt, **how: Any) -> Body:
        tokens = [*prompt.shared, *prompt.own]
        if not self._chat:
            return {"model": self._llm.model, "prompt": tokens, **how}
        turns, _ = turns_of(self.tokenizer, tokens)
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        return {"model": self._llm.model, "messages": messages, **how}

    def _beginning(self, prompt: Prompt) -> str:
        """What a chat writes before its answer, as the few-shots do; all of one call's the same."""
        return turns_of(self.tokenizer, prompt.shared + prompt.own)[1] if self._chat else ""

    def _length(self, answers: int) -> int:
        return 2 * answers + ROOM if self._chat else answers

    def _texts(self, options: Sequence[int]) -> list[str]:
        return [str(self.tokenizer.decode([option])).strip() for option in options]

    def _ask(self, bodies: Sequence[Body]) -> list[Any]:
        """One reply a body, in order; the first that fails for good cancels the rest."""
        path = "chat/completions" if self._chat else "completions"
        futures = [self._pool.submit(self._address.ask, path, body) for body in bodies]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    @complete()
    def _said(self, reply: Any) -> list[tuple[str, str]]:
        """Each choice's text, and why it ended; EngineError where the server says neither."""
        found = []
        for choice in reply["choices"]:
            message = choice["message"] if self._chat else choice
            text = message["content"] if self._chat else message["text"]
            found.append((text or message.get("refusal") or "", choice["finish_reason"]))
        if not found:
            raise EngineError("the server's reply has no choices")
        if None in [reason for _, reason in found]:
            raise EngineError(
                f"the server at {self._address.url} did not say how its reply ended "
                "(finish_reason): it was cut off on the way"
            )
        return found

    def _longest(self) -> int:
        """The context of the model there; ValueError if the server has only other models."""
        told = self._address.ask("models")
        try:
            listed = told if isinstance(told, list) else told["data"]
            served = {model["id"]: model for model in listed}
        except (KeyError, TypeError):
            raise EngineError(
                f"{self._address.url}/models did not list models: is this an OpenAI-compatible "
                "server, and does simulator.address end in /v1?"
            ) from None
        if self._llm.model not in served:
            names = ", ".join(list(served)[:20]) or "no model"
            raise ValueError(
                f"the server at {self._address.url} has {names}, not {self._llm.model!r}: set "
                "simulator.model, or serve this one (make serve)"
            )
        there = served[self._llm.model]
        return next((int(there[name]) for name in CONTEXTS if there.get(name)), 2**31)

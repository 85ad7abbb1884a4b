"""The server engine: a vLLM server somewhere else, through its OpenAI-compatible address.

In: slices of prompts as token ids, one request a prompt, a bounded number in flight. Out: what the
server says of the options. A request that fails is sent again, later each time; a server that stays
away is an `EngineDied`, and nothing of that call is kept. `make serve` starts one here.
"""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
from jaxtyping import Float
from numpy import ndarray
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import (
    EngineDied,
    EngineError,
    Generation,
    Logprobs,
    Prompt,
    Sampling,
    Usage,
)

IN_FLIGHT = 64
"""Requests on their way at a time."""
SECONDS, CONNECTING = 300.0, 10.0
"""Longest wait for one answer, and for a connection."""
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt."""
LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that say: try again."""
FLOOR = -9999.0
"""What a vLLM server writes for a log-probability of minus infinity."""


class ServerEngine(Engine):
    """A running vLLM server; this side holds the tokenizer only."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        address: str,
        name: str,
        vocab_size: int,
        max_tokens: int,
        waits: tuple[float, ...] = WAITS,
    ) -> None:
        """``address`` ends before /completions (…/v1); ``name`` is the model's name there."""
        self._address = checked(address)
        self._name = name
        self._waits = waits
        limits = httpx.Limits(max_connections=IN_FLIGHT)
        patience = httpx.Timeout(SECONDS, connect=CONNECTING)
        self._client = httpx.Client(timeout=patience, limits=limits, trust_env=False)
        self._pool = ThreadPoolExecutor(IN_FLIGHT)
        longest = self._longest()
        super().__init__(
            tokenizer,
            vocab_size=vocab_size,
            max_tokens=min(max_tokens, longest),
            label="vllm server",
        )

    @classmethod
    def connect(cls, folder: str, *, address: str, name: str, max_tokens: int) -> "ServerEngine":
        """Read the tokenizer in ``folder`` and ask the server whether it has the model.

        Raises ValueError without a whole address or with another model there, EngineError if it
        does not answer as such a server does, EngineDied if nobody answers.
        """
        checked(address)
        return cls(
            AutoTokenizer.from_pretrained(folder),
            address=address,
            name=name,
            vocab_size=AutoConfig.from_pretrained(folder).get_text_config().vocab_size,
            max_tokens=max_tokens,
        )

    def close(self) -> None:
        """Let go of the connections; the server runs on."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _choices(
        self, prompts: list[Prompt], options: list[int], answers: int
    ) -> tuple[Logprobs, Usage]:
        asked = {
            "max_tokens": answers,
            "temperature": 0.0,
            "ignore_eos": True,
            "allowed_token_ids": options,
            "logprobs": 0,
            "logprob_token_ids": options,
            "return_tokens_as_token_ids": True,
        }
        replies = self._complete(prompts, [asked] * len(prompts))
        found = [logprobs_of(reply, options, answers) for reply in replies]
        return np.stack(found), _usage(replies)

    def _generate(
        self, prompts: list[Prompt], sampling: Sampling, seeds: list[int]
    ) -> tuple[list[Generation], Usage]:
        common = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "return_token_ids": True,
        }
        replies = self._complete(prompts, [common | {"seed": seed} for seed in seeds])
        texts = [reply["choices"][0] for reply in replies]
        found = [
            Generation(text["text"], tuple(text["token_ids"]), text["finish_reason"] == "stop")
            for text in texts
        ]
        return found, _usage(replies)

    def _complete(self, prompts: list[Prompt], asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One completion a prompt, in order; the first that fails for good cancels the rest."""
        bodies = [
            {"model": self._name, "prompt": list(prompt.shared + prompt.own), **how}
            for prompt, how in zip(prompts, asked, strict=True)
        ]
        url = f"{self._address}/completions"
        futures = [self._pool.submit(self._send, "POST", url, body) for body in bodies]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def _send(self, method: str, url: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        """One request, sent again after each of the waits while the server is away or busy.

        Raises EngineError on an answer that a second attempt would not change, EngineDied when no
        attempt is left.
        """
        for wait in (*self._waits, None):
            try:
                answer = self._client.request(method, url, json=body)
                if answer.status_code not in LATER:
                    return _content(answer)
                reason = f"status {answer.status_code}"
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            if wait is not None:
                time.sleep(wait)
        raise EngineDied(
            f"the server at {self._address} did not answer {len(self._waits) + 1} times within "
            f"{sum(self._waits):.0f} s ({reason}): is it running, and is simulator.address right? "
            "Nothing of this call was kept; start it (make serve) and run again"
        )

    def _longest(self) -> int:
        """The context of the model there; ValueError if the server has only other models."""
        told = self._send("GET", f"{self._address}/models", None)
        try:
            served = {model["id"]: model for model in told["data"]}
        except (KeyError, TypeError):
            raise EngineError(
                f"{self._address}/models did not list models: is this an OpenAI-compatible server, "
                "and does simulator.address end in /v1?"
            ) from None
        if self._name not in served:
            raise ValueError(
                f"the server at {self._address} has {', '.join(served) or 'no model'}, "
                f"not {self._name!r}: set simulator.model, or serve this one (make serve)"
            )
        return int(served[self._name].get("max_model_len") or 2**31)


def checked(address: str) -> str:
    """The address without a slash at its end; ValueError if it cannot be one."""
    try:
        parts = httpx.URL(address)
    except httpx.InvalidURL:
        parts = httpx.URL()
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ValueError(
            f"engine 'server' needs the server's whole address, not {address!r}: for example "
            "simulator.address: http://127.0.0.1:8000/v1 (make serve starts one there)"
        )
    return address.rstrip("/")


def logprobs_of(
    reply: Mapping[str, Any], options: list[int], answers: int
) -> Float[ndarray, "answer option"]:
    """The options' log-probabilities, each looked up by its own token id.

    Raises EngineError if the server left one out: the answer's, never the first one's, is read.
    """
    rows = reply["choices"][0]["logprobs"]["top_logprobs"]
    try:
        found = [[row[f"token_id:{option}"] for option in options] for row in rows]
    except KeyError as error:
        raise EngineError(
            f"the server did not give the log-probability of {error.args[0]}; it needs vLLM 0.32 "
            "or newer (logprob_token_ids), started as `make serve` does"
        ) from None
    if len(found) != answers:
        raise EngineError(f"asked the server for {answers} answers, got {len(found)}")
    logprobs = np.array(found, np.float32)
    return np.where(logprobs <= FLOOR, -np.inf, logprobs).astype(np.float32)


def _content(answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code >= 400:
        raise EngineError(
            f"{answer.request.url} refused with status {answer.status_code}: {answer.text[:500]}"
            + (" (does simulator.address end in /v1?)" if answer.status_code == 404 else "")
        )
    try:
        return answer.json() if answer.content else {}
    except ValueError:
        raise EngineError(f"{answer.request.url} did not answer in JSON") from None


def _usage(replies: list[dict[str, Any]]) -> Usage:
    counts = [reply["usage"] for reply in replies]
    cached = [
        (count.get("prompt_tokens_details") or {}).get("cached_tokens", 0) for count in counts
    ]
    return Usage(
        len(replies),
        sum(count["prompt_tokens"] for count in counts),
        sum(number or 0 for number in cached),
        sum(count["completion_tokens"] for count in counts),
    )

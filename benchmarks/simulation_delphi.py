"""eai-delphi's own simulator on given windows and sentences; run by simulation.py in delphi's
environment.

In: JSON on stdin (model folder, windows as token texts, sentences). Out: one line of JSON:
predictions, tokens, seconds. Its prompt, few-shots and parsing are its own; this file gives it a
client that holds vLLM, as its offline client does, and a tokenizer whose "\\t" stands second, which
it takes for granted of Llama's.
"""

import asyncio
import json
import sys
import time
from typing import Any

from delphi.scorers.simulator.simulation.simulator import NeuronSimulator
from transformers import AutoTokenizer
from vllm import LLM, SamplingParams


class Tokenizer:
    """The model's, with a beginning-of-text token as Llama's has."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def encode(self, text: str) -> list[int]:
        return [0, *self.inner.encode(text, add_special_tokens=False)]

    def apply_chat_template(self, turns: Any, add_generation_prompt: bool) -> list[int]:
        return self.inner.apply_chat_template(
            turns, add_generation_prompt=add_generation_prompt, return_dict=False
        )


class Client:
    """Collects the prompts of all windows and answers them in one call of vLLM."""

    def __init__(self, llm: Any, tokenizer: Tokenizer, expected: int) -> None:
        self.llm, self.tokenizer, self.expected = llm, tokenizer, expected
        self.waiting: list[tuple[list[int], asyncio.Future]] = []
        self.tokens = 0

    async def generate(self, prompt: Any, max_tokens: int, prompt_logprobs: int) -> Any:
        ids = self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True)
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((ids, future))
        if len(self.waiting) == self.expected:
            sampling = SamplingParams(max_tokens=max_tokens, prompt_logprobs=prompt_logprobs)
            asked: list[Any] = [{"prompt_token_ids": ids} for ids, _ in self.waiting]
            self.tokens += sum(len(ids) for ids, _ in self.waiting)
            outputs = self.llm.generate(asked, sampling, use_tqdm=False)
            for (_, waiting), output in zip(self.waiting, outputs, strict=True):
                waiting.set_result(output)
            self.waiting = []
        return await future


async def simulated(client: Client, pairs: list[tuple[str, list[str]]]) -> list[Any]:
    simulators = [(NeuronSimulator(client, text), window) for text, window in pairs]
    return await asyncio.gather(*(one.simulate(window) for one, window in simulators))


def main() -> None:
    work = json.load(sys.stdin)
    llm = LLM(
        model=work["model"],
        dtype=work["dtype"],
        max_model_len=4096,
        block_size=32,
        kv_cache_memory_bytes=2 * 2**30,
        enable_prefix_caching=True,
        enforce_eager=True,
    )
    tokenizer = Tokenizer(AutoTokenizer.from_pretrained(work["model"]))
    pairs = [(text, window) for window in work["windows"] for text in work["sentences"]]
    pairs = pairs[: work["prompts"]]
    client = Client(llm, tokenizer, len(pairs))
    start = time.perf_counter()
    found = asyncio.run(simulated(client, pairs))
    seconds = time.perf_counter() - start
    predictions = sum(len(one.expected_activations) for one in found)
    failed = sum(not one.distribution_values for one in found)
    said = {
        "failed": failed,
        "predictions": predictions,
        "tokens": client.tokens,
        "seconds": seconds,
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()

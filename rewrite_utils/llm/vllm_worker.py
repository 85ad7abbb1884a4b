"""The child process that holds vLLM; started by `llm.vllm`, never by hand.

In: settings, then requests, over an inherited socket (``python -m … FD``). Out: arrays and token
lists. A failing request ends the process with its traceback in the log: a scheduler that has
stumbled is not asked again. Knows vLLM and nothing of the experiment.
"""

import contextlib
import gc
import os
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from rewrite_utils.llm import kept

LLM = Any
"""vLLM's own; this file is also read where vLLM is not installed."""
Counts = tuple[int, int, int]
"""Prompt tokens, those served from the prefix cache, generated tokens."""


def main(descriptor: int) -> None:
    """Load the model, say so, answer until told to stop or the parent is gone; one that is `kept`
    answers also those who join later, and stays."""
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    settings = connection.recv()
    log, parent, where = (settings.pop(name) for name in ("log", "parent", "kept"))
    listener = None
    if where:
        listener = kept.listening(where)
        kept.end_with(where)
    else:
        threading.Thread(target=_leave_with, args=(parent, log), daemon=True).start()
    llm = load(settings)
    connection.send((0, os.getpid()))
    for caller, (ticket, name, arguments) in kept.requests(connection, listener):
        answer = ticket, REQUESTS[name](llm, **arguments)
        with contextlib.suppress(OSError):  # gone while it was answered
            caller.send(answer)
    log.unlink(missing_ok=True)
    # vLLM sometimes aborts in its own clean-up, with the work done; skip that.
    os._exit(0)


def load(settings: dict[str, Any]) -> LLM:
    """vLLM in this process.

    Collecting garbage and importing Ray, which one process does not use, would cost a quarter of
    the time until ready.
    """
    gc.disable()
    sys.modules["ray"] = None  # type: ignore[assignment]
    _read_ahead(Path(settings["model"]))
    import vllm  # noqa: PLC0415

    llm = vllm.LLM(**settings)
    gc.enable()
    return llm


def choices(
    llm: LLM, *, prompts: list[tuple[int, ...]], options: list[int], answers: int
) -> tuple[np.ndarray, Counts]:
    """Log-probabilities over the whole vocabulary [prompt answer option], answers being forced.

    ``allowed_token_ids`` restricts what is appended; the raw log-probabilities, taken before that
    mask, are read for the options only.
    """
    forced = {
        "max_tokens": answers,
        "ignore_eos": True,
        "temperature": 0.0,
        "allowed_token_ids": options,
        "logprob_token_ids": options,
        "flat_logprobs": True,
        "detokenize": False,
    }
    outputs = _run(llm, prompts, [forced] * len(prompts))
    found = [_read(output.outputs[0].logprobs, options, answers) for output in outputs]
    return np.stack(found), _counts(outputs)


def generate(
    llm: LLM,
    *,
    prompts: list[tuple[int, ...]],
    max_tokens: int,
    temperature: float,
    seeds: list[int],
) -> tuple[list[tuple[str, tuple[int, ...], bool]], Counts]:
    """Text, tokens and whether it ended by itself, for each prompt."""
    drawn = {"max_tokens": max_tokens, "temperature": temperature}
    outputs = _run(llm, prompts, [drawn | {"seed": seed} for seed in seeds])
    replies = [output.outputs[0] for output in outputs]
    texts = [(r.text, tuple(r.token_ids), r.finish_reason == "stop") for r in replies]
    return texts, _counts(outputs)


REQUESTS = {"choices": choices, "generate": generate}


def _run(llm: LLM, prompts: list[tuple[int, ...]], how: list[dict[str, Any]]) -> list[Any]:
    from vllm import SamplingParams  # noqa: PLC0415

    asked = [{"prompt_token_ids": list(tokens)} for tokens in prompts]
    return llm.generate(asked, [SamplingParams(**one) for one in how], use_tqdm=False)


def _read(flat: Any, options: list[int], answers: int) -> np.ndarray:
    """[answer option]; the first column of each position is the appended token itself."""
    tokens = np.array(flat.token_ids).reshape(answers, len(options) + 1)
    if (tokens[:, 1:] != options).any():
        raise RuntimeError(f"asked for the log-probabilities of {options}, got {tokens.tolist()}")
    return np.array(flat.logprobs, np.float32).reshape(tokens.shape)[:, 1:]


def _counts(outputs: list[Any]) -> Counts:
    prompt = sum(len(output.prompt_token_ids or ()) for output in outputs)
    cached = sum(output.num_cached_tokens or 0 for output in outputs)
    return prompt, cached, sum(len(output.outputs[0].token_ids) for output in outputs)


def _read_ahead(folder: Path) -> None:
    """Let the disk read the weights while Python imports."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as weights:
            os.posix_fadvise(weights.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _leave_with(parent: int, log: Path) -> None:
    """A killed parent cannot say goodbye; do not go on computing for nobody."""
    while os.getppid() == parent:
        time.sleep(0.5)
    log.unlink(missing_ok=True)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))

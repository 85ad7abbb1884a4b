"""The vLLM engine: a child process, so that its environment and its aborts at exit stay outside.

In: slices of prompts, sent over a socket pair. Out: what `vllm_worker` reads from vLLM. A child
that dies is an `EngineDied` with the end of its log; the parent never waits for it in vain.
"""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from rewrite_utils.llm import kept
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import (
    BLOCK,
    EngineDied,
    Generation,
    Logprobs,
    Prompt,
    Sampling,
    Usage,
)
from rewrite_utils.params.asking import CPU_CACHE
from rewrite_utils.runs.machine import device, free_share

SHARE = 0.9
"""Of a GPU's free memory, what vLLM may take."""
LOG_LINES = 20
"""Lines of the child's log shown when it dies."""
PATIENCE = 2.0
"""Seconds a child is given to leave by itself."""


class VLLMEngine(Engine):
    """vLLM in a child process: its CPU build here, its CUDA build where there is a GPU."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        vocab_size: int,
        settings: dict[str, Any],
        environment: dict[str, str],
    ) -> None:
        super().__init__(
            tokenizer,
            vocab_size=vocab_size,
            max_tokens=settings["max_model_len"],
            label=f"vllm {settings['dtype']}",
        )
        self._ticket = 0
        where = kept.place(settings, environment)
        self._process, self._connection, self._log, self.pid = opened(settings, environment, where)
        # Runs at close(), at garbage collection and at interpreter exit, whichever comes first.
        self._end = weakref.finalize(
            self, end, self._process, self._connection, self._log, os.getpid(), keep=bool(where)
        )
        try:
            if self._process:
                self._receive()
        except BaseException:
            self.close()
            raise

    @classmethod
    def load(
        cls, model: str, *, dtype: str, max_tokens: int, threads: int | None, memory_gb: float
    ) -> "VLLMEngine":
        """Start the child and wait until it holds the model."""
        free = free_share(device())
        return cls(
            AutoTokenizer.from_pretrained(model),
            vocab_size=AutoConfig.from_pretrained(model).get_text_config().vocab_size,
            settings=settings(
                model, dtype=dtype, max_tokens=max_tokens, memory_gb=memory_gb, free=free
            ),
            environment=child_environment(model, threads=threads, cuda=free > 0),
        )

    def close(self) -> None:
        """End the child within seconds, or leave a kept one to others; may be called twice."""
        self._end()

    def _choices(
        self, prompts: list[Prompt], options: list[int], answers: int
    ) -> tuple[Logprobs, Usage]:
        return self._ask("choices", prompts, options=options, answers=answers)

    def _generate(
        self, prompts: list[Prompt], sampling: Sampling, seeds: list[int]
    ) -> tuple[list[Generation], Usage]:
        replies, usage = self._ask("generate", prompts, **sampling._asdict(), seeds=seeds)
        return [Generation(*reply) for reply in replies], usage

    def _ask(self, name: str, prompts: list[Prompt], **how: Any) -> tuple[Any, Usage]:
        """The child's answer; vLLM's cache finds the shared parts by itself."""
        if not self._end.alive:
            raise EngineDied("this vLLM engine is closed; open another one")
        self._ticket += 1
        how["prompts"] = [prompt.shared + prompt.own for prompt in prompts]
        with self._talking():
            self._connection.send((self._ticket, name, how))
        found, counts = self._receive()
        return found, Usage(len(prompts), *counts)

    def _receive(self) -> Any:
        """The answer to the last request; those to interrupted ones before it are dropped."""
        while True:
            with self._talking(interruptible=True):
                while not self._connection.poll(0.5):
                    dead = self._process and self._process.poll() is not None
                    if dead and not self._connection.poll(0):
                        raise EOFError
            with self._talking():
                ticket, answer = self._connection.recv()
            if ticket == self._ticket:
                return answer

    @contextlib.contextmanager
    def _talking(self, *, interruptible: bool = False) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            raise self._death() from None
        except KeyboardInterrupt:
            if not interruptible:  # half a message is lost: nothing after it could be understood
                self.close()
            raise

    def _death(self) -> EngineDied:
        code = "unknown"
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = str(self._process.wait(PATIENCE))
        log = self._log.read_text(errors="replace") if self._log.exists() else ""
        tail = "\n".join(log.splitlines()[-LOG_LINES:]) or "(empty)"
        self.close()
        return EngineDied(
            f"the vLLM process {self.pid} died (exit code {code}) in request "
            f"{self._ticket}; nothing of that request was kept. The end of its log:\n{tail}"
        )


def settings(
    model: str, *, dtype: str, max_tokens: int, memory_gb: float, free: float
) -> dict[str, Any]:
    """vLLM's own settings, in process and as a server: a prefix cache of small blocks, and nothing
    compiled on a CPU. ``free``: see `free_share`; vLLM refuses to start above it."""
    cuda = free > 0
    cache = memory_gb or (0 if cuda else CPU_CACHE)
    memory = {"gpu_memory_utilization": round(SHARE * free, 4)} if cuda else {}
    if cache:  # given, vLLM skips its profiling run
        memory |= {"kv_cache_memory_bytes": int(cache * 2**30)}
    return memory | {
        "model": model,
        "dtype": dtype,
        "max_model_len": max_tokens,
        "block_size": BLOCK,
        "enable_prefix_caching": True,
        "enable_chunked_prefill": False,  # a prompt in parts breaks seeded sampling on the CPU
        "enforce_eager": not cuda,
        # without parts, as many as the longest prompt has
        "max_num_batched_tokens": max(max_tokens, 8192 if cuda else 2048),
        "max_num_seqs": 256 if cuda else 128,
        "logprobs_mode": "raw_logprobs",
    }


def child_environment(model: str, *, threads: int | None, cuda: bool) -> dict[str, str]:
    """This process's environment and what vLLM needs; the parent's own is left alone."""
    package = str(Path(__file__).parents[2])  # also where the caller put it on the path by hand
    ours = {
        "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_PLUGINS": "",  # TransformerLens registers one
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not cuda:
        count = threads or len(os.sched_getaffinity(0))
        # Waiting threads that spin take the core from a busy neighbour and then from each other.
        ours |= {"OMP_NUM_THREADS": str(count), "OMP_WAIT_POLICY": "passive"}
    if Path(model).is_dir():
        ours["HF_HUB_OFFLINE"] = "1"
    return os.environ | ours


def opened(
    settings: dict[str, Any], environment: dict[str, str], where: Path | None
) -> tuple[subprocess.Popen[bytes] | None, Connection, Path, int]:
    """A child that will say when it has loaded, this end of the way to it, its log and its id; or
    one that a kernel before this one kept ``where``, which has, and is nobody's child."""
    if where and (joined := kept.join(where)):
        return None, joined[0], where.with_suffix(".log"), joined[1]
    process, connection, log = start(settings, environment, where)
    return process, connection, log, process.pid


def start(
    settings: dict[str, Any], environment: dict[str, str], where: Path | None
) -> tuple[subprocess.Popen[bytes], Connection, Path]:
    """The child, this end of the socket pair, and the child's log; ``where``: kept there."""
    here, there = cast(tuple[Connection, Connection], multiprocessing.Pipe())
    if where:
        log = where.with_suffix(".log")
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    else:
        descriptor, name = tempfile.mkstemp(prefix="rewrite-vllm-", suffix=".log")
        log = Path(name)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "rewrite_utils.llm.vllm_worker", str(there.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=descriptor,
        stderr=descriptor,
        env=environment,
        pass_fds=[there.fileno()],
        start_new_session=True,  # Ctrl-C is for the notebook, not for the child
    )
    os.close(descriptor)
    there.close()
    with contextlib.suppress(BrokenPipeError):
        here.send({**settings, "parent": os.getpid(), "log": log, "kept": where})
    return process, here, log


def end(
    process: subprocess.Popen[bytes] | None,
    connection: Connection,
    log: Path,
    owner: int,
    *,
    keep: bool,
) -> None:
    """Ask the child to leave, then make it; whatever it exits with, its work is already here. One
    that is kept only loses this caller."""
    if os.getpid() != owner:  # a fork of the owner: not its child
        return
    with contextlib.suppress(OSError):
        connection.send(None)
    if process and keep:
        process.returncode = process.poll() or 0  # whoever keeps it waits for it
    elif process:
        for push in (lambda: None, process.terminate, process.kill):
            push()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
                break
        log.unlink(missing_ok=True)
    connection.close()

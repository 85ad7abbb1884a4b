"""The Ray engine: several actors, each holding an engine, on one machine or many.

In: calls from as many threads as there are workers; each call goes whole to one actor, so what is
computed together does not depend on who computes it. A worker that dies is replaced and its call
asked again: nothing is lost. Needs the extra ``ray``.
"""

import functools
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import EngineDied, EngineError, Usage
from rewrite_utils.params import LLM

ATTEMPTS = 3
"""How often a call is asked before its deaths are taken for its own fault."""


class Worker:
    """What an actor holds: one engine, opened where the actor lives."""

    def __init__(self, load: Callable[[], Engine]) -> None:
        self._engine = load()

    def label(self) -> str:
        """What computes there."""
        return self._engine.label

    def call(self, name: str, *arguments: Any) -> tuple[Any, Usage]:
        """One of the engine's own methods for a slice of prompts."""
        return getattr(self._engine, name)(*arguments)


def _handed_on(name: str) -> Callable[..., Any]:
    """An engine's own method, answered by a worker's."""

    def method(self: "RayEngine", *arguments: Any) -> Any:
        return self._call(name, *arguments)

    return method


class RayEngine(Engine):
    """As many engines as workers; safe to call from as many threads."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        vocab_size: int,
        max_tokens: int,
        start: Callable[[], Any],
        workers: int,
    ) -> None:
        """``start`` makes one actor."""
        super().__init__(tokenizer, vocab_size=vocab_size, max_tokens=max_tokens)
        self._start = start
        self.workers = workers
        self._actors = [start() for _ in range(workers)]
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._changing = threading.Lock()
        for actor in self._actors:
            self._idle.put(actor)

    _choices, _generate = _handed_on("_choices"), _handed_on("_generate")
    _choices_inside = _handed_on("_choices_inside")

    @classmethod
    def load(cls, llm: LLM, opened: Callable[[LLM], Engine]) -> "RayEngine":
        """Join the cluster at ``llm.address``, or start one on this machine, and start the workers.

        ``opened`` opens the engine of one, with its share of the threads.
        """
        if not ray.is_initialized():
            ray.init(address=llm.address or None, include_dashboard=False, log_to_driver=False)
        machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
        threads, gpus = placed(machines, workers=llm.workers, threads=llm.threads or None)
        remote = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=0)(Worker)
        worker = functools.partial(opened, llm.model_copy(update={"threads": threads}))
        return cls(
            AutoTokenizer.from_pretrained(llm.model),
            vocab_size=AutoConfig.from_pretrained(llm.model).get_text_config().vocab_size,
            max_tokens=llm.context,
            start=lambda: remote.remote(worker),
            workers=llm.workers,
        )

    @functools.cached_property
    def label(self) -> str:
        """A worker's: who hands the prompts on changes no number."""
        return ray.get(self._actors[0].label.remote())

    def close(self) -> None:
        """End the workers; the cluster runs on."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _call(self, name: str, *arguments: Any) -> Any:
        """Let the next idle worker answer; if it dies, another one."""
        if not self._actors:
            raise EngineDied("this Ray engine is closed; open another one")
        reason = ""
        for _ in range(ATTEMPTS):
            actor = self._idle.get()
            try:
                found = ray.get(actor.call.remote(name, *arguments))
            except RayActorError as error:
                reason, dead, actor = str(error).strip().splitlines()[-1], actor, self._start()
                with self._changing:
                    self._actors = [actor if one is dead else one for one in self._actors]
                continue
            except RayTaskError as error:
                raise EngineError(f"a Ray worker failed: {error.cause}") from None
            finally:
                self._idle.put(actor)
            return found
        raise EngineDied(
            f"{ATTEMPTS} Ray workers died over the same {len(arguments[0])} prompts ({reason}); "
            "nothing of them was kept"
        )


def placed(
    machines: Sequence[Mapping[str, float]], *, workers: int, threads: int | None
) -> tuple[int, int]:
    """CPUs and GPUs of each worker: ``threads``, or the most with which all find a place; one GPU
    each where there are any (Ray hides those that are not asked for).

    ``machines``: Ray's resources of each. Raises ValueError if there is no room: Ray would wait.
    """
    gpus = int(any(machine.get("GPU", 0) >= 1 for machine in machines))
    most = int(max(machine.get("CPU", 0) for machine in machines))
    for each in [threads] if threads else range(most, 0, -1):
        rooms = [
            min(machine.get("CPU", 0) // each, machine.get("GPU", 0) if gpus else workers)
            for machine in machines
        ]
        if sum(rooms) >= workers:
            return each, gpus
    there = ", ".join(
        f"{machine.get('CPU', 0):g} CPUs and {machine.get('GPU', 0):g} GPUs" for machine in machines
    )
    raise ValueError(
        f"{workers} workers of {threads or 1} threads{' and a GPU' * gpus} do not fit the Ray "
        f"cluster ({there}): lower simulator.workers or simulator.threads"
    )

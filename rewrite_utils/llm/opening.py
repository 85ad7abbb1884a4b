"""Which engine answers: by name, on this machine, on a server, or spread over several machines.

In: a model's name and how to hold it. Out: an open `Engine`. What only one engine needs is imported
when that engine is opened.
"""

import functools
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import safe_open

from rewrite_utils.llm.engine import Engine
from rewrite_utils.params import LLM
from rewrite_utils.runs.machine import device, precision, this_machine

ENGINES = ("auto", "vllm", "transformers", "server", "ray")
EXTRAS = {"vllm": "simulator-cpu (simulator with CUDA)", "ray": "ray"}
"""What installs the packages that not everyone needs."""


@functools.cache
def engine(llm: LLM) -> Engine:
    """The engine of one LLM section, opened once a process: all sites of a notebook share it."""
    return open_engine(
        llm.model,
        engine=llm.engine,
        dtype=llm.dtype,
        max_tokens=llm.context,
        threads=llm.threads or None,
        memory_gb=llm.memory_gb,
        address=llm.address,
        workers=llm.workers,
        worker_engine=llm.worker_engine,
    )


def open_engine(
    model: str,
    *,
    engine: str = "auto",
    dtype: str = "auto",
    max_tokens: int = 2048,
    threads: int | None = None,
    memory_gb: float = 0.0,
    address: str = "",
    workers: int = 2,
    worker_engine: str = "auto",
) -> Engine:
    """Load ``model`` (a folder, a hub name or ``embedded/…``) into an engine.

    ``dtype``: "auto" is what `runs.machine` measures to be faster. ``max_tokens``: the longest
    prompt with its answer; ``threads``: None or 0, all; ``memory_gb``: for keys and values, 0: by
    the device. ``engine``: see `chosen`; "server": one at ``address``; "ray": ``workers`` of a
    ``worker_engine``. ValueError on another name or a missing package, EngineDied if it fails.
    """
    from rewrite_utils.assets import model_folder  # noqa: PLC0415 (vLLM's child needs none of it)

    engine = chosen(engine)
    folder = model_folder(model)
    if engine == "server":
        from rewrite_utils.llm.server import ServerEngine  # noqa: PLC0415

        return ServerEngine.connect(folder, address=address, name=model, max_tokens=max_tokens)
    settings: dict[str, Any] = {
        "dtype": precision(dtype, device=device(), weights=weights(folder), what=model),
        "max_tokens": max_tokens,
        "threads": threads or None,
        "memory_gb": memory_gb,
    }
    if engine == "ray":
        from rewrite_utils.llm.ray import RayEngine  # noqa: PLC0415

        # Handed down, so that a worker chooses its engine on its own machine.
        worker = functools.partial(open_engine, folder, engine=worker_engine, **settings)
        return RayEngine.load(folder, worker, workers=workers, address=address)
    return _loaded(folder, engine, settings)


def _loaded(folder: str, engine: str, settings: dict[str, Any]) -> Engine:
    """An engine that holds the model itself."""
    if engine == "vllm":
        from rewrite_utils.llm.vllm import VLLMEngine as Chosen  # noqa: PLC0415
    else:
        from rewrite_utils.llm.transformers import TransformersEngine as Chosen  # noqa: PLC0415
    return Chosen.load(folder, **settings)


def require_installed(package: str, what: str) -> None:
    """Raise ValueError, naming the extra, if a package is not there."""
    if find_spec(package) is None:
        raise ValueError(
            f"{what} needs the package {package}, which is not installed: "
            f"pip install -e .[…] with the extra {EXTRAS[package]}, or use engine 'transformers'"
        )


def chosen(engine: str) -> str:
    """The engine that "auto" means here; ValueError on an unknown name or a missing package.

    vLLM where it is installed, but on a CPU without fast bfloat16, where the transformers engine
    was measured to be three times faster (EXPERIMENTS.md, 27 November 2026).
    """
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is unknown; use one of {', '.join(ENGINES)}")
    if engine == "auto":
        slow = device() == "cpu" and this_machine().faster == "float32"
        return "vllm" if find_spec("vllm") and not slow else "transformers"
    if engine in EXTRAS:
        require_installed(engine, f"engine {engine!r}")
    return engine


def weights(folder: str) -> int:
    """Parameters of the model in a folder, from its files; 0 where there are none."""
    count = 0
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            count += sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
    return count

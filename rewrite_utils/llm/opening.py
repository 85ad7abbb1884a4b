"""Which engine answers: by name, on this machine, on a server, or spread over several machines.

In: a model's name and how to hold it. Out: an open `Engine`. What only one engine needs is imported
when that engine is opened.
"""

import functools
import math
from importlib.util import find_spec
from pathlib import Path

from safetensors import safe_open
from transformers import AutoConfig

from rewrite_utils.assets.hub import from_hub
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.lengths import beyond
from rewrite_utils.params import LLM
from rewrite_utils.runs.machine import device, precision, this_machine

EXTRAS = {"vllm": "simulator-cpu (simulator with CUDA)", "ray": "ray"}
"""What installs the packages that not everyone needs."""


@functools.cache
def engine(llm: LLM) -> Engine:
    """The engine of one LLM section, opened once a process: all sites of a notebook share it."""
    with from_hub("model", llm.model):
        return open_engine(llm)


def open_engine(llm: LLM) -> Engine:
    """Load a model (a folder, a hub name or ``embedded/…``), or connect to where it is served.

    ``llm.engine``: see `chosen`. ``llm.dtype``: "auto" is what `runs.machine` measures to be
    faster. Raises ValueError on a missing package, EngineDied if the engine fails.
    """
    from rewrite_utils.assets import model_folder  # noqa: PLC0415 (vLLM's child needs none of it)

    engine = chosen(llm.engine)
    folder = "" if (engine, llm.endpoint) == ("server", "chat") else model_folder(llm.model)
    if engine == "server":
        from rewrite_utils.llm.server import ServerEngine  # noqa: PLC0415

        return ServerEngine.connect(llm, folder)
    config = AutoConfig.from_pretrained(folder).get_text_config()
    too_long = beyond(llm.context, getattr(config, "max_position_embeddings", 2**31), llm.model)
    if too_long:
        raise ValueError(too_long)
    dtype = precision(llm.dtype, device=device(), weights=weights(folder), what=llm.model)
    if engine == "ray":
        from rewrite_utils.llm.ray import RayEngine  # noqa: PLC0415

        # Handed down, so that a worker chooses its engine on its own machine.
        changed = {"model": folder, "engine": llm.worker_engine, "dtype": dtype}
        return RayEngine.load(llm.model_copy(update=changed), open_engine)
    if engine == "vllm":
        from rewrite_utils.llm.vllm import VLLMEngine as Chosen  # noqa: PLC0415
    else:
        from rewrite_utils.llm.transformers import TransformersEngine as Chosen  # noqa: PLC0415
    how = {"dtype": dtype, "max_tokens": llm.context, "memory_gb": llm.memory_gb}
    return Chosen.load(folder, threads=llm.threads or None, **how)


def require_installed(package: str, what: str) -> None:
    """Raise ValueError, naming the extra, if a package is not there."""
    if find_spec(package) is None:
        raise ValueError(
            f"{what} needs the package {package}, which is not installed: "
            f"pip install -e .[…] with the extra {EXTRAS[package]}, or use engine 'transformers'"
        )


def chosen(engine: str) -> str:
    """The engine that "auto" means here; ValueError on a missing package.

    vLLM where it is installed, but on a CPU without fast bfloat16, where the transformers engine
    was measured to be three times faster (EXPERIMENTS.md, 27 November 2026).
    """
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

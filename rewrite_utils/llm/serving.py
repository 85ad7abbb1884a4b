"""Starts a vLLM server for the simulator of a parameter file, on loopback: ``make serve``.

``python -m rewrite_utils.llm.serving params/x.yaml [--port 8000]``. Use it with
``simulator: {engine: server, address: http://127.0.0.1:8000/v1}``. This process becomes the server.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from rewrite_utils.assets import model_folder
from rewrite_utils.assets.fetch import AssetError
from rewrite_utils.llm.opening import require_installed, weights
from rewrite_utils.llm.protocol import MOST_OPTIONS
from rewrite_utils.llm.vllm import child_environment, settings
from rewrite_utils.params import LLM, load
from rewrite_utils.runs.machine import device, free_share, precision

HOST = "127.0.0.1"
SERVING = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
"""Beside what an engine in process has. Left to itself the CPU build gives a core of its own to the
scheduler (half of two cores) and overrules the number of threads."""


def command(llm: LLM, *, folder: str, port: int, dtype: str, free: float) -> list[str]:
    """The server's command line; the same settings as the engine in process."""
    own = {"served_model_name": llm.model, "host": HOST, "port": port}
    own |= {"max_logprobs": MOST_OPTIONS, "enable_prompt_tokens_details": True}
    same = settings(folder, dtype=dtype, max_tokens=llm.context, memory_gb=llm.memory_gb, free=free)
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    for name, value in (same | own).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return words


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; does not return once the server starts."""
    parser = argparse.ArgumentParser(prog="python -m rewrite_utils.llm.serving")
    parser.add_argument("params_file", nargs="?", default="params/embedded.yaml")
    parser.add_argument("--port", type=int, default=8000)
    asked = parser.parse_args(arguments)
    try:
        llm = load(asked.params_file).simulator
        require_installed("vllm", "a vLLM server")
        folder = model_folder(llm.model)
    except (ValueError, OSError, AssetError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    free = free_share(device())
    environment = child_environment(folder, threads=llm.threads or None, cuda=free > 0)
    dtype = precision(llm.dtype, device=device(), weights=weights(folder), what=llm.model)
    started = command(llm, folder=folder, port=asked.port, dtype=dtype, free=free)
    sys.stderr.write(
        f"serving {llm.model}: use simulator.engine: server, "
        f"simulator.address: http://{HOST}:{asked.port}/v1\n"
    )
    os.execve(started[0], started, environment | SERVING)


if __name__ == "__main__":
    raise SystemExit(main())

"""Run by test_hub.py in a process of its own, whose HF_ENDPOINT is the test's hub.

In: a run's parameters, all of whose names are hub names, and a folder. Out: what was made, and what
each thing that the hub refuses is told as, in JSON.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from stage_cases import FakeLLM, tokenizer_with_chat
from tiny import tiny_tokenizer

from rewrite_utils.assets.sources import source_texts
from rewrite_utils.coder.formats import load_coder
from rewrite_utils.llm import opening
from rewrite_utils.llm.protocol import Prompt
from rewrite_utils.params import LLM, parse
from rewrite_utils.runs.run import Run
from rewrite_utils.site import open_sites
from rewrite_utils.subject.model import load_subject


def main(file: str, folder: str) -> None:
    """Make everything, then ask for what cannot be had."""
    raw = json.loads(Path(file).read_text())
    encoder = LLM(model="lab/pythia-tiny", engine="transformers", context=256, dtype="float32")
    with opening.engine(encoder) as engine:
        mass = engine.choices([Prompt((1, 2), (3,))], options=[4, 5]).mass
    llm = FakeLLM(tokenizer_with_chat(tiny_tokenizer()))
    opening.engine = lambda _: llm
    site = open_sites(Run(parse(raw), Path(folder)))["mlp"]
    found: dict[str, Any] = {
        "losses": len(site.losses),
        "curve": list(site.training_curve),
        "documents": len(source_texts(raw["corpus"]["sources"][0])),
        "latents": site.coder.config.num_latents,
        "mass": float(mass[0, 0]),
    }
    refused: dict[str, Callable[[], Any]] = {
        "gated model": lambda: load_subject("lab/gated"),
        "revision": lambda: load_subject("lab/pythia-tiny", revision="step9"),
        "no model": lambda: load_subject("lab/nothing"),
        "cut": lambda: load_subject("lab/cut"),
        "gated coder": lambda: load_coder("lab/gated", hookpoint="layers.2.mlp"),
        "gated text": lambda: source_texts("lab/gated-text:train"),
        "no text": lambda: source_texts("lab/no-text:train"),
    }
    found["said"] = {name: said(ask) for name, ask in refused.items()}
    httpx.get(f"{os.environ['HF_ENDPOINT']}/stop")
    gone = {
        "model": lambda: load_subject("lab/other"),
        "coder": lambda: load_coder("lab/other", hookpoint="layers.2.mlp"),
        "text": lambda: source_texts("lab/other:train"),
    }
    found["gone"] = {name: said(ask) for name, ask in gone.items()}
    (Path(folder) / "found.json").write_text(json.dumps(found))


def said(ask: Callable[[], Any]) -> str:
    """The error's name and words."""
    try:
        return f"no error: {ask()!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A whole run on a tiny model with a fake LLM: what the tests of stages and report share."""

import json
import zlib
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
from tiny import tiny_tokenizer, write_tiny_model

from rewrite_utils.llm import opening
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import Generation, Prompt, Usage
from rewrite_utils.params import parse
from rewrite_utils.runs.run import Run
from rewrite_utils.site import SiteStages

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SITES = {"mlp": "layers.0.mlp", "sae": "layers.1"}
SITE = {
    "latents": 12,
    "k": 3,
    "tokens": 3000,
    "epochs": 1,
    "batch": 64,
    "lr": 0.01,
    "described": 5,
    "calibrate_windows": 9,
    "evaluate_windows": 5,
    "control_windows": 9,
}
STAGES = ["01_coder", "01_quality", "02_latents", "03_explanations", "04_scores", "05_simulation"]
STAGES += ["07_rewrite"]
REFUSED = " I cannot see what these have in common."
"""What the fake LLM says instead of a sentence to the first question it is ever asked."""


class FakeLLM(Engine):
    """Answers that depend on the prompt alone."""

    def __init__(self, tokenizer) -> None:
        super().__init__(tokenizer, vocab_size=320, max_tokens=100_000)
        self.texts: list[str] = []
        self.refused: Prompt | None = None

    def probabilities(self, prompt: Prompt, shape: tuple[int, int]) -> np.ndarray:
        words = np.array(prompt.shared + prompt.own, np.int64)
        return np.random.default_rng(zlib.crc32(words.tobytes())).dirichlet(
            np.ones(shape[1]), shape[0]
        )

    def _choices(self, prompts, options, answers):
        self.texts += [self.tokenizer.decode(prompt.shared + prompt.own) for prompt in prompts]
        shape = answers, len(options)
        found = np.stack([self.probabilities(prompt, shape) for prompt in prompts])
        return np.log(0.9 * found).astype(np.float32), Usage(prompts=len(prompts))

    def _generate(self, prompts, sampling, seeds):
        self.refused = self.refused or prompts[0]
        replies = [
            REFUSED if prompt == self.refused else f" a, b\nEXPLANATION: text number {seed % 97}"
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        return [Generation(reply, (1,), True) for reply in replies], Usage(prompts=len(prompts))

    def close(self) -> None: ...


class World(NamedTuple):
    """A finished run and what made it."""

    raw: dict
    run: Run
    llm: FakeLLM
    sites: dict[str, SiteStages]

    def again(self, folder: Path | None = None, **changed) -> Run:
        """The run opened anew, with other parameters by dotted name."""
        raw = json.loads(json.dumps(self.raw))
        for name, value in changed.items():
            *path, last = name.split("__")
            inner = raw
            for part in path:
                inner = inner.setdefault(part, {})
            inner[last] = value
        return Run(parse(raw), folder or self.run.folder)


def tiny_site(folder: Path, **changed) -> SiteStages:
    """The MLP site of a run in a folder, made by the first process that asks; the LLM is fake."""
    file, llm = folder / "params.json", FakeLLM(tokenizer_with_chat(tiny_tokenizer()))
    if not file.exists():
        write_tiny_model(folder / "model", "llama")
        file.write_text(json.dumps(tiny_params(folder)))
    patch.object(opening, "engine", lambda _: llm).start()
    raw = json.loads(file.read_text())
    run = World(raw, Run(parse(raw), folder / "run"), llm, {}).again(**changed)
    return SiteStages(run, "mlp")


def write_text(folder: Path) -> str:
    """A folder as data sets are read from: 150 documents of random words."""
    generator = np.random.default_rng(0)
    words = ["the", "thin", "man", "in", "a", "red", "hat,", "sat", "rain;", "7", "figs", "then"]
    lines = [" ".join(generator.choice(words, 60)) for _ in range(150)]
    folder.mkdir()
    rows = [json.dumps({"text": f"{number} {line}"}) for number, line in enumerate(lines)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    return str(folder)


def tiny_params(folder: Path) -> dict:
    """Parameters of a run on ``folder``/model: an MLP and a residual site."""
    tokenizer_with_chat(tiny_tokenizer()).save_pretrained(folder / "model")
    corpus = {"sources": [write_text(folder / "text")], "row_tokens": 40, "max_rows": 20}
    corpus["draw"] = "seed"  # what is asserted of chances in the tests was seen on this draw
    shares = {"train": 0.4, "explain": 0.2, "score": 0.2, "calibrate": 0.1, "evaluate": 0.1}
    return {
        "name": "tiny",
        "figures": str(folder / "figures"),
        "subject": {"model": str(folder / "model"), "collect_dtype": "", "device": "cpu"},
        "corpus": corpus | shares,
        "sites": {name: SITE | {"hookpoint": place} for name, place in SITES.items()},
        "explain": {"windows": 4, "window_tokens": 8, "min_firings": 5},
        "score": {"activating": 3, "random": 4, "window_tokens": 8, "per_prompt": 3},
        "simulate": {"window_tokens": 8, "first_position": 10, "align": 4},
        "rewrite": {"fractions": [0.1, 0.5, 1.0], "bootstrap": 100},
    }


def tokenizer_with_chat(tokenizer):
    tokenizer.eos_token, tokenizer.chat_template = "<bos>", TEMPLATE
    return tokenizer


def finish(sites: dict[str, SiteStages]) -> None:
    """Ask for the first and the last result; all that lies between is made on the way."""
    for site in sites.values():
        assert len(site.quality) and len(site.losses)


def used(run: Run, since: int) -> dict[str, set[bool]]:
    """By stage: whether it was made in the events from ``since`` on."""
    found: dict[str, set[bool]] = {}
    for event in run.journal[since:]:
        found.setdefault(event["stage"], set()).add(event["made"])
    return found


def made(run: Run, since: int) -> set[str]:
    return {stage for stage, was in used(run, since).items() if True in was}

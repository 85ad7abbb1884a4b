"""Seconds a prediction: each layout, engine and mode, against the original order and delphi.

`python benchmarks/simulation.py [--delphi /path/to/its/python]`, 8–12 minutes on 2 cores with the
1.5B model. (a) the original order: one prompt a pair, windows outside, sentences inside, nothing
kept between prompts. (b) eai-delphi's simulator (all positions, one prompt a window) in its own
environment. (c) the matrix products of the tokens that must be computed, at the speed of one large
product measured here. Same model, same pairs. Ends with where the time goes.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoTokenizer

from rewrite_utils.assets import documents, model_folder
from rewrite_utils.assets.shapes import shape
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.opening import open_engine
from rewrite_utils.llm.protocol import Prompt
from rewrite_utils.llm.tokens import digit_tokens
from rewrite_utils.llm.vllm import child_environment
from rewrite_utils.params import LLM, Simulate
from rewrite_utils.simulate import Layout, Window, expected_rating, open_simulator

TEXT, SUBJECT = "embedded/wikipedia", "embedded/smollm2-135m-instruct"
LENGTH = 32
LAYOUTS = ("window_first", "explanation_first", "original")
SENTENCES = [
    "conjunctions that join two things (and, or, but)",
    "words for bodies of water (sea, lake, river)",
    "years and other numbers (1998, 2004, 12)",
    "forms of the verb to be (is, was, are)",
    "full stops at the end of a sentence (.)",
    "articles before nouns (the, a, an)",
    "prepositions of place (in, at, on)",
    "names of countries (France, Japan)",
    "adjectives about size (large, small)",
    "words about music (album, song)",
    "verbs of motion (went, moved)",
    "commas between clauses (,)",
    "words for relatives (mother, son)",
    'beginnings of quotations (")',
    "scientific terms (cell, atom)",
    "relative pronouns (which, who)",
]


class Timed(NamedTuple):
    """One way, timed."""

    way: str
    predictions: int
    seconds: float
    computed: int
    ratings: np.ndarray

    @property
    def rate(self) -> float:
        return self.predictions / self.seconds


def windows_of(count: int, *, skip: int = 0) -> list[Window]:
    """Windows of the subject's tokens, one a document."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder(SUBJECT))
    found = []
    for text in documents(TEXT)[skip : skip + count]:
        ids = tokenizer.encode(text, add_special_tokens=False)[8 : 8 + LENGTH]
        found.append(Window.of([tokenizer.decode([token]) for token in ids]))
    return found


def timed(engine: Engine, asked: Simulate, pairs: Sequence[Any], way: str) -> Timed:
    """Rate the pairs in the way's own order, after a warm-up on other windows."""
    simulator = open_simulator(asked, engine)
    simulator.rate([(window, SENTENCES[0]) for window in windows_of(2, skip=500)])
    ordered = sorted(pairs, key=lambda pair: pair[1]) if simulator.latents_outside else pairs
    before, start = engine.usage, time.perf_counter()
    found = simulator.rate(ordered)
    seconds = time.perf_counter() - start
    used = engine.usage.since(before)
    ratings = dict(zip(ordered, found["expected"].astype(float), strict=True))
    count = found["everywhere"].size if asked.mode == "all" else len(pairs)
    computed = used.prompt_tokens - used.cached_tokens
    return Timed(way, count, seconds, computed, np.array([ratings[pair] for pair in pairs]))


def naive(engine: Engine, pairs: Sequence[Any], order: Any) -> Timed:
    """(a): every prompt whole and alone, nothing kept from the one before."""
    layout, digits = Layout(engine.tokenizer, align=1, order=order), digit_tokens(engine.tokenizer)
    found, start, before = [], time.perf_counter(), engine.usage
    for window, sentence in pairs:
        parts = layout.prompt(window, sentence)
        choice = engine.choices([Prompt((), parts.shared + parts.own)], options=digits)
        found.append(expected_rating(choice.probabilities[0, 0]))
    seconds, used = time.perf_counter() - start, engine.usage.since(before)
    way = f"(a) pair by pair, text of {order}"
    return Timed(way, len(pairs), seconds, used.prompt_tokens, np.array(found))


def product_rate(d_model: int, d_mlp: int, dtype: torch.dtype) -> float:
    """FLOP/s of the model's largest product over 1,024 tokens."""
    a, b = torch.randn(1024, d_model).to(dtype), torch.randn(d_mlp, d_model).to(dtype)
    torch.nn.functional.linear(a, b)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < 2:
        torch.nn.functional.linear(a, b)
        done += 1
    return 2 * 1024 * d_model * d_mlp * done / (time.perf_counter() - start)


def where_time_goes(engine: Engine, pairs: Sequence[Any]) -> list[tuple[str, float]]:
    """Share of the CPU time of each operation, transformers engine, default layout."""
    simulator = open_simulator(Simulate(), engine)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        simulator.rate(pairs)
    events = recorded.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    shares = [(event.key, event.self_cpu_time_total / total) for event in events]
    return sorted(shares, key=lambda share: -share[1])[:8]


def run_engine(kind: str, asked: argparse.Namespace, pairs: Sequence[Any]) -> list[Timed]:
    """Every layout, and on transformers all positions and the original order."""
    done = []
    with open_engine(LLM(model=asked.model, engine=kind, dtype=asked.dtype)) as engine:
        for layout in LAYOUTS:
            done.append(timed(engine, Simulate(layout=layout), pairs, f"{kind}, {layout}"))
            say(done[-1])
        if kind == "transformers":
            done.append(timed(engine, Simulate(mode="all"), pairs, f"{kind}, all positions"))
            say(done[-1])
            for order in LAYOUTS[:2]:
                done.append(naive(engine, pairs[: asked.naive], order))
                say(done[-1])
            for name, share in where_time_goes(engine, pairs):
                print(f"  {share:6.1%} of the CPU time: {name}")
    return done


def delphi(asked: argparse.Namespace, windows: Sequence[Window]) -> dict[str, float] | None:
    """(b), in its own environment; its output is one line of JSON."""
    script = Path(__file__).with_name("simulation_delphi.py")
    folder = model_folder(asked.model)
    work = {"model": folder, "dtype": asked.dtype, "sentences": SENTENCES[: asked.sentences]}
    work |= {"windows": [window.pieces for window in windows], "prompts": asked.delphi_prompts}
    environment = child_environment(folder, threads=None, cuda=torch.cuda.is_available())
    done = subprocess.run(
        [asked.delphi, str(script)],
        input=json.dumps(work),
        capture_output=True,
        text=True,
        env=environment | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if "site-pack" in p)},
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        print(f"(b) eai-delphi did not run:\n{done.stderr[-1500:]}")
        return None
    return json.loads(lines[-1])


def say(one: Timed) -> None:
    per = one.computed / one.predictions
    print(
        f"{one.way:44} {one.predictions:6,} predictions {one.rate:7.2f}/s  "
        f"{per:6.1f} tokens each  {one.computed / one.seconds:6.0f} tokens/s",
        flush=True,
    )


def summary(done: list[Timed], ceiling: float) -> None:
    """Against (a) and (c), with the targets, and the answers compared; what was not run is left
    out."""
    by = {one.way: one for one in done}
    base = by.get("(a) pair by pair, text of explanation_first")
    print(f"\n(c) ceiling {ceiling:.0f} tokens/s of this model's products\n")
    print(f"{'way':44} {'× (a)':>8} {'of ceiling':>11}")
    for one in done:
        times = f"{one.rate / base.rate:8.1f}" if base else f"{'':8}"
        print(f"{one.way:44} {times} {one.computed / one.seconds / ceiling:11.0%}")
    last = {way: by[way].rate for way in by if way.endswith(LAYOUTS) and way[0] != "("}
    best = max(last, key=lambda way: last[way])
    if base:
        print(f"\nlast token, {best}: {last[best] / base.rate:.1f} × (a), 8 was the aim")
    for way in ("transformers, all positions", "(b) eai-delphi"):
        for other in (best, "transformers, window_first"):
            if way in by and other in last:
                print(f"{way}: {by[way].rate / last[other]:.1f} × {other}")
    answers(by)


def answers(by: Mapping[str, Timed]) -> None:
    """How far the expected ratings of the same pairs lie apart; between two engines on the same
    prompts it is the error of the precision itself."""
    pairs = [(f"{kind}, {order}", f"(a) pair by pair, text of {order}")
             for order in LAYOUTS[:2] for kind in ("transformers", "vllm")]  # fmt: skip
    pairs += [(f"vllm, {order}", f"transformers, {order}") for order in LAYOUTS]
    for one, other in pairs:
        if one in by and other in by:
            n = min(len(by[one].ratings), len(by[other].ratings))
            apart = np.abs(by[one].ratings[:n] - by[other].ratings[:n])
            print(
                f"answers, {one} against {other}: |ΔE| mean {apart.mean():.3f}, "
                f"max {apart.max():.3f} of 9 (n = {n} pairs)"
            )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded/qwen2.5-coder-1.5b-instruct")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--sentences", type=int, default=16)
    parser.add_argument("--naive", type=int, default=8, help="pairs of (a)")
    parser.add_argument("--engines", default="vllm,transformers")
    parser.add_argument("--delphi", default="", help="python of an environment with eai-delphi")
    parser.add_argument("--delphi-prompts", type=int, default=6)
    asked = parser.parse_args(arguments)
    windows = windows_of(asked.windows)
    pairs = [(window, text) for window in windows for text in SENTENCES[: asked.sentences]]
    size = shape(asked.model)
    rate = product_rate(size.d_model, size.d_mlp, getattr(torch, asked.dtype))
    ceiling = rate / size.flops()
    print(
        f"{asked.model}, {asked.dtype}, {torch.get_num_threads()} threads; {asked.windows} windows "
        f"of {LENGTH} tokens × {asked.sentences} sentences; products {rate / 1e9:.0f} GFLOP/s\n"
    )
    done = [one for kind in asked.engines.split(",") for one in run_engine(kind, asked, pairs)]
    found = delphi(asked, windows) if asked.delphi else None
    if found:
        count, tokens = int(found["predictions"]), int(found["tokens"])
        done.append(Timed("(b) eai-delphi", count, found["seconds"], tokens, np.empty(0)))
        say(done[-1])
    summary(done, ceiling)


if __name__ == "__main__":
    main()

"""The paper's size on two cores: 10,000 windows × 32,768 descriptions, end to end, by readers.

`python benchmarks/readers.py [--latents N] [--windows N] [--model NAME]`: synthetic descriptions
of real words (16 each, with strengths), real text, the features of single tokens, the regression
fitted on other latents, curves for all. Prints predictions a second, peak memory, and the ratio to
the pair-by-pair simulator: measured in the same run with ``--model`` (an LLM for the transformers
engine), else against the rate in EXPERIMENTS.md, and it says so. Aim: 10 minutes, 4 GB.
"""

import argparse
import resource
import time

import numpy as np
from scipy.sparse import csr_array
from transformers import AutoTokenizer

from rewrite_utils.assets import documents, model_folder
from rewrite_utils.explain.described import Description, parse
from rewrite_utils.latents.words import STRENGTHS, Word
from rewrite_utils.llm.opening import open_engine
from rewrite_utils.llm.protocol import BLOCK
from rewrite_utils.llm.tokens import digit_tokens
from rewrite_utils.params import LLM
from rewrite_utils.simulate.prompt import Layout, Window
from rewrite_utils.simulate.readers.features import Lexical, Likeness, Plain
from rewrite_utils.simulate.readers.reader import Calibrated, Reader
from rewrite_utils.simulate.readers.spaces import sentence_space
from rewrite_utils.simulate.readers.text import Text
from rewrite_utils.subject.pieces import spelled

TEXT, TOKENIZER = "embedded/wikipedia", "embedded/smollm2-135m-instruct"
WORDS, FITTED, WIDTH = 16, 256, 128
PAIR_BY_PAIR = 4.8
"""Predictions a second of Qwen2.5-Coder-1.5B under vLLM on 2 quiet cores (EXPERIMENTS.md)."""
PAIRS = 8
"""Pairs that are rated where a model is named."""


def read_rows(windows: int) -> tuple[Text, Text]:
    """Rows to fit on, and one window a row to read: its last token is what is predicted."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder(TOKENIZER))
    ids = np.array(tokenizer("\n".join(documents(TEXT)[:4000]), verbose=False)["input_ids"])
    generator = np.random.default_rng(0)
    fit = ids[: 80 * (WIDTH - 1)].reshape(80, -1)
    last = ids[generator.integers(len(fit.ravel()), len(ids), windows)][:, None]
    both = [np.pad(rows, ((0, 0), (1, 0))) for rows in (fit, last)]
    return tuple(Text.of(rows, lambda kinds: spelled(tokenizer, kinds.tolist())) for rows in both)


def described(text: Text, latents: int, generator: np.random.Generator) -> list[str]:
    """Sixteen words of the text a latent, the common ones as likely as they are."""
    chance = np.sqrt(text.counts) / np.sqrt(text.counts).sum()
    drawn = generator.choice(len(text.kinds), (latents, WORDS), p=chance)
    graded = [STRENGTHS[number % 3] for number in range(WORDS)]
    words = [[Word(text.kinds[k], s) for k, s in zip(row, graded, strict=True)] for row in drawn]
    return [Description("", tuple(dict.fromkeys(one)), 60).text("c") for one in words]


def pretended(text: Text, descriptions: list[str], generator: np.random.Generator) -> csr_array:
    """Activations that go with the listed words, with noise: what the regression is fitted to."""
    table = np.zeros((len(text.kinds), len(descriptions)), np.float32)
    kind = {name: number for number, name in enumerate(text.kinds)}
    for latent, one in enumerate(descriptions):
        for word in parse(one).words:
            table[kind[word.text], latent] = 3 - STRENGTHS.index(word.strength)
    acts = table[text.rows.ravel()]
    return csr_array(acts * generator.gamma(4, 0.25, acts.shape))


def pair_by_pair(model: str, text: Text, descriptions: list[str]) -> float:
    """Predictions a second of the paper's way, measured on a few (description, window) pairs."""
    with open_engine(LLM(model=model, engine="transformers")) as engine:
        layout = Layout(engine.tokenizer, align=BLOCK)
        window = Window.of(text.pieces(0)[:32])
        prompts = [layout.prompt(window, one) for one in descriptions[: PAIRS + 1]]
        options = digit_tokens(engine.tokenizer)
        engine.choices(prompts[:1], options=options)
        start = time.perf_counter()
        engine.choices(prompts[1:], options=options)
        return PAIRS / (time.perf_counter() - start)


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--latents", type=int, default=32_768)
    asked.add_argument("--windows", type=int, default=10_000)
    asked.add_argument("--model", default="")
    given = asked.parse_args()
    generator = np.random.default_rng(0)
    fit, windows = read_rows(given.windows)
    others = described(fit, FITTED, generator)
    told = described(fit, given.latents, generator)
    true = pretended(fit, others, generator)
    clock, times, busy = time.perf_counter(), {}, time.process_time()

    def lap(name: str) -> None:
        nonlocal clock
        times[name], clock = time.perf_counter() - clock, time.perf_counter()

    features = (
        Lexical(),
        Likeness(sentence_space()),
        Plain(dict(zip(fit.kinds, fit.counts.tolist(), strict=True))),
    )
    fitted = Reader(features, trees=40, leaves=15).fit(others, fit, true, np.arange(FITTED))
    lap("fit the regression on other latents")
    reader = Calibrated.fit(fitted, others, fit, true)
    shape = given.latents, len(reader.curves.x)
    curves = reader.curves._replace(y=np.resize(reader.curves.y, shape))
    lap("calibrate")
    total = count = 0.0
    for block in Calibrated(fitted, curves).read(told, windows):
        tokens = windows.counts[block.places.kinds]
        total += float((block.values.sum(1) * tokens).sum())
        count += float(tokens.sum()) * block.values.shape[1]
    lap("read")
    seconds, busy = sum(times.values()), time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    for name, took in times.items():
        print(f"{name:38} {took:8.1f} s")
    print(f"{count:,.0f} predictions in {seconds:.0f} s: {count / seconds:,.0f} a second")
    print(f"{busy:.0f} CPU seconds: what it takes where no neighbour is busy, on one core")
    print(f"{len(windows.kinds):,} kinds of token; mean activation {total / count:.4f}")
    print(f"peak memory {peak:.2f} GB")
    rate = pair_by_pair(given.model, fit, told) if given.model else PAIR_BY_PAIR
    where = "measured here" if given.model else "not measured here: EXPERIMENTS.md, 2 quiet cores"
    print(f"{count / seconds / rate:,.0f} × the pair-by-pair simulator ({rate:.1f}/s, {where})")


if __name__ == "__main__":
    main()

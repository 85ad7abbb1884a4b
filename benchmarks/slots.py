"""What a line of the all-positions mode should look like: `python benchmarks/slots.py PARAMS SITE`.

On a finished run's sentences and calibrate windows: every form of a line (how token and slot are
divided, what fills the slot) on the same (latent, window, token) triples, with its AUROC a latent,
precision at the firing rate, the probability that all digits have, and tokens computed. About a
minute and a half a form on 2 cores.
"""

import argparse
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rewrite_utils.llm import opening, prompts
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import Prompt
from rewrite_utils.llm.tokens import digit_tokens, text_tokens
from rewrite_utils.runs.run import open_run
from rewrite_utils.score.rates import auroc_value
from rewrite_utils.simulate import Window, expected_rating
from rewrite_utils.simulate.judging import precision_at_rate
from rewrite_utils.simulate.simulators import LINE, NAME
from rewrite_utils.site import SiteStages
from rewrite_utils.stats import bootstrap

TAB = "\t"
"""What divides token and rating in the few-shots of the prompt."""


class Form(NamedTuple):
    """One way to write a line."""

    before: str
    """What stands before each token."""
    between: str
    """What stands between token and slot."""
    filler: str
    """What stands in the slots."""


FORMS = {
    "a line a token, ?": Form("\n", TAB, "?"),
    "a line a token, 0": Form("\n", TAB, "0"),
    "a line a token, empty": Form("\n", TAB, ""),
    "a line a token, no tab, 0": Form("\n", "", "0"),
    "rating on the next line, 0": Form("", "\n", "0"),
    "one line, tab, 0": Form("", TAB, "0"),
    "one line, bar, 0": Form("", "|", "0"),
    "one line, 0": Form("", "", "0"),
}


def prompt_of(engine: Engine, form: Form, sentence: str) -> tuple[int, ...]:
    """The few-shots, written in this form, and the description."""
    tokenizer = engine.tokenizer
    whole = prompts.rendered(tokenizer, NAME).partition(LINE)[0].replace("{pad}", "")
    lines = whole.split("\n")
    written = [
        form.before + line.replace(TAB, form.between) if TAB in line else f"\n{line}"
        for line in lines
    ]
    text = "".join(written).removeprefix("\n") + ("" if form.before else "\n")
    said = prompts.harmless(tokenizer, sentence)
    return text_tokens(tokenizer, prompts.filled(text, explanation=said))


def lines_of(engine: Engine, form: Form, window: Window) -> tuple[tuple[int, ...], list[int]]:
    """The window's tokens, and the index of the one before each slot."""
    tokens: list[int] = []
    at: list[int] = []
    for piece in window.pieces:
        shown = prompts.harmless(engine.tokenizer, piece).replace("\n", "⏎").replace(TAB, " ")
        tokens += text_tokens(engine.tokenizer, form.before + shown + form.between)
        at.append(len(tokens) - 1)
        tokens += text_tokens(engine.tokenizer, form.filler)
    return tuple(tokens[: at[-1] + 1]), at


def measure(name: str, engine: Engine, site: SiteStages, *, latents: int, windows: int) -> None:
    """One row of the table."""
    form, digits = FORMS[name], digit_tokens(engine.tokenizer)
    true = site.true_everywhere("calibrate")
    order = np.argsort(-(true > 0).sum((0, 2)))
    most = order[2 : 2 + 2 * latents : 2]
    active = true[:windows, most] > 0
    lines = [lines_of(engine, form, w) for w in site.telling.windows("calibrate")[:windows]]
    before, start, rated, mass = engine.usage, time.perf_counter(), [], []
    for latent in most:
        shared = prompt_of(engine, form, site.sentences[site.simulated[latent]])
        asked = [Prompt(shared, tokens) for tokens, _ in lines]
        found = engine.choices_inside(asked, at=[at for _, at in lines], options=digits)
        rated.append(expected_rating(found.probabilities))
        mass.append(found.mass)
    expected, seconds = np.stack(rated, axis=1), time.perf_counter() - start
    used = engine.usage.since(before)
    each = [auroc_value(active[:, j].ravel(), expected[:, j].ravel()) for j in range(len(most))]
    auroc = bootstrap(np.array(each)[~np.isnan(each)], unit="latent", seed=0)
    print(
        f"{name:28} {(used.prompt_tokens - used.cached_tokens) / active.size:5.2f} tokens each, "
        f"{active.size / seconds:5.1f}/s  AUROC a latent {auroc}  "
        f"precision {precision_at_rate(active, expected):.3f} (rate {active.mean():.3f})  "
        f"digits {np.median(mass):.4f}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("params_file")
    parser.add_argument("site")
    parser.add_argument(
        "--latents",
        type=int,
        default=12,
        help="every second of those that fire most, but for the first two",
    )
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--forms", nargs="*", default=list(FORMS), choices=list(FORMS))
    asked = parser.parse_args(arguments)
    site = SiteStages(open_run(asked.params_file), asked.site)
    llm = site.params.simulator.model_copy(update={"engine": "transformers"})
    engine = opening.engine(llm)
    print(f"{asked.site}: {asked.latents} latents × {asked.windows} windows × 32 tokens\n")
    for name in asked.forms:
        measure(name, engine, site, latents=asked.latents, windows=asked.windows)


if __name__ == "__main__":
    main()

"""What a simulator is, the two that ask an LLM, and which one the parameters ask for.

In: (window, description) pairs. Out: arrays by name, one row a pair: at least E. `LastToken` rates
a window's last token (paper §5). `EveryToken` rates all of them in one pass (beyond the paper): the
description is shared; then one line a token, the token and its slot. The slot holds a filler, so
every rating is read before anything is answered. The filler is the commonest answer, 0: behind
anything else the digits that are read have no probability to speak of.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.llm import prompts
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import Prompt, Usage
from rewrite_utils.llm.tokens import padded, text_tokens
from rewrite_utils.params import LLM, Simulate
from rewrite_utils.simulate.digits import DigitReader
from rewrite_utils.simulate.prompt import FILES, ExplanationError, Layout, Window
from rewrite_utils.simulate.ratings import EVERYWHERE, Ratings, expected_rating

NAME = "simulate_everywhere"
LINE = "\n{token}"
"""Where that prompt's pattern of a line begins: the token, its slot, and the filler in it."""
Pair = tuple[Window, str]
"""What is rated: a window and a description."""


@runtime_checkable
class Simulator(Protocol):
    """Rates (window, description) pairs; a trained one that gives one number a token plugs in here.

    One that asks an LLM also says its ``label``, what computes, and its ``model``.
    """

    @property
    def latents_outside(self) -> bool:
        """True where pairs with one description should come together, not those with one
        window."""
        ...

    @property
    def workers(self) -> int:
        """Calls of ``rate`` that it can answer at a time, each from its own thread."""
        ...

    @property
    def usage(self) -> Usage:
        """What was done since it was opened."""
        ...

    def check(self, windows: Sequence[Window], descriptions: Mapping[int, str]) -> None:
        """Raise ExplanationError, naming the latent, at a description that cannot be asked."""
        ...

    def rate(self, pairs: Sequence[Pair]) -> Mapping[str, ndarray]:
        """``expected`` [pair], float16, 0 … 9, at each window's last token; ``digits``
        [pair digit] and ``mass`` [pair] from one that has them; ``everywhere`` [pair token] from
        one that rates all tokens."""
        ...


class OnEngine:
    """What simulators that ask an LLM have in common."""

    def __init__(self, engine: Engine, digits: DigitReader) -> None:
        self._engine = engine
        self._digits = digits
        self.workers, self.label = engine.workers, engine.label
        self.model = str(engine.tokenizer.name_or_path)

    @property
    def usage(self) -> Usage:
        """Its engine's."""
        return self._engine.usage

    def _require_room(self, tokens: int, latent: int) -> None:
        if tokens > self._engine.context:
            raise ExplanationError(
                f"the explanation of latent {latent} makes a prompt of {tokens} tokens, more than "
                f"the simulator's context of {self._engine.context}: shorten it or raise "
                "simulator.context"
            )


class LastToken(OnEngine):
    """The paper's: one prompt a pair, one forced answer position behind it."""

    def __init__(self, engine: Engine, layout: Layout, digits: DigitReader) -> None:
        super().__init__(engine, digits)
        self._layout = layout
        self.latents_outside = layout.latents_outside

    def check(self, windows: Sequence[Window], descriptions: Mapping[int, str]) -> None:
        """Measured on the window of most tokens."""
        longest = max(windows, key=lambda window: self._length(window, ""))
        for latent, text in descriptions.items():
            self._require_room(self._length(longest, text) + 1, latent)

    def _length(self, window: Window, text: str) -> int:
        return sum(map(len, self._layout.prompt(window, text)))

    def rate(self, pairs: Sequence[Pair]) -> Mapping[str, ndarray]:
        """One forward pass a pair; what pairs share is computed once."""
        asked = [self._layout.prompt(*pair) for pair in pairs]
        choices = self._engine.choices(asked, options=self._digits.options)
        probabilities = self._digits.pooled(choices.probabilities[:, 0])
        return _rated(expected_rating(probabilities), probabilities, choices.mass[:, 0])


class Slotted(NamedTuple):
    """A window as one line a token."""

    tokens: tuple[int, ...]
    """The lines."""
    at: tuple[int, ...]
    """Index of the token before each slot: what follows it is the rating."""


class EveryToken(OnEngine):
    """Rates every token of a window in one pass; needs an engine that reads inside a prompt."""

    latents_outside = True

    def __init__(self, engine: Engine, *, align: int, digits: DigitReader) -> None:
        """``align``: the description is filled up to a multiple of so many tokens."""
        super().__init__(engine, digits)
        self._align = align
        self._head, _, after = prompts.rendered(engine.tokenizer, NAME).partition("{pad}")
        self._after, _, slot = after.partition(LINE)
        self._slot, self._filler = slot[:-1], slot[-1]
        self._shared = functools.lru_cache(4096)(self._description)
        self._slotted = functools.lru_cache(4096)(self._lines)

    def check(self, windows: Sequence[Window], descriptions: Mapping[int, str]) -> None:
        """Measured on the longest window."""
        longest = max(len(self._slotted(window).tokens) for window in windows)
        for latent, text in descriptions.items():
            self._require_room(len(self._shared(text)) + longest, latent)

    def rate(self, pairs: Sequence[Pair]) -> Mapping[str, ndarray]:
        """One pass a pair. ``everywhere`` ends with each window's last token; before the first one
        of a window that is shorter than others stands NaN."""
        lines = [self._slotted(window) for window, _ in pairs]
        shared = [self._shared(text) for _, text in pairs]
        asked = [Prompt(said, line.tokens) for said, line in zip(shared, lines, strict=True)]
        # As many places a prompt: the first once more for each token that a window lacks.
        lacking = np.array([max(len(one.at) for one in lines) - len(line.at) for line in lines])
        at = [line.at[:1] * n + line.at for line, n in zip(lines, lacking.tolist(), strict=True)]
        choices = self._engine.choices_inside(asked, at=at, options=self._digits.options)
        probabilities = self._digits.pooled(choices.probabilities)
        expected = expected_rating(probabilities)
        last = _rated(expected[:, -1], probabilities[:, -1], choices.mass[:, -1])
        there = np.arange(expected.shape[1]) >= lacking[:, None]
        return last | {EVERYWHERE: np.where(there, expected, np.nan).astype(np.float16)}

    def _description(self, text: str) -> tuple[int, ...]:
        """The few-shots, the filling, the description: all that windows share."""
        said = prompts.harmless(self._engine.tokenizer, text)
        texts = self._head, prompts.filled(self._after, explanation=said), "\n"
        head, tail, filler = (text_tokens(self._engine.tokenizer, part) for part in texts)
        return padded(head, tail, filler=filler, multiple=self._align)

    def _lines(self, window: Window) -> Slotted:
        """Each token as the few-shots write it, with a filler in its slot."""
        tokens: list[int] = []
        at: list[int] = []
        for piece in window.pieces:
            shown = prompts.harmless(self._engine.tokenizer, piece)
            shown = shown.replace("\n", "⏎").replace("\t", " ")
            tokens += text_tokens(self._engine.tokenizer, f"\n{shown}{self._slot}")
            at.append(len(tokens) - 1)
            tokens += text_tokens(self._engine.tokenizer, self._filler)
        return Slotted(tuple(tokens[:-1]), tuple(at))


def _rated(
    expected: Float[ndarray, " pair"],
    digits: Float[ndarray, "pair digit"],
    mass: Float[ndarray, " pair"],
) -> dict[str, ndarray]:
    found = {"expected": expected, "digits": digits, "mass": mass}
    return {name: values.astype(np.float16) for name, values in found.items()}


def rate_all(
    simulator: Simulator, windows: Sequence[Window], descriptions: Sequence[str]
) -> Ratings:
    """Every (window, description) pair at once, in memory."""
    found = simulator.rate([(window, text) for window in windows for text in descriptions])
    shape = len(windows), len(descriptions)
    return Ratings.of({name: one.reshape(*shape, *one.shape[1:]) for name, one in found.items()})


def wording(asked: Simulate) -> str:
    """The prompt file that these parameters use."""
    return NAME if asked.mode == "all" else FILES[asked.layout]


def reading(asked: Simulate, llm: LLM) -> LLM:
    """The LLM with an engine that reads inside a prompt, where the mode asks for that."""
    if asked.mode != "all":
        return llm
    place = "worker_engine" if llm.engine == "ray" else "engine"
    return llm.model_copy(update={place: "transformers"})


def open_simulator(asked: Simulate, engine: Engine) -> Simulator:
    """The simulator that the parameters ask for, on this engine.

    Raises ValueError where the tokenizer does not write digits as single tokens.
    """
    digits = DigitReader.of(engine.tokenizer, asked.digits)
    if asked.mode == "all":
        return EveryToken(engine, align=asked.align, digits=digits)
    layout = Layout(engine.tokenizer, align=asked.align, order=asked.layout)
    return LastToken(engine, layout, digits)

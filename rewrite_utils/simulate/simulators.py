"""What a simulator is, the one that rates last tokens, and which one the parameters ask for.

In: (window, description) pairs. Out: arrays by name, one row a pair: at least E. A trained
simulator that gives one number a token plugs in here.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy import ndarray

from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import Usage
from rewrite_utils.params import LLM, Simulate
from rewrite_utils.simulate.digits import DigitReader
from rewrite_utils.simulate.everywhere import NAME, EveryToken
from rewrite_utils.simulate.on_engine import OnEngine, require_room
from rewrite_utils.simulate.prompt import FILES, Layout, Window
from rewrite_utils.simulate.ratings import Ratings, expected_rating

Pair = tuple[Window, str]
"""What is rated: a window and a description."""


@runtime_checkable
class Simulator(Protocol):
    """Rates (window, description) pairs."""

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


class LastToken(OnEngine):
    """The paper's: one prompt a pair, one forced answer position behind it."""

    def __init__(self, engine: Engine, layout: Layout, digits: DigitReader) -> None:
        super().__init__(engine)
        self._layout = layout
        self._digits = digits

    @property
    def latents_outside(self) -> bool:
        """As its layout."""
        return self._layout.latents_outside

    def check(self, windows: Sequence[Window], descriptions: Mapping[int, str]) -> None:
        """Measured on the window of most tokens."""
        longest = max(windows, key=self._tokens)
        for latent, text in descriptions.items():
            prompt = self._layout.prompt(longest, text)
            require_room(len(prompt.shared) + len(prompt.own), 1, self._engine, latent)

    def _tokens(self, window: Window) -> int:
        return sum(map(len, self._layout.prompt(window, "")))

    def rate(self, pairs: Sequence[Pair]) -> Mapping[str, ndarray]:
        """One forward pass a pair; what pairs share is computed once."""
        asked = [self._layout.prompt(*pair) for pair in pairs]
        choices = self._engine.choices(asked, options=self._digits.options)
        probabilities = self._digits.pooled(choices.probabilities[:, 0])
        return {
            "expected": expected_rating(probabilities).astype(np.float16),
            "digits": probabilities.astype(np.float16),
            "mass": choices.mass[:, 0].astype(np.float16),
        }


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

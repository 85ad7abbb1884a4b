"""All positions in one pass: a slot after every token of the window, each read as its rating.

The description comes first and is shared; then one line a token, the token and its slot. The slot
holds a filler, so every rating is read before anything is answered: nothing depends on an earlier
answer. The filler is the commonest answer, 0: behind anything else the digits that are read have
no probability to speak of. About four tokens of compute a prediction. Beyond the paper (method §5).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from rewrite_utils.llm import prompts
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import Prompt
from rewrite_utils.llm.tokens import text_tokens
from rewrite_utils.simulate.digits import DigitReader
from rewrite_utils.simulate.on_engine import OnEngine, require_room
from rewrite_utils.simulate.prompt import Window
from rewrite_utils.simulate.ratings import EVERYWHERE, expected_rating

NAME = "simulate_everywhere"
LINE = "\n{token}"
"""Where the prompt's pattern of a line begins: the token, its slot, and the filler in it."""


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
        super().__init__(engine)
        self._align = align
        self._digits = digits
        self._head, _, after = prompts.rendered(engine.tokenizer, NAME).partition("{pad}")
        self._after, _, slot = after.partition(LINE)
        self._slot, self._filler = slot[:-1], slot[-1]
        self._shared = functools.lru_cache(4096)(self._description)
        self._slotted = functools.lru_cache(4096)(self._lines)

    def check(self, windows: Sequence[Window], descriptions: Mapping[int, str]) -> None:
        """Measured on the longest window."""
        longest = max(len(self._slotted(window).tokens) for window in windows)
        for latent, text in descriptions.items():
            require_room(len(self._shared(text)) + longest, 0, self._engine, latent)

    def rate(self, pairs: Sequence[tuple[Window, str]]) -> Mapping[str, ndarray]:
        """One pass a pair; windows of one call must have the same number of tokens."""
        lines = [self._slotted(window) for window, _ in pairs]
        asked = [
            Prompt(self._shared(text), line.tokens)
            for (_, text), line in zip(pairs, lines, strict=True)
        ]
        at = [line.at for line in lines]
        choices = self._engine.choices_inside(asked, at=at, options=self._digits.options)
        probabilities = self._digits.pooled(choices.probabilities)
        expected = expected_rating(probabilities).astype(np.float16)
        return {
            "expected": expected[:, -1],
            "digits": probabilities[:, -1].astype(np.float16),
            "mass": choices.mass[:, -1].astype(np.float16),
            EVERYWHERE: expected,
        }

    def _description(self, text: str) -> tuple[int, ...]:
        """The few-shots, the filling, the description: all that windows share."""
        head = text_tokens(self._engine.tokenizer, self._head)
        said = prompts.harmless(self._engine.tokenizer, text)
        asked = prompts.filled(self._after, explanation=said)
        tokens = text_tokens(self._engine.tokenizer, asked)
        filler = text_tokens(self._engine.tokenizer, "\n")
        return (*head, *(filler * (-(len(head) + len(tokens)) % self._align)), *tokens)

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

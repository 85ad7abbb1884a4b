"""What a simulator is, the two that ask an LLM, and which one the parameters ask for.

In: (window, description) pairs. Out: arrays by name, one row a pair: at least E. `LastToken` rates
a window's last token (paper §5). `EveryToken` rates all of them in one pass (beyond the paper): the
description is shared; then one line a token, the token and its slot. The slot holds a filler, so
every rating is read before anything is answered. The filler is the commonest answer, 0: behind
anything else the digits that are read have no probability to speak of.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from transformers import PreTrainedTokenizerBase

from rewrite_utils.llm import prompts
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import MOST_OPTIONS, Prompt, Usage
from rewrite_utils.llm.tokens import digit_tokens, padded, text_tokens
from rewrite_utils.params import LLM, Simulate
from rewrite_utils.simulate.prompt import AHEAD, FILES, ExplanationError, Layout, Window
from rewrite_utils.simulate.ratings import EVERYWHERE, expected_rating

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

    latents_outside: bool
    """True where pairs with one description should come together, not those with one window."""
    workers: int
    """Calls of ``rate`` that it can answer at a time, each from its own thread."""

    @property
    def usage(self) -> Usage:
        """What was done since it was opened."""

    def check(self, windows: Sequence[Window], descriptions: Mapping[int, str]) -> None:
        """Raise ExplanationError, naming the latent, at a description that cannot be asked."""

    def rate(self, pairs: Sequence[Pair]) -> Mapping[str, ndarray]:
        """``expected`` [pair], float16, 0 … 9, at each window's last token; ``digits``
        [pair digit] and ``mass`` [pair] from one that has them; ``everywhere`` [pair token] from
        one that rates all tokens."""


class DigitReader:
    """The options that stand for the digits: usually one token each; where a tokenizer writes
    digits in several ways ("7", " 7"), all of them."""

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        """``groups``: the token ids of each digit, 0 first."""
        self.options = [token for group in groups for token in group]
        self._starts = np.cumsum([0] + [len(group) for group in groups[:-1]])

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, reading: Literal["tokens", "strings"] = "tokens"
    ) -> "DigitReader":
        """One token a digit, or (strings) every token whose text is that digit, blanks aside.

        Raises ValueError, naming the tokenizer, if a digit has no token.
        """
        if reading == "strings":
            return cls(digit_strings(tokenizer))
        try:
            return cls([[token] for token in digit_tokens(tokenizer)])
        except ValueError as error:
            raise ValueError(
                f"{error}; or set simulate.digits: strings, which counts every token that reads as "
                "a digit"
            ) from None

    def pooled(
        self, probabilities: Float[ndarray, "*shape option"]
    ) -> Float[ndarray, "*shape digit"]:
        """Probability of each digit: the sum over the tokens that stand for it."""
        return np.add.reduceat(probabilities, self._starts, axis=-1)


def digit_strings(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Every token of the vocabulary that reads as one digit, by digit.

    Raises ValueError if a digit has none, or if they are too many to be asked for.
    """
    groups: dict[str, list[int]] = {digit: [] for digit in "0123456789"}
    for token in sorted(tokenizer.get_vocab().values()):
        text = tokenizer.decode([token]).strip()
        if text in groups:
            groups[text].append(token)
    missing = [digit for digit, tokens in groups.items() if not tokens]
    total = sum(map(len, groups.values()))
    if missing or total > MOST_OPTIONS:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} has {total} tokens that read as digits "
            f"and none for {', '.join(missing) or 'no digit'}; choose another simulator.model"
        )
    return list(groups.values())


class OnEngine:
    """What simulators that ask an LLM have in common."""

    def __init__(self, engine: Engine, digits: DigitReader) -> None:
        self._engine, self._digits = engine, digits
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

    def _rated(
        self, options: Float[ndarray, "pair *answer option"], mass: Float[ndarray, "pair *answer"]
    ) -> dict[str, ndarray]:
        digits = self._digits.pooled(options)
        found = {"expected": expected_rating(digits), "digits": digits, "mass": mass}
        return {name: values.astype(np.float16) for name, values in found.items()}


class LastToken(OnEngine):
    """The paper's: one prompt a pair, one forced answer position behind it."""

    def __init__(self, engine: Engine, layout: Layout, digits: DigitReader) -> None:
        super().__init__(engine, digits)
        self._layout = layout
        self.latents_outside = layout.order == "explanation_first"

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
        return self._rated(choices.probabilities[:, 0], choices.mass[:, 0])


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
        longest = max(len(self._slotted(window)[0]) for window in windows)
        for latent, text in descriptions.items():
            self._require_room(len(self._shared(text)) + longest, latent)

    def rate(self, pairs: Sequence[Pair]) -> Mapping[str, ndarray]:
        """One pass a pair. ``everywhere`` ends with each window's last token; before the first one
        of a window that is shorter than others stands NaN."""
        lines, slots = zip(*(self._slotted(window) for window, _ in pairs), strict=True)
        shared = [self._shared(text) for _, text in pairs]
        # As many places a prompt: the first once more for each token that a window lacks.
        lacking = [max(map(len, slots)) - len(places) for places in slots]
        at = [places[:1] * n + places for places, n in zip(slots, lacking, strict=True)]
        asked = list(map(Prompt, shared, lines))
        choices = self._engine.choices_inside(asked, at=at, options=self._digits.options)
        rated = self._rated(*choices)
        there = np.arange(len(at[0])) >= np.array(lacking)[:, None]
        everywhere = np.where(there, rated["expected"], np.float16(np.nan))
        return {name: values[:, -1] for name, values in rated.items()} | {EVERYWHERE: everywhere}

    def _description(self, text: str) -> tuple[int, ...]:
        """The few-shots, the filling, the description: all that windows share."""
        said = prompts.harmless(self._engine.tokenizer, text)
        texts = self._head, prompts.filled(self._after, explanation=said), "\n"
        head, tail, filler = (text_tokens(self._engine.tokenizer, part) for part in texts)
        return padded(head, tail, filler=filler, multiple=self._align)

    def _lines(self, window: Window) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """One line a token, as the few-shots write it, with a filler in its slot; and the index of
        the token before each slot: what follows it is the rating."""
        tokens: list[int] = []
        at: list[int] = []
        for piece in window.pieces:
            shown = prompts.harmless(self._engine.tokenizer, piece)
            shown = shown.replace("\n", "⏎").replace("\t", " ")
            tokens += text_tokens(self._engine.tokenizer, f"\n{shown}{self._slot}")
            at.append(len(tokens) - 1)
            tokens += text_tokens(self._engine.tokenizer, self._filler)
        return tuple(tokens[:-1]), tuple(at)


def wording(asked: Simulate) -> str:
    """The prompt file that these parameters use."""
    if asked.mode == "all":
        return NAME
    return AHEAD if asked.notes == "ahead" else FILES[asked.layout]


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
    how = {"align": asked.align, "order": asked.layout, "wording": wording(asked)}
    layout = Layout(engine.tokenizer, **how)
    return LastToken(engine, layout, digits)

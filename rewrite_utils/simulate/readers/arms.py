"""The readers by name: which level of the description they are given, and what they compare.

In: "c", "d+context", "c:exact". Out: an `Arm`; its features from what a run has (spaces of words,
an LLM's pass over the texts). A level's own arm has every feature that the level can feed, scores
read beside one another; one feature alone is an arm too.
"""

from collections.abc import Mapping
from typing import NamedTuple

from rewrite_utils.explain.described import LEVELS, Level
from rewrite_utils.simulate.readers.context import Chances, Context, Output, States
from rewrite_utils.simulate.readers.features import (
    English,
    Feature,
    Lexical,
    Likeness,
    OwnWords,
    Plain,
)
from rewrite_utils.simulate.readers.spaces import Space

WORDS = ("exact", "input", "whitened", "minilm")
"""Features that compare a token with listed words; at level a the words of the sentence stand for
a list."""
OF_LEVEL: Mapping[Level, tuple[str, ...]] = {
    "a": (*(f"own {name}" for name in WORDS), "english", "plain"),
    "b": (*WORDS, "english", "plain"),
    "c": (*WORDS, "english", "plain"),
    "d": (*WORDS, "english", "plain", "output"),
}
"""All that is compared at a level."""


class Arm(NamedTuple):
    """One reader."""

    level: Level
    """What of the description it is given."""
    features: tuple[str, ...]
    """What it compares."""
    together: bool
    """Whether scores are read beside one another (`Competing`): where all features are used."""

    @property
    def needs_llm(self) -> bool:
        """Whether an LLM has to pass over the text."""
        return not {"output", "context"}.isdisjoint(self.features)


class Senses(NamedTuple):
    """What features compare with."""

    spaces: Mapping[str, Space]
    """Spaces of words: "input", "whitened", "minilm"."""
    common: Mapping[str, int]
    """How often each kind of token occurs in training text."""
    states: States
    """The LLM's states at every place of a text."""
    chances: Chances
    """Its next-token distribution there."""


def parse_arm(name: str) -> Arm:
    """The arm of a name; ValueError for one that names none."""
    level, colon, alone = name.partition(":")
    level, plus, more = level.partition("+")
    known = {*WORDS, "output", "english", "context"}
    if level in LEVELS and not colon and more in ("", "context"):
        return Arm(level, OF_LEVEL[level] + (("context",) if plus else ()), True)
    if level in LEVELS and not plus and alone in known:
        return Arm(level, (alone,), False)
    raise ValueError(
        f"no reader is called {name!r}: a level (a, b, c, d), one with '+context', or one feature "
        f"alone, as in 'c:exact' ({', '.join(sorted(known))})"
    )


def features(arm: Arm, senses: Senses) -> tuple[Feature, ...]:
    """The arm's features."""
    made: dict[str, Feature] = {
        "exact": Lexical(),
        **{name: Likeness(senses.spaces[name]) for name in WORDS[1:]},
        "english": English(senses.spaces["minilm"]),
        "plain": Plain(senses.common),
        "output": Output(senses.chances),
        "context": Context(senses.states, senses.spaces["minilm"]),
    }
    made |= {f"own {name}": OwnWords(made[name]) for name in WORDS}
    return tuple(made[name] for name in arm.features)

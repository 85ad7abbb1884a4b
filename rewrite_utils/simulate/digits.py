"""Which tokens stand for the ten digits, and how much probability each digit has.

In: a tokenizer. Out: the options an engine reads, and their probabilities pooled by digit. Usually
one token a digit; where a tokenizer writes digits in several ways ("7", " 7"), all of them.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from transformers import PreTrainedTokenizerBase

from rewrite_utils.llm.protocol import MOST_OPTIONS
from rewrite_utils.llm.tokens import digit_tokens

Reading = Literal["tokens", "strings"]


class DigitReader:
    """The options that stand for the digits."""

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        """``groups``: the token ids of each digit, 0 first."""
        self.options = [token for group in groups for token in group]
        self._starts = np.cumsum([0] + [len(group) for group in groups[:-1]])

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, reading: Reading = "tokens") -> "DigitReader":
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

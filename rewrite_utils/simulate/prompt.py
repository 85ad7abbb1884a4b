"""What the simulator reads: a window with its last token marked, a description, and their order.

In: token texts and a sentence. Out: the two parts of a prompt, the one that many pairs share and
the pair's own. The wording is in ``prompts/simulate*.txt``. Paper §5.
"""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from rewrite_utils.explain.asking import ExplanationError
from rewrite_utils.llm import prompts
from rewrite_utils.llm.protocol import Prompt
from rewrite_utils.llm.tokens import padded, text_tokens

Order = Literal["window_first", "explanation_first", "original"]
FILES: dict[str, str] = {
    "window_first": "simulate",
    "explanation_first": "simulate_explanation_first",
    "original": "simulate_original",
}
"""The prompt of each order."""
AHEAD = "simulate_ahead"
"""The prompt, window first, whose few-shots show notes ahead of the sentence."""
RATES = ((1 / 300, "very few"), (1 / 50, "few"), (1.0, "many"))
"""Firing rates up to so many, in words."""
SCORES = ((0.4, "hardly tells"), (0.7, "tells roughly"), (1.0, "tells well"))
"""F1 of detection up to so many, in words."""
CUTS = {"window_first": "\nDescription:", "explanation_first": "\nText:", "original": "{pad}"}
"""Behind this text the pair's own part begins."""


def described(
    sentence: str,
    *,
    rate: float | None = None,
    score: float | None = None,
    contrast: Sequence[str] = (),
    ahead: bool = False,
    latent: int,
) -> str:
    """The description in the prompt: the sentence, and if asked for the firing rate, the score and
    tokens that it does not respond to, in numbers behind it or in words ahead of it.

    Raises ExplanationError: the sentence is missing or empty.
    """
    if not isinstance(sentence, str) or not sentence.strip():
        raise ExplanationError(
            f"latent {latent} has no explanation ({sentence!r}): leave it out or explain it again"
        )
    if ahead:
        notes = "; ".join(_in_words(rate, score, contrast))
        return prompts.sentence(f"[{notes}] {sentence.strip()}" if notes else sentence)
    notes = _in_numbers(rate, score, contrast)
    return prompts.sentence("; ".join([sentence.strip(), *notes]))


def _in_numbers(rate: float | None, score: float | None, contrast: Sequence[str]) -> list[str]:
    notes = [f"not {', '.join(contrast)}"] if contrast else []
    if rate is not None:
        notes.append(f"responds to 1 in {max(1, round(1 / max(rate, 1e-9))):,} tokens")
    if score is not None:
        notes.append(f"score {score:.2f}")
    return notes


def _in_words(rate: float | None, score: float | None, contrast: Sequence[str]) -> list[str]:
    notes = []
    if rate is not None:
        notes.append(f"fits {next(word for most, word in RATES if rate <= most)} tokens")
    if score is not None:
        how = next(word for most, word in SCORES if score <= most)
        notes.append(f"{how} which tokens are meant")
    return notes + ([f"does not mean {', '.join(contrast)}"] if contrast else [])


class Window(NamedTuple):
    """A window as the simulator reads it."""

    pieces: tuple[str, ...]
    """The text of each token, without marks of a prompt; the rated one last."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Window":
        """From the exact texts of the window's tokens."""
        return cls(tuple(map(prompts.quotable, texts)))

    @property
    def text(self) -> str:
        """The tokens' text, the last one, and nothing else, between « and »."""
        *before, last = self.pieces
        return prompts.unstructured("".join(before) + f"«{last}»")

    @property
    def token(self) -> str:
        """The last token once more, alone: a small simulator finds it far better so."""
        return self.pieces[-1].strip() or repr(self.pieces[-1])


class Layout:
    """One order of a prompt's parts; what comes first is shared, so it is computed once.

    window_first: the window is shared by all sentences. explanation_first: the sentence by all
    windows. original: sentence, then window, and all but the few-shots anew for every pair.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        align: int,
        order: Order = "window_first",
        wording: str = "",
    ) -> None:
        """``align``: the shared part is filled with newlines to a multiple of so many tokens.
        ``wording``: another prompt of that order."""
        self.order, self._tokenizer, self._align = order, tokenizer, align
        whole = prompts.rendered(tokenizer, wording or FILES[order])
        cut = whole.index(CUTS[order], whole.index("{pad}")) + len(CUTS[order])
        head, _, self._shared = whole[:cut].partition("{pad}")
        self._own = whole[cut:]
        self._encode = functools.lru_cache(4096)(functools.partial(text_tokens, tokenizer))
        self._head, self._filler = self._encode(head), self._encode("\n")

    def prompt(self, window: Window, description: str) -> Prompt:
        """The two parts for one pair: the shared one follows from one of the two alone (or,
        original, from neither), the own one ends with the forced beginning of the answer."""
        shown, token, said = (
            prompts.harmless(self._tokenizer, part)
            for part in (window.text, window.token, description)
        )
        shared, own = (
            self._encode(prompts.filled(text, window=shown, token=token, explanation=said))
            for text in (self._shared, self._own)
        )
        return Prompt(padded(self._head, shared, filler=self._filler, multiple=self._align), own)

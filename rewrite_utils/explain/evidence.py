"""What the explainer is shown about a latent: strongest tokens, windows, counterexamples, logits.

In: a LatentCache of the explain rows. Out: the text that stands in the prompt, and which windows it
came from. Paper §3 (windows of all rank deciles, delimited tokens, strengths 0–10); counterexamples
and logits are beyond it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.explain.contrast import Contrast, Counterexamples
from rewrite_utils.explain.logits import Promoted
from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.controls import strongest_tokens
from rewrite_utils.latents.windows import (
    by_deciles,
    firing_windows,
    some,
    window_tokens,
    window_values,
)
from rewrite_utils.llm import prompts
from rewrite_utils.params import Explain

Activations = Float[ndarray, " pos"] | Sequence[float]
NO_WINDOWS = Windows(np.zeros(0, np.int64), np.zeros(0, np.int64))
NONE = Counterexamples(NO_WINDOWS, np.zeros(0, np.int64))


class Question(NamedTuple):
    """What the explainer is asked about one latent."""

    tokens: str
    """Its strongest tokens."""
    text: str
    """Everything it is shown."""


class Chosen(NamedTuple):
    """The windows shown about one latent."""

    firing: Windows
    """Those it fires in, strongest first."""
    counter: Counterexamples
    """Those it is silent in; empty without contrast."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the evidence about every latent of a site comes from."""

    cache: LatentCache
    """Activations of the explain rows."""
    settings: Explain
    """How much is shown, and of what kind."""
    texts: Callable[[ndarray], list[str]]
    """Token ids to their texts, as they are quoted."""
    seed: int
    """With the latent's number it decides which windows are drawn."""
    contrast: Contrast | None = None
    """Finds counterexamples; needed where settings.contrast is on."""
    promoted: Callable[[int], Promoted] | None = None
    """What a latent does to the logits; needed where settings.logits is on."""

    def chosen(self, latent: int) -> Chosen:
        """The windows shown; the same ones at every call."""
        generator = np.random.default_rng([self.seed, latent])
        firing = choose_windows(self.cache, latent, self.settings, generator)
        if self.contrast is None:
            return Chosen(firing, NONE)
        count = self.settings.counterexamples
        return Chosen(firing, self.contrast.of(latent, firing, count=count, generator=generator))

    def questions(self, latents: Sequence[int]) -> dict[int, Question]:
        """What the explainer is shown about each latent."""
        apart = self.settings.quotes == "apart"
        names = listed(self.cache, self.settings.words, self.texts, apart=apart)
        return {n: Question(names[n], self.shown(n, strongest=names[n])) for n in latents}

    def shown(self, latent: int, *, strongest: str) -> str:
        """The evidence about one latent as it stands in the prompt: strongest tokens, then
        windows."""
        firing, counter = self.chosen(latent)
        lines = [f"Most on average: {strongest}"]
        lines += self.window_lines(latent, firing, strengths_too=True)
        if len(counter.windows.rows):
            lines += ["No response:", *self._counter_lines(counter)]
        if self.promoted is not None:
            apart = self.settings.quotes == "apart"
            for label, end in zip(("likelier", "less likely"), self.promoted(latent), strict=True):
                names = dict.fromkeys(named(text, apart=apart) for text, _ in end)
                lines += [f"Makes {label}: {', '.join(names)}"]
        return "\n".join(lines)

    def window_lines(self, latent: int, windows: Windows, *, strengths_too: bool) -> list[str]:
        """Numbered windows with the latent's tokens marked, each with its list of strengths below
        it if asked for."""
        asked, maximum = self.settings, float(self.cache.maximum[latent])
        ids = window_tokens(self.cache, windows, asked.window_tokens)
        values = window_values(self.cache, latent, windows, asked.window_tokens)
        lines = []
        for number, (row, strength) in enumerate(zip(ids, values, strict=True), 1):
            texts = self.texts(row)
            shown = marked(texts, strength, threshold=asked.threshold)
            lines.append(f"{number}. {prompts.on_one_line(shown)}")
            if strengths_too:
                how = {"threshold": asked.threshold, "maximum": maximum}
                lines.append(f" {strengths(texts, strength, **how)}")
        return lines

    def plain_lines(self, windows: Windows) -> list[str]:
        """Numbered windows without marks."""
        ids = window_tokens(self.cache, windows, self.settings.window_tokens)
        shown = (prompts.quotable("".join(self.texts(row))) for row in ids)
        return [f"{n}. {prompts.on_one_line(text)}" for n, text in enumerate(shown, 1)]

    def _counter_lines(self, counter: Counterexamples) -> list[str]:
        """Silent windows; where a similar latent fires, its tokens with strength 0."""
        lines, length = [], self.settings.window_tokens
        for place, text in enumerate(self.plain_lines(counter.windows)):
            lines.append(text)
            rival, one = int(counter.rivals[place]), some(counter.windows, np.array([place]))
            if rival >= 0:
                values = window_values(self.cache, rival, one, length)[0]
                names = self.texts(window_tokens(self.cache, one, length)[0])
                strong = np.flatnonzero(values > self.settings.threshold * values.max())
                fired = dict.fromkeys(_name(names[at]) for at in strong)
                lines.append(f" {'; '.join(f'{name}: 0' for name in fired)}")
        return lines


def choose_windows(
    cache: LatentCache, latent: int, settings: Explain, generator: np.random.Generator
) -> Windows:
    """The windows that an explanation is written from, strongest first."""
    windows, peaks = firing_windows(cache, latent, window_tokens=settings.window_tokens)
    if settings.strategy == "quantiles":
        spread = settings.deciles == "spread"
        return some(windows, by_deciles(peaks, settings.windows, generator, spread=spread))
    top = settings.strategy == "top"
    order = np.argsort(-peaks, kind="stable") if top else generator.permutation(len(peaks))
    return some(windows, order[: settings.windows])


def marked(texts: Sequence[str], values: Activations, *, threshold: float) -> str:
    """The window as text, tokens above ``threshold`` × its maximum between « and »; those that the
    text has itself are ‹ and ›."""
    limit, quoted = threshold * max(values), map(prompts.quotable, texts)
    return "".join(f"«{t}»" if v > limit else t for t, v in zip(quoted, values, strict=True))


def strengths(
    texts: Sequence[str], values: Activations, *, threshold: float, maximum: float
) -> str:
    """The marked tokens with their strengths, 0–10 of the latent's ``maximum``: ``sea: 10; lake:
    4``."""
    limit, pairs = threshold * max(values), zip(texts, values, strict=True)
    return "; ".join(f"{_name(t)}: {round(10 * v / maximum)}" for t, v in pairs if v > limit)


def listed(
    cache: LatentCache, words: int, texts: Callable[[ndarray], list[str]], *, apart: bool = True
) -> list[str]:
    """Each latent's strongest tokens as text, spaces around them dropped, each named once."""
    # One at a time: in a sequence a multi-byte character belongs to the token that completes it.
    names = [
        [named(texts(token[None])[0], apart=apart) for token in column if token >= 0]
        for column in strongest_tokens(cache, words=words).T
    ]
    return [", ".join(dict.fromkeys(column)) for column in names]


def named(text: str, *, apart: bool = True) -> str:
    """A token in a list of tokens: without letters or digits it stands in quotes; ``apart``: in
    such as it does not have itself."""
    text = prompts.sentence(text) or repr(text)[1:-1]
    if any(map(str.isalnum, text)):
        return text
    return repr(text) if apart and '"' in text else f'"{text}"'


def _name(text: str) -> str:
    return prompts.on_one_line(prompts.quotable(text.strip())) or repr(text)

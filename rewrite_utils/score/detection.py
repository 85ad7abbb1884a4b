"""A judge who reads a sentence and windows: which of them fit? One probability a window.

In: sentences with windows as text. Out: the probability of "1" against "0" at each answer's token,
from one forward pass an answer; nothing is sampled or parsed. Several windows a prompt as in the
paper (§4), or one, which a small judge needs. Knows no latents.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from transformers import PreTrainedTokenizerBase

from rewrite_utils.llm import prompts
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import BLOCK, Prompt
from rewrite_utils.llm.tokens import digit_tokens, padded, text_tokens


class Asked(NamedTuple):
    """One sentence and the windows it is tried on."""

    sentence: str
    """The description."""
    texts: Sequence[str]
    """The windows, in the order they are shown."""


def wording(task: str, per_prompt: int) -> str:
    """The prompt file of a task ("detect", "fuzz"): with one window a prompt it is another."""
    return f"{task}_one" if per_prompt == 1 else task


def judged(
    engine: Engine, asked: Sequence[Asked], *, task: str = "detect", per_prompt: int
) -> list[Float[ndarray, " window"]]:
    """The probability of "1" for every window, float32, one array a sentence."""
    if not asked:
        return []
    made = detection_prompts if per_prompt > 1 else single_prompts
    given = [
        made(engine.tokenizer, one.sentence, one.texts, per_prompt=per_prompt, task=task)
        for one in asked
    ]
    zero_one = digit_tokens(engine.tokenizer)[:2]
    flat = [prompt for part in given for prompt in part]
    answers = engine.choices(flat, options=zero_one, answers=per_prompt).probabilities[..., 1]
    parts = np.split(answers, np.cumsum([len(part) for part in given])[:-1])
    return [part.reshape(-1)[: len(one.texts)] for part, one in zip(parts, asked, strict=True)]


def detection_prompts(
    tokenizer: PreTrainedTokenizerBase,
    sentence: str,
    texts: Sequence[str],
    *,
    per_prompt: int,
    task: str = "detect",
) -> list[Prompt]:
    """``per_prompt`` windows a prompt; instructions and few-shots are shared by all of them."""
    before, _, rest = prompts.rendered(tokenizer, task).partition(" {explanation}")
    between, _, after = rest.partition("{windows}")
    shared, asked = text_tokens(tokenizer, before), []
    for start in range(0, len(texts), per_prompt):
        lines = [prompts.on_one_line(text) for text in texts[start : start + per_prompt]]
        numbered = "\n".join(f"{n}. {text}" for n, text in enumerate(lines, 1))
        quoted = prompts.harmless(tokenizer, f" {prompts.sentence(sentence)}{between}{numbered}")
        asked.append(Prompt(shared, text_tokens(tokenizer, quoted + after)))
    return asked


def single_prompts(
    tokenizer: PreTrainedTokenizerBase,
    sentence: str,
    texts: Sequence[str],
    *,
    per_prompt: int = 1,
    task: str = "detect",
) -> list[Prompt]:
    """One window a prompt; the description is shared too, so a window costs its own tokens."""
    whole = prompts.rendered(tokenizer, wording(task, per_prompt))
    head, _, rest = whole.partition("{pad}")
    described, _, after = rest.partition(" {windows}")
    said = prompts.filled(
        described, explanation=prompts.harmless(tokenizer, prompts.sentence(sentence))
    )
    head, said, filler = (text_tokens(tokenizer, text) for text in (head, said, "\n"))
    shared = padded(head, said, filler=filler, multiple=BLOCK)
    windows = [prompts.harmless(tokenizer, prompts.on_one_line(text)) for text in texts]
    return [Prompt(shared, text_tokens(tokenizer, f" {window}{after}")) for window in windows]

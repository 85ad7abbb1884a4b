"""Asking an LLM for one sentence a latent, from windows of the explain rows in which it fires.

In: a LatentCache, an engine. Out: one Explanation a latent; a reply without a sentence is a failure
with the raw reply kept, never stored as a sentence. Paper §3 (40 windows of 32 tokens, quantile
sampling).
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from rewrite_utils import prompts
from rewrite_utils.activations import LatentCache, Windows
from rewrite_utils.controls import strongest_tokens
from rewrite_utils.llm import Engine, Prompt
from rewrite_utils.params import Explain
from rewrite_utils.runs import write_json
from rewrite_utils.windows import by_deciles, firing_windows, window_tokens, window_values

REPLY = re.compile(r"^(?P<pieces>[^\n]*)\n\s*EXPLANATION:[ \t]*(?P<explanation>\S[^\n]*)")
EMPTY = re.compile(r"^[\W_]*$")
Activations = Float[ndarray, " pos"] | Sequence[float]


class Explanation(NamedTuple):
    """What one latent responds to, in words; ``explanation`` is None where the LLM gave none."""

    latent: int
    """Index in the coder."""
    explanation: str | None
    """The sentence as written, without the pieces."""
    pieces: str
    """The tokens the explainer named before its sentence, as it wrote them."""
    tokens: str
    """The latent's strongest tokens on the explain rows, found by counting."""
    reply: str
    """The whole reply, kept for failures above all."""
    attempts: int
    """Replies asked for until this one."""
    prompt_tokens: int
    """Length of the prompt."""


class Question(NamedTuple):
    """What the explainer is asked about one latent."""

    tokens: str
    """Its strongest tokens."""
    text: str
    """Everything it is shown."""


def sentence(record: Explanation, kind: str) -> str | None:
    """What the simulator reads: the explanation, with its ``kind`` of evidence in brackets."""
    listed = {"none": "", "pieces": record.pieces, "tokens": record.tokens}[kind]
    if record.explanation is None or not listed:
        return record.explanation
    return f"{record.explanation} ({listed})"


def choose_windows(
    cache: LatentCache, latent: int, settings: Explain, generator: np.random.Generator
) -> Windows:
    """The windows that an explanation is written from, strongest first."""
    windows, peaks = firing_windows(cache, latent, window_tokens=settings.window_tokens)
    if settings.strategy == "quantiles":
        chosen = by_deciles(peaks, settings.windows, generator)
    elif settings.strategy == "top":
        chosen = np.argsort(-peaks, kind="stable")[: settings.windows]
    else:
        chosen = generator.permutation(len(peaks))[: settings.windows]
    return Windows(windows.rows[chosen], windows.ends[chosen])


def marked(texts: Sequence[str], values: Activations, *, threshold: float) -> str:
    """The window as text, tokens above ``threshold`` × its maximum between « and »."""
    limit = threshold * max(values)
    return "".join(f"«{t}»" if v > limit else t for t, v in zip(texts, values, strict=True))


def strengths(
    texts: Sequence[str], values: Activations, *, threshold: float, maximum: float
) -> str:
    """The marked tokens with their strengths, 0–10 of the latent's ``maximum``: ``sea: 10; lake:
    4``."""
    limit = threshold * max(values)
    pairs = zip(texts, values, strict=True)
    return "; ".join(
        f"{t.strip() or repr(t)}: {round(10 * v / maximum)}" for t, v in pairs if v > limit
    )


def parse_reply(reply: str) -> tuple[str, str] | None:
    """(explanation, pieces) of a reply that continues ``PIECES:``; None if there is no sentence in
    it."""
    found = REPLY.match(reply)
    if found is None or EMPTY.match(found["explanation"]):
        return None
    return found["explanation"].strip().rstrip("."), found["pieces"].strip()


def shown(
    cache: LatentCache,
    latent: int,
    settings: Explain,
    *,
    token_texts: Callable[[ndarray], list[str]],
    strongest: str,
    generator: np.random.Generator,
) -> str:
    """The evidence about one latent as it stands in the prompt: strongest tokens, then windows."""
    windows = choose_windows(cache, latent, settings, generator)
    length, maximum = settings.window_tokens, float(cache.maximum[latent])
    ids = window_tokens(cache, windows, length)
    lines = [f"Most on average: {strongest}"]
    for number, (row, values) in enumerate(
        zip(ids, window_values(cache, latent, windows, length), strict=True), 1
    ):
        texts = token_texts(row)
        window = marked(texts, values, threshold=settings.threshold).replace("\n", "⏎").strip()
        listed = strengths(texts, values, threshold=settings.threshold, maximum=maximum)
        lines += [f"{number}. {window}", f" {listed}"]
    return "\n".join(lines)


def explain(
    cache: LatentCache,
    latents: Sequence[int],
    engine: Engine,
    settings: Explain,
    *,
    token_texts: Callable[[ndarray], list[str]],
    skip: Collection[int] = (),
    seed: int,
    folder: Path,
    batch: int = 16,
) -> pd.DataFrame:
    """One Explanation a latent, in batches that a killed run does not repeat."""
    records: list[Explanation] = []
    bar = tqdm(total=len(latents), desc="explanations", unit="latent")
    for start in range(0, len(latents), batch):
        part = latents[start : start + batch]
        file = folder / f"batch-{start:06d}.json"
        if not file.exists():
            questions = evidence(
                cache, part, settings, token_texts=token_texts, skip=skip, seed=seed
            )
            write_json(file, [e._asdict() for e in _ask(engine, questions, settings, seed=seed)])
        records += [Explanation(**record) for record in json.loads(file.read_text())]
        bar.update(len(part))
        bar.set_postfix(failures=sum(record.explanation is None for record in records))
    bar.close()
    for file in folder.glob("batch-*.json"):
        file.unlink()
    table = pd.DataFrame(records, columns=list(Explanation._fields))
    return table.assign(sentence=[sentence(record, settings.evidence) for record in records])


def evidence(
    cache: LatentCache,
    latents: Sequence[int],
    settings: Explain,
    *,
    token_texts: Callable[[ndarray], list[str]],
    skip: Collection[int] = (),
    seed: int,
) -> dict[int, Question]:
    """What the explainer is shown about each latent; special tokens (``skip``) are not named."""
    listed = _listed(cache, settings.words, token_texts, skip)
    found = {}
    for latent in latents:
        text = shown(
            cache,
            latent,
            settings,
            token_texts=token_texts,
            strongest=listed[latent],
            generator=np.random.default_rng([seed, latent]),
        )
        found[latent] = Question(listed[latent], text)
    return found


def prompt(tokenizer: PreTrainedTokenizerBase, windows: str) -> Prompt:
    """The explainer's prompt; everything before the windows is shared by all latents."""
    before, _, after = prompts.rendered(tokenizer, "explain").partition("{windows}")
    return Prompt(
        tuple(tokenizer.encode(before, add_special_tokens=False)),
        tuple(tokenizer.encode(windows + after, add_special_tokens=False)),
    )


def _listed(
    cache: LatentCache,
    words: int,
    token_texts: Callable[[ndarray], list[str]],
    skip: Collection[int],
) -> list[str]:
    """Each latent's strongest tokens as text, spaces around them dropped, each named once."""
    # One at a time: in a sequence a multi-byte character belongs to the token that completes it.
    names = [
        [_named(token_texts(token[None])[0]) for token in column if token >= 0]
        for column in strongest_tokens(cache, words=words, skip=skip).T
    ]
    return [", ".join(dict.fromkeys(column)) for column in names]


def _named(text: str) -> str:
    """A token in a list of tokens: without letters or digits it stands in quotes."""
    text = text.strip() or repr(text)[1:-1]
    return text if any(map(str.isalnum, text)) else f'"{text}"'


def _ask(
    engine: Engine, questions: Mapping[int, Question], settings: Explain, *, seed: int
) -> list[Explanation]:
    """Ask about every latent, and again with a new seed where the reply has no sentence."""
    done: dict[int, Explanation] = {}
    for attempt in range(settings.retries + 1):
        failed = [n for n in questions if n not in done or not done[n].explanation]
        if not failed:
            break
        asked = [prompt(engine.tokenizer, questions[latent].text) for latent in failed]
        replies = engine.generate(
            asked,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=seed + attempt,
            stop=("\n\n",),
        )
        for latent, given, reply in zip(failed, asked, replies, strict=True):
            found, pieces = parse_reply(reply.text) or (None, "")
            size = len(given.shared) + len(given.own)
            tokens = questions[latent].tokens
            done[latent] = Explanation(latent, found, pieces, tokens, reply.text, attempt + 1, size)
    return [done[latent] for latent in questions]

"""Asking an LLM for one sentence a latent, from windows of the explain rows in which it fires.

In: a Source of evidence, an engine. Out: one Explanation a latent; a reply without a sentence is a
failure with the raw reply kept, never stored as a sentence. Paper §3 (40 windows of 32 tokens,
quantile sampling).
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from rewrite_utils.explain.evidence import Question, Source
from rewrite_utils.llm import prompts
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import Prompt
from rewrite_utils.params import Explain
from rewrite_utils.runs.run import write_json

REPLY = re.compile(r"^(?P<pieces>[^\n]*)\n\s*EXPLANATION:[ \t]*(?P<explanation>\S[^\n]*)")
EMPTY = re.compile(r"^[\W_]*$")


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


Frame = Callable[[str], Prompt]
"""Puts evidence into a prompt."""


def sentence(record: Explanation, kind: str) -> str | None:
    """What the simulator reads: the explanation, with its ``kind`` of evidence in brackets."""
    listed = {"none": "", "pieces": record.pieces, "tokens": record.tokens}[kind]
    if record.explanation is None or not listed:
        return record.explanation
    return f"{record.explanation} ({listed})"


def parse_reply(reply: str) -> tuple[str, str] | None:
    """(explanation, pieces) of a reply that continues ``PIECES:``; None if there is no sentence in
    it."""
    found = REPLY.match(reply)
    if found is None or EMPTY.match(found["explanation"]):
        return None
    return found["explanation"].strip().rstrip("."), found["pieces"].strip()


def explain(
    source: Source,
    latents: Sequence[int],
    engine: Engine,
    *,
    folder: Path,
    batch: int = 16,
) -> pd.DataFrame:
    """One Explanation a latent, in batches that a killed run does not repeat."""
    settings = source.settings

    def ask_about(part: Sequence[int]) -> Iterable[Explanation]:
        questions = source.questions(part)
        return ask(engine, questions, settings, framed(engine.tokenizer, settings), source.seed)

    records = [
        Explanation(**record)
        for record in in_batches(latents, ask_about, folder=folder, batch=batch)
    ]
    table = pd.DataFrame(records, columns=list(Explanation._fields))
    return table.assign(sentence=[sentence(record, settings.evidence) for record in records])


def in_batches(
    latents: Sequence[int],
    ask_about: Callable[[Sequence[int]], Iterable[NamedTuple]],
    *,
    folder: Path,
    batch: int,
    name: str = "explanations",
) -> list[dict]:
    """The records that ``ask_about`` gives for every batch; finished ones wait in ``folder``."""
    records: list[dict] = []
    bar = tqdm(total=len(latents), desc=name, unit="latent")
    for start in range(0, len(latents), batch):
        part = latents[start : start + batch]
        file = folder / f"batch-{start:06d}.json"
        if not file.exists():
            write_json(file, [record._asdict() for record in ask_about(part)])
        records += json.loads(file.read_text(encoding="utf-8"))
        bar.update(len(part))
        bar.set_postfix(failures=sum(record["explanation"] is None for record in records))
    bar.close()
    for file in folder.glob("batch-*.json"):
        file.unlink()
    return records


def prompt(
    tokenizer: PreTrainedTokenizerBase,
    evidence: str,
    *,
    name: str = "explain",
    options: Collection[str] = (),
) -> Prompt:
    """The explainer's prompt; everything before the evidence is shared by all latents."""
    before, _, after = prompts.rendered(tokenizer, name, options).partition("{windows}")
    own = prompts.harmless(tokenizer, evidence) + after
    return Prompt(
        tuple(tokenizer.encode(before, add_special_tokens=False)),
        tuple(tokenizer.encode(own, add_special_tokens=False)),
    )


def wording(settings: Explain) -> str:
    """The prompt file for these settings."""
    return "explain_more" if settings.options else "explain"


def framed(tokenizer: PreTrainedTokenizerBase, settings: Explain) -> Frame:
    """How evidence becomes a prompt under these settings."""
    name, options = wording(settings), settings.options
    return lambda evidence: prompt(tokenizer, evidence, name=name, options=options)


def ask(
    engine: Engine,
    questions: Mapping[int, Question],
    settings: Explain,
    frame: Frame,
    seed: int,
) -> list[Explanation]:
    """Ask about every latent, and again with a new seed where the reply has no sentence."""
    done: dict[int, Explanation] = {}
    for attempt in range(settings.retries + 1):
        failed = [n for n in questions if n not in done or not done[n].explanation]
        if not failed:
            break
        asked = [frame(questions[latent].text) for latent in failed]
        replies = engine.generate(
            asked,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=seed + attempt,
        )
        for latent, given, reply in zip(failed, asked, replies, strict=True):
            found, pieces = parse_reply(reply.text) or (None, "")
            size = len(given.shared) + len(given.own)
            tokens = questions[latent].tokens
            done[latent] = Explanation(latent, found, pieces, tokens, reply.text, attempt + 1, size)
    return [done[latent] for latent in questions]

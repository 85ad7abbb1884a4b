"""Asking an LLM for one sentence a latent, from windows of the explain rows in which it fires.

In: a Source of evidence, an engine. Out: one Explanation a latent; a reply without a whole sentence
is a failure with the raw reply kept, never stored as a sentence. Paper §3 (40 windows of 32 tokens,
quantile sampling).
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from transformers import PreTrainedTokenizerBase

from rewrite_utils.explain.evidence import Question, Source
from rewrite_utils.llm import prompts
from rewrite_utils.llm.batches import in_batches
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import Prompt
from rewrite_utils.llm.tokens import text_tokens
from rewrite_utils.params import Explain

EXPLANATIONS = "explanations.parquet"
REPLY = re.compile(
    r"^(?P<pieces>[^\n]*)\n[\s*_#>`-]*explanation[*_`]*[ \t]*:[*_`]*[ \t]*(?P<said>\S[^\n]*)",
    re.IGNORECASE,
)
"""The pieces, and the sentence behind its marker: EXPLANATION:, **Explanation:**, …"""
BOLD = re.compile(r"^\*\*\s*|\s*\*\*$")
EMPTY = re.compile(r"^[\W_]*$")
RETRIED_AT = 0.7
"""The temperature at which a reply without a sentence is asked for again where the first one had
none (the paper's): at 0 the same reply would come again."""


class ExplanationError(ValueError):
    """A sentence that the simulator cannot be asked about."""


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


def parse_reply(reply: str, *, finished: bool = True) -> tuple[str, str] | None:
    """(explanation, pieces) of a reply that continues ``PIECES:``; None if there is no sentence in
    it, or one that the limit of tokens cut off (not ``finished``, and nothing behind it)."""
    found = REPLY.match(reply)
    if found is None or (not finished and found.end() == len(reply)):
        return None
    said = BOLD.sub("", found["said"].strip()).rstrip(".")
    return None if EMPTY.match(said) else (said, found["pieces"].strip())


def explain(
    source: Source, latents: Sequence[int], engine: Engine, *, folder: Path, batch: int = 16
) -> pd.DataFrame:
    """One Explanation a latent, and its sentence, in ``folder``; a kill loses little."""
    settings, frame = source.settings, framed(engine.tokenizer, source.settings)

    def ask_about(part: Sequence[int]) -> pd.DataFrame:
        records = ask(engine, source.questions(part), settings, frame, source.seed)
        table = pd.DataFrame(records, columns=list(Explanation._fields))
        return table.assign(sentence=[sentence(record, settings.evidence) for record in records])

    file = folder / EXPLANATIONS
    return in_batches(latents, ask_about, file=file, name="explanations", batch=batch)


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
    return Prompt(text_tokens(tokenizer, before), text_tokens(tokenizer, own))


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
    """Ask about every latent, and again with a new seed where the reply has no whole sentence."""
    done: dict[int, Explanation] = {}
    for attempt in range(settings.retries + 1):
        failed = [n for n in questions if n not in done or not done[n].explanation]
        if not failed:
            break
        asked = [frame(questions[n].text) for n in failed]
        heat = settings.temperature or (RETRIED_AT if attempt else 0.0)
        how = {"max_tokens": settings.max_tokens, "temperature": heat, "seed": seed + attempt}
        for n, given, reply in zip(failed, asked, engine.generate(asked, **how), strict=True):
            said, pieces = parse_reply(reply.text, finished=reply.finished) or (None, "")
            told = said, pieces, questions[n].tokens, reply.text, attempt + 1
            done[n] = Explanation(n, *told, len(given.shared) + len(given.own))
    return [done[latent] for latent in questions]

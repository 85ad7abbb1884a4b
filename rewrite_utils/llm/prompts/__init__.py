"""The wording of every prompt, as text files beside this one; a stage hashes the files it uses.

A file is a conversation: lines ``### system|user|assistant`` divide its turns, the last (assistant)
turn is the forced beginning of the answer. ``{names}`` in braces are filled by the stage that owns
the prompt. A line ``[option] …`` is there only when that option is asked for.
"""

import datetime
import hashlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

FOLDER = Path(__file__).parent
TODAY = datetime.date(2024, 7, 26)
"""What a chat template that writes the date is told: a run resumed tomorrow asks the same."""
THOUGHT = re.compile(r"<(think|thinking|reasoning)>\s*$")
"""The end of a prompt whose template has the model think first."""
MARKS = str.maketrans("«»", "‹›")
SEPARATOR = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
"""What ends a line for some reader."""
WORDS = "Answers?|Description|Example|Excerpt|EXPLANATION|Feature|PIECES|Ratings?|Text"
BEGINNING = re.compile(rf"\n(?=\s*(?:{WORDS}|The marked token)\b)")
"""A line break before a word that begins a line of some prompt."""
OPTION = re.compile(r"^\[(\w+)\] (.*\n?)", re.MULTILINE)


class Turn(NamedTuple):
    """One turn of a conversation."""

    role: str
    """system, user or assistant."""
    text: str
    """What is said, braces unfilled."""


def turns(name: str, options: Collection[str] = ()) -> list[Turn]:
    """The conversation in ``<name>.txt``, with the lines of ``options`` and no other option's."""
    whole = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    whole = OPTION.sub(lambda line: line[2] if line[1] in options else "", whole)
    parts = whole.split("### ")[1:]
    split = [part.partition("\n") for part in parts]
    return [Turn(role.strip(), text.strip("\n")) for role, _, text in split]


def digest(name: str) -> str:
    """Hash of the wording; part of the hash of every stage that uses it."""
    return hashlib.sha256((FOLDER / f"{name}.txt").read_bytes()).hexdigest()[:12]


def rendered(tokenizer: PreTrainedTokenizerBase, name: str, options: Collection[str] = ()) -> str:
    """The whole conversation in the model's chat format, the answer begun, braces unfilled."""
    *asked, answer = turns(name, options)
    return chat(tokenizer, asked) + answer.text


def chat(tokenizer: PreTrainedTokenizerBase, asked: Sequence[Turn]) -> str:
    """The conversation as the model's template writes it, up to where the assistant answers.

    What the system says stands at the head of the first question where the template has no such
    role. A model that thinks is asked not to, and a thought that its template opens is closed at
    once: a digit inside one is no answer.
    """
    system, first, *rest = asked
    try:
        text = _written(tokenizer, asked)
    except TemplateError:
        text = ""
    if system.role == "system" and system.text.strip() not in text:
        merged = first._replace(text=f"{system.text}\n\n{first.text}")
        text = _written(tokenizer, [merged, *rest])
    opened = THOUGHT.search(text)
    return f"{text[: opened.end(1) + 1]}\n\n</{opened[1]}>\n\n" if opened else text


def _written(tokenizer: PreTrainedTokenizerBase, asked: Sequence[Turn]) -> str:
    return str(
        tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.text} for turn in asked],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
            strftime_now=TODAY.strftime,
        )
    )


def filled(text: str, **values: str) -> str:
    """``text`` with each {name} of ``values`` replaced, in one pass: braces inside a value stay."""
    names = "|".join(map(re.escape, values))
    return re.sub(rf"\{{({names})\}}", lambda found: values[found[1]], text)


def quotable(text: str) -> str:
    """Quoted text without a prompt's own marks: « and » become ‹ and ›, every separator of lines a
    newline, so that what a prompt marks is all that is marked."""
    return SEPARATOR.sub("\n", text).translate(MARKS)


def on_one_line(text: str, *, drawn: str = "⏎") -> str:
    """The text on one line of a prompt, the ends stripped; a line of a text begins none there."""
    return SEPARATOR.sub(drawn, text).strip()


def sentence(text: str) -> str:
    """A sentence about a latent as it is quoted: on one line, without marks."""
    return on_one_line(quotable(text), drawn=" ")


def unstructured(text: str) -> str:
    """Quoted lines none of which begins as a line of a prompt does ("Description:"): the break
    before it is drawn, ⏎."""
    return BEGINNING.sub("⏎", text)


def harmless(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """``text`` with the tokenizer's special tokens written as words: ``<|im_end|>`` → ``[im_end]``.

    Quoted text must not end a turn: a tokenizer reads "<|im_end|>" in it as the end of the turn.
    Tokens that were added and are not special, such as runs of blanks, are text.
    """
    added = tokenizer.added_tokens_decoder.values()
    special = sorted((str(token) for token in added if token.special), key=len, reverse=True)
    if not special:
        return text
    found = re.compile("|".join(map(re.escape, special)))
    return found.sub(lambda token: f"[{token[0].strip('<|>/ ') or 'special'}]", text)

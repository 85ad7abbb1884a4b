"""The wording of every prompt, as text files beside this one; a stage hashes the files it uses.

A file is a conversation: lines ``### system|user|assistant`` divide its turns, the last (assistant)
turn is the forced beginning of the answer. ``{names}`` in braces are filled by the stage that owns
the prompt. A line ``[option] …`` is there only when that option is asked for.
"""

import hashlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

FOLDER = Path(__file__).parent
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
    chat = [{"role": turn.role, "content": turn.text} for turn in asked]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return str(text) + answer.text


def filled(text: str, **values: str) -> str:
    """``text`` with each {name} of ``values`` replaced, in one pass: braces inside a value stay."""
    names = "|".join(map(re.escape, values))
    return re.sub(rf"\{{({names})\}}", lambda found: values[found[1]], text)


def harmless(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """``text`` with the tokenizer's special tokens written as words: ``<|im_end|>`` → ``[im_end]``.

    Quoted text must not end a turn: a tokenizer reads "<|im_end|>" in it as the end of the turn.
    """
    special = sorted(map(str, tokenizer.get_added_vocab()), key=len, reverse=True)
    if not special:
        return text
    found = re.compile("|".join(map(re.escape, special)))
    return found.sub(lambda token: f"[{token[0].strip('<|>/ ') or 'special'}]", text)

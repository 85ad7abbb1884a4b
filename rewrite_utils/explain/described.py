"""A description in levels: one sentence a latent, made of parts, and those parts read back.

In: an English part, words, and what the latent raises and lowers. Out: a text, and the same record
from the text alone, which is all that a reader is given. The levels: (a) the English part, (b) with
the words that the explainer named, (c) with counted words and their strengths, (d) with outputs.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Literal, get_args

from rewrite_utils.latents.words import STRENGTHS, Strength, Word

Level = Literal["a", "b", "c", "d"]
LEVELS: tuple[Level, ...] = get_args(Level)
_QUOTED = r'"(?:[^"\\]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"'
_LIST = rf"{_QUOTED}(?:, {_QUOTED})*"
_LABELS = {f"{strength} on": strength for strength in STRENGTHS}
_LABEL = "|".join(["fires on", *(f"(?:fires )?{label}" for label in _LABELS), "raises", "lowers"])
_PART = rf"(?:{_LABEL}) {_LIST}|\d+ % of its firing lies there"
_PARTS = re.compile(rf"(?:{_PART})(?:; (?:{_PART}))*\.?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Description:
    """What is said about one latent; nothing in it but text and one rounded number."""

    english: str = ""
    """The explainer's sentence, without a full stop at its end."""
    words: tuple[Word, ...] = ()
    """Words it fires on: without a strength those that the explainer named, with one the counted
    ones, by mass."""
    covered: int = 0
    """Per cent of its firing that lies on the counted words; 0: not said."""
    raises: tuple[str, ...] = ()
    """Words that it makes likelier as the next one, most first."""
    lowers: tuple[str, ...] = ()
    """Words that it makes less likely, most first."""

    def at(self, level: Level) -> "Description":
        """Only what this level says, words in the order of the text: named ones, then by strength.

        From (c) on a word that was both named and counted stands once, with its strength.
        """
        if level == "a":
            return Description(self.english)
        if level == "b":
            return Description(self.english, tuple(w for w in self.words if not w.strength))
        counted = {word.text.strip().casefold() for word in self.words if word.strength}
        kept = [w for w in self.words if w.strength or w.text.strip().casefold() not in counted]
        kept.sort(key=lambda word: ("", *STRENGTHS).index(word.strength))
        raises, lowers = (self.raises, self.lowers) if level == "d" else ((), ())
        return Description(self.english, tuple(kept), self.covered, raises, lowers)

    def text(self, level: Level = "d") -> str:
        """One sentence of parts; "" where the level says nothing. `parse` reads it back."""
        said = self.at(level)
        parts = [_listed("fires on", [word.text for word in said.words if not word.strength])]
        counted = [
            _listed(label, [word.text for word in said.words if word.strength == strength])
            for label, strength in _LABELS.items()
        ]
        parts.append("; ".join(part for part in counted if part))
        parts[-1] = parts[-1] and "fires " + parts[-1]
        parts.append(f"{said.covered} % of its firing lies there" if said.covered else "")
        parts += [_listed("raises", said.raises), _listed("lowers", said.lowers)]
        if not any(parts):
            return said.english
        whole = "; ".join(part for part in (said.english, *parts) if part)
        return (whole if said.english else whole[0].upper() + whole[1:]) + "."


def parse(text: str) -> Description:
    """The record of a text: its parts from the first place on behind which there are only parts.

    A text without any (someone else's explanation) is an English part. The order of the words is
    that of the text: named ones, then by strength.
    """
    starts = [0, *(found.end() for found in re.finditer("; ", text))]
    start = next((at for at in starts if _PARTS.fullmatch(text, at)), len(text))
    english = text[:start].removesuffix("; ") if start < len(text) else text
    said = Description(english.strip().removesuffix("."))
    for part in re.finditer(_PART, text[start:], re.IGNORECASE):
        said = _with(said, part[0])
    return said


def _with(said: Description, part: str) -> Description:
    """The record with one more part."""
    if part[0].isdigit():
        return dataclasses.replace(said, covered=int(part.split(" ", maxsplit=1)[0]))
    label, _, listed = part.partition(' "')
    texts = [json.loads(quoted, strict=False) for quoted in re.findall(_QUOTED, '"' + listed)]
    label = label.lower().replace("fires on", "").removeprefix("fires ")
    if label in ("raises", "lowers"):
        return dataclasses.replace(said, **{label: tuple(texts)})
    strength: Strength | Literal[""] = _LABELS.get(label, "")
    words = tuple(Word(text, strength) for text in texts)
    return dataclasses.replace(said, words=said.words + words)


def _listed(label: str, words: Sequence[str]) -> str:
    """'raises "a", "b"'; nothing where there are none. Quoted as in JSON: a blank can be seen."""
    return f"{label} {', '.join(json.dumps(w, ensure_ascii=False) for w in words)}" if words else ""

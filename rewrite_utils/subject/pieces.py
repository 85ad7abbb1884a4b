"""The text of tokens, exactly: of byte-level and of SentencePiece-type tokenizers.

In: a tokenizer, token ids. Out: one text a token. A row's texts, joined, are its decoded text; a
token by itself, where it holds part of a character, is spelt by its bytes (``\\xe6\\x97``), so that
a prompt and a reader can tell such tokens apart. Other tokenizers are refused: they lose text.
"""

import codecs
import functools
import json
import re
from collections.abc import Sequence

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from rewrite_utils.subject.masking import control_tokens

BLANK = "▁"
"""What SentencePiece writes for a blank."""
PART = re.compile(r"\\x[89a-f][0-9a-f]|\ufffd")
"""Stands in the text of a token that holds a part of a character, or none: no word to name."""
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""A byte of a character that is not in its vocabulary."""


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Each token's text, spaces and newlines kept; joined, they are the decoded text.

    A character whose bytes lie in several tokens belongs to the token that completes it; bytes
    that never make a character are spelt (``\\xe6``). ValueError if the tokenizer loses text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
    texts = [decoder.decode(one) for one in _bytes(tokenizer, ids)]
    if texts:
        texts[-1] += decoder.decode(b"", final=True)
    return texts


def spelled(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Each token's text by itself, whatever stands beside it: for vocabularies, not for rows.

    Bytes that make no character alone are spelt. ValueError as for ``token_texts``.
    """
    return [one.decode("utf-8", errors="backslashreplace") for one in _bytes(tokenizer, ids)]


def quotable_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """``token_texts`` for another model's prompt: control tokens as words, such as [end of text].

    Raw, "<|im_end|>" in quoted text would end the turn of a model that speaks ChatML.
    """
    controls = list(control_tokens(tokenizer))
    letters = tokenizer.convert_ids_to_tokens(controls)
    names = {i: f"[{text.strip('<|>')}]" for i, text in zip(controls, letters, strict=True)}
    names |= {tokenizer.eos_token_id: "[end of text]"}
    exact = token_texts(tokenizer, ids)
    return [names.get(int(token), text) for token, text in zip(ids, exact, strict=True)]


def _bytes(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[bytes]:
    """The bytes that each token stands for."""
    added = {token: text.content for token, text in tokenizer.added_tokens_decoder.items()}
    by_piece = _require_exact(tokenizer)
    read = _of_sentencepiece if by_piece else _of_byte_level
    found = []
    for token in map(int, ids):
        if token in added:
            text = added[token]
            found.append((text.replace(BLANK, " ") if by_piece else text).encode())
        else:
            found.append(read(str(tokenizer.convert_ids_to_tokens(token))))
    return found


def _require_exact(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer is of SentencePiece's type; False: byte-level.

    ValueError for any other, with what it loses.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    kind = type(backend.model).__name__ if backend else "SentencePiece"
    if kind in ("WordPiece", "WordLevel"):
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} is a {kind} one, which drops the blanks "
            "(and often the case) of a text, so its tokens have no exact texts: take a model with "
            "a byte-level (GPT-2, GPT-NeoX, Llama 3, SmolLM, Qwen) or a SentencePiece-type one "
            "(Llama 2, Mistral, Gemma)"
        )
    state = backend.decoder.__getstate__() if backend and backend.decoder else b"{}"
    return kind == "SentencePiece" or BLANK in json.dumps(json.loads(state), ensure_ascii=False)


def _of_sentencepiece(piece: str) -> bytes:
    found = BYTE.fullmatch(piece)
    return bytes.fromhex(found[1]) if found else piece.replace(BLANK, " ").encode()


def _of_byte_level(piece: str) -> bytes:
    table = _byte_of_letter()
    if not set(piece) <= table.keys():
        raise ValueError(
            f"token {piece!r} is not made of bytes, nor of SentencePiece's pieces: only byte-level "
            "tokenizers (GPT-2, GPT-NeoX, Llama 3, SmolLM, Qwen) and SentencePiece-type ones "
            "(Llama 2, Mistral, Gemma) have exact token texts"
        )
    return bytes(table[letter] for letter in piece)


@functools.cache
def _byte_of_letter() -> dict[str, int]:
    """GPT-2's table: printable bytes are themselves, the other 68 are U+0100 onwards."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }

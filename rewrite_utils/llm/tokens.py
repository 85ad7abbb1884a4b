"""Texts as token ids: answers of one token, and shared parts that end with a block of the cache."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


def option_tokens(
    tokenizer: PreTrainedTokenizerBase, options: Sequence[str], *, after: str = ":"
) -> list[int]:
    """The one token that each option is when it stands behind the text ``after``.

    Raises ValueError, naming the tokenizer, if an option is not exactly one token there.
    """
    before = text_tokens(tokenizer, after)
    ids: list[int] = []
    for option in options:
        tokens = text_tokens(tokenizer, after + option)
        if len(tokens) != len(before) + 1 or tokens[:-1] != before or tokens[-1] in ids:
            pieces = tokenizer.convert_ids_to_tokens(list(tokens[-6:]))
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} does not write {option!r} behind "
                f"{after[-20:]!r} as one token of its own (the end is {pieces}), so its "
                "probability cannot be read from one position; choose another model or another "
                "beginning of the answer"
            )
        ids.append(tokens[-1])
    return ids


def digit_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of the digits 0…9; raises ValueError if they are not single tokens."""
    return option_tokens(tokenizer, "0123456789")


def text_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The text as it stands, in the middle of others: nothing is added in front or behind.

    A SentencePiece-type tokenizer (Llama 2, Mistral) would put a blank before it, as at the
    beginning of a text: there the text is read behind a line break, which is taken off again.
    Raises ValueError where that cannot be done.
    """
    found = tokenizer.encode(text, add_special_tokens=False)
    if not text or not _begins_with_a_blank(tokenizer):
        return tuple(found)
    before = tokenizer.encode("\n", add_special_tokens=False)
    whole = tokenizer.encode(f"\n{text}", add_special_tokens=False)
    if whole[: len(before)] != before:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} puts a blank before every text and joins "
            f"{text[:20]!r} to what stands before it: choose another model"
        )
    return tuple(whole[len(before) :])


def _begins_with_a_blank(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer writes a text as if a blank stood before it."""
    first = tokenizer.encode("a", add_special_tokens=False)[:1]
    return str(tokenizer.convert_ids_to_tokens(first)[0]).startswith("▁")


def padded(
    head: tuple[int, ...], tail: tuple[int, ...], *, filler: tuple[int, ...], multiple: int
) -> tuple[int, ...]:
    """``head`` and ``tail`` with ``filler`` repeated between them, to a multiple of ``multiple``.

    A shared part that ends inside a block of the cache is computed again for every prompt, up to
    ``multiple`` − 1 tokens. ``filler`` is one token, or the length comes out otherwise.
    """
    return (*head, *filler * (-(len(head) + len(tail)) % multiple), *tail)

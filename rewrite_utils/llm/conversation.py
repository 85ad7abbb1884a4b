"""A conversation as token ids and back: how prompts reach a chat endpoint that takes messages.

A hosted LLM's tokenizer and template are its own business. Here a token is one byte, or the mark of
who speaks, so that stages which make prompts of tokens need to know nothing of it.
"""

import re
from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rewrite_utils.llm.prompts import Turn

TEMPLATE = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}<|assistant|>"
MARK = re.compile(r"<\|(system|user|assistant)\|>")
BYTES_A_TOKEN = 4
"""Bytes of English that one token of an LLM holds, roughly; how a context is counted here."""


def bytes_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """One token a byte, and three marks; ``name`` is the model that will be asked."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens([f"<|{role}|>" for role in ("system", "user", "assistant")])
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, name_or_path=name, chat_template=TEMPLATE
    )


def turns_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> tuple[list[Turn], str]:
    """The turns of a prompt, and how the answer is to begin (without blanks at its ends)."""
    _, *parts = MARK.split(str(tokenizer.decode(list(tokens), skip_special_tokens=False)))
    turns = [Turn(*turn) for turn in zip(parts[::2], map(str.strip, parts[1::2]), strict=True)]
    return turns[:-1], turns[-1].text


def continued(reply: str, beginning: str) -> str:
    """The reply behind the beginning that the few-shots taught it to write, or all of it."""
    return reply.lstrip().removeprefix(beginning) if beginning else reply

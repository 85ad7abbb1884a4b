"""Which tokens of a row count: not its BOS, and no control token inside it (end of text, turns).

In: rows of token ids, the ids that are masked. Out: masks of the rows. A text never becomes such a
token (it is spelt out), so what stands there the corpus has put there, between two documents.
"""

from collections.abc import Collection

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The ids of all special tokens, ascending; added ones that are text (``<br>``) are not."""
    added = {token for token, text in tokenizer.added_tokens_decoder.items() if text.special}
    return tuple(sorted(added | set(tokenizer.all_special_ids)))


def counted(rows: Int[Tensor, "row pos"], masked: Collection[int] = ()) -> Bool[Tensor, "row pos"]:
    """Every token but the BOS at the head of its row and the masked ones."""
    found = ~torch.isin(rows, rows.new_tensor(list(masked)))
    found[:, 0] = False
    return found


def measured(rows: Int[Tensor, "row pos"], masked: Collection[int] = ()) -> Bool[Tensor, "row pos"]:
    """Where a loss is measured: the token counts, and so does the one behind it."""
    found = counted(rows, masked)
    found[:, :-1] &= found[:, 1:].clone()
    found[:, -1] = False
    return found

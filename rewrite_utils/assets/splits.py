"""From documents to token rows: every document in one split, then tokenised, joined and cut.

In: texts by source, shares, a seed; a tokenizer. Out: int64 rows [row, pos], BOS first. A
document's split depends on its text and the seed alone, so neither the order of a source nor an
added document moves any other document to another split (method, section 2).
"""

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

TRAIN = "train"
"""The split that coders are trained on: the same for every run of a seed, so that they are too."""
Texts = Sequence[Sequence[str | None]]
"""The documents of every source; None, a data set's null, is a blank document."""


class Place(NamedTuple):
    """Where one document stands."""

    order: bytes
    """Sort key within the split: half of the hash of the text and what the split is drawn by."""
    source: int
    """Index of its source."""
    index: int
    """Index in the source."""


class Split(NamedTuple):
    """The rows of one split."""

    rows: Int64[Tensor, "batch pos"]
    """Token ids; BOS at position 0 of every row, EOS after every document."""
    documents: int
    """How many documents the rows hold, the last of them perhaps not to its end."""


def assign(
    texts: Texts, shares: Mapping[str, float], *, seed: int, draw: int | None = None
) -> dict[str, list[Place]]:
    """Each distinct document's place, by split, in the split's own order.

    A hash of the seed and the text gives a number in [0, 1), which picks the split, and a sort
    key; with ``draw`` all splits but train are sorted by a hash of that and the text. Exact
    repetitions and blank documents are dropped.
    """
    bounds = list(accumulate(shares.values()))
    bounds[-1] = 1.0  # against rounding: every number in [0, 1) has a split
    seen: set[bytes] = set()
    places: dict[str, list[Place]] = {name: [] for name in shares}
    numbered = (
        (s, i, text or "") for s, column in enumerate(texts) for i, text in enumerate(column)
    )
    for source, index, text in numbered:
        digest = _digest(seed, text)
        if digest in seen or not text.strip():
            continue
        seen.add(digest)
        fraction = (int.from_bytes(digest[:8]) >> 11) / 2**53
        split = next(name for name, bound in zip(shares, bounds, strict=True) if fraction < bound)
        order = digest if draw is None or split == TRAIN else _digest(draw, text)
        places[split].append(Place(order[8:], source, index))
    return {name: sorted(found) for name, found in places.items()}


def _digest(key: int, text: str) -> bytes:
    return hashlib.blake2b(f"{key}\n{text}".encode(), digest_size=16).digest()


def rows_of(
    texts: Texts,
    places: Sequence[Place],
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    row_tokens: int,
    bos: int,
    limit: int | None = None,
) -> Split:
    """The documents at these places as rows of `row_tokens`, BOS included; at most `limit` rows."""
    chosen = (texts[place.source][place.index] or "" for place in places)
    bar = iter(tqdm(chosen, total=len(places), desc=f"tokenise {name}"))
    return cut(tokenised(bar, tokenizer), row_tokens=row_tokens, bos=bos, limit=limit)


def tokenised(texts: Iterator[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Token ids of each document, EOS after it, made a batch at a time."""
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ValueError("the tokenizer has no EOS token to put between documents: set eos_token")
    while batch := list(islice(texts, 256)):
        for ids in plain_ids(tokenizer, batch):
            yield [*ids, end]


def plain_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of texts that are nothing but text: a "<|im_end|>" written in one is spelt out in
    ordinary tokens, and no special token is added.
    """
    found = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return found["input_ids"]


def cut(tokens: Iterator[list[int]], *, row_tokens: int, bos: int, limit: int | None) -> Split:
    """Join documents and cut them into rows, BOS in front; what does not fill a row is dropped."""
    width = row_tokens - 1
    enough = float("inf") if limit is None else limit * width
    stream, starts = array("i"), []
    for ids in tokens:
        starts.append(len(stream))
        stream.extend(ids)
        if len(stream) >= enough:
            break
    kept = int(min(len(stream), enough)) // width * width
    body = torch.tensor(np.asarray(stream[:kept]), dtype=torch.int64).view(-1, width)
    rows = torch.cat([torch.full((len(body), 1), bos), body], dim=1)
    return Split(rows, sum(start < kept for start in starts))

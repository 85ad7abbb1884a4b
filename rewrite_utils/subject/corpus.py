"""Token rows for the subject model, in five splits that share no document (method, section 2).

In: names of text sources and a tokenizer. Out: a `Corpus` of int64 rows [row, pos], BOS first.
A document's split and its place there depend on its text and the seed alone, so neither the order
of the source nor an added document moves any other document to another split.
"""

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import accumulate, chain, islice
from math import isclose
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import load_dataset
from datasets.exceptions import DatasetGenerationError
from jaxtyping import Int64
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from rewrite_utils.assets import ASSETS, documents, is_embedded
from rewrite_utils.params import placed

SPLITS = ("train", "explain", "score", "calibrate", "evaluate")
SHARED = SPLITS[1:]
"""The splits that are one and the same in a faithful corpus: the authors held nothing out."""


class Place(NamedTuple):
    """Where one document stands."""

    order: bytes
    """Sort key within the split: half of the hash of the seed and the text."""
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


@dataclass(frozen=True, kw_only=True, repr=False)
class Corpus:
    """Token rows by split, and what they were made from."""

    splits: Mapping[str, Split]
    """The splits that have a share, in the order of `SPLITS`."""
    sources: tuple[str, ...]
    """The names the text was loaded by."""
    seed: int
    """Decides the split and the order of the documents."""
    faithful: bool
    """True: explain, score, calibrate and evaluate hold the same rows, as in the paper."""

    def split(self, name: str) -> Split:
        """One split; ValueError if the corpus was made without it."""
        if name not in self.splits:
            raise ValueError(f"the corpus has no split {name!r}: it has {', '.join(self.splits)}")
        return self.splits[name]

    def rows(self, split: str) -> Int64[Tensor, "batch pos"]:
        """Token ids of one split, BOS at position 0."""
        return self.split(split).rows

    def documents(self, split: str) -> int:
        """Number of documents that the rows of one split hold."""
        return self.split(split).documents

    def tokens(self, split: str) -> int:
        """Number of tokens in the rows of one split, BOS not counted."""
        rows = self.split(split).rows
        return rows.numel() - len(rows)

    def __repr__(self) -> str:
        """Rows by split, in one line."""
        sizes = ", ".join(f"{name} {len(split.rows):,}" for name, split in self.splits.items())
        return f"Corpus(rows: {sizes}; faithful={self.faithful})"

    def write(self, folder: Path | str) -> None:
        """Write `rows.safetensors` (int32) and `corpus.json` into an existing or a new folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: split.rows.int() for name, split in self.splits.items()}
        save_file(tensors, folder / "rows.safetensors")
        about = {
            "documents": {name: split.documents for name, split in self.splits.items()},
            "sources": self.sources,
            "seed": self.seed,
            "faithful": self.faithful,
        }
        (folder / "corpus.json").write_text(json.dumps(about, indent=1), "utf-8")

    @classmethod
    def read(cls, folder: Path | str) -> "Corpus":
        """Read what `write` wrote; FileNotFoundError if the folder holds no corpus."""
        about = json.loads((Path(folder) / "corpus.json").read_text("utf-8"))
        rows = load_file(Path(folder) / "rows.safetensors")
        counts = about["documents"]
        return cls(
            splits={name: Split(rows[name].long(), counts[name]) for name in counts},
            sources=tuple(about["sources"]),
            seed=about["seed"],
            faithful=about["faithful"],
        )


def load_corpus(
    sources: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    row_tokens: int,
    shares: Mapping[str, float],
    seed: int,
    bos: int,
    max_rows: Mapping[str, int] | None = None,
    faithful: bool = False,
) -> Corpus:
    """Split, shuffle, tokenise and cut documents into rows of `row_tokens`, BOS included.

    Shares are fractions of the documents and sum to 1; a split without a share is left out.
    `max_rows` ends a split early (and saves tokenising the rest). With `faithful`, the four splits
    after train are pooled and each takes its rows from the pool's beginning.

    Raises ValueError for wrong shares, an unknown source, or a split too small for one row.
    """
    shares = checked_shares(shares)
    texts = [source_texts(source) for source in sources]
    places = assign(texts, shares, seed=seed)
    if faithful:
        pool = sorted(chain.from_iterable(places[name] for name in shares if name in SHARED))
        places = {name: pool if name in SHARED else places[name] for name in shares}
    splits = {}
    for name, found in places.items():
        chosen = (texts[place.source][place.index] or "" for place in found)
        bar = iter(tqdm(chosen, total=len(found), desc=f"tokenise {name}"))
        limit = (max_rows or {}).get(name)
        splits[name] = cut(tokenised(bar, tokenizer), row_tokens=row_tokens, bos=bos, limit=limit)
        if not len(splits[name].rows):
            raise empty_split(name, places, share=shares[name], row_tokens=row_tokens)
    return Corpus(splits=splits, sources=tuple(sources), seed=seed, faithful=faithful)


def empty_split(
    name: str, places: Mapping[str, Sequence[Place]], *, share: float, row_tokens: int
) -> ValueError:
    """The error for a split without a single full row."""
    total = len(set(chain.from_iterable(places.values())))
    return ValueError(
        f"split {name!r} is empty: its share of {share:g} holds {len(places[name])} of {total} "
        f"documents, too little text for one row of {row_tokens} tokens. Give it a larger share, "
        "add a source, or shorten the rows."
    )


def checked_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """The positive shares in the order of `SPLITS`; ValueError for anything that is no share."""
    for name, share in shares.items():
        if name not in SPLITS:
            raise ValueError(f"no split is called {name!r}{nearest(name, SPLITS)}")
        if share < 0:
            raise ValueError(f"the share of split {name!r} is {share:g}: it cannot be negative")
    if not isclose(total := sum(shares.values()), 1.0, abs_tol=1e-6):
        raise ValueError(f"the shares {dict(shares)} sum to {total:g}: they must sum to 1")
    return {name: shares[name] for name in SPLITS if shares.get(name)}


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for a misspelt name: the close match, or all there are."""
    near = get_close_matches(name, known, n=1)
    return f": did you mean {near[0]!r}?" if near else f": there are {', '.join(known)}"


def source_texts(source: str) -> Sequence[str | None]:
    """The documents of an embedded corpus, or the `text` column of a data set from the hub.

    A data set may name its split and slice: "monology/pile-uncopyrighted:train[:1%]" (default
    train). A folder of text or JSON files does as well. Raises ValueError for an unknown source.
    """
    if is_embedded(source):
        return documents(source)
    name, _, split = source.partition(":")
    if not name.strip():
        raise ValueError(
            f"source {source!r} names nothing: give embedded text, a data set, a folder"
        )
    try:
        table = load_dataset(str(placed(name)), split=split or "train")
    except DatasetGenerationError as error:
        raise ValueError(
            f"source {source!r} cannot be read ({error.__cause__ or error}): it takes UTF-8 text, "
            "JSON lines or parquet with a column 'text', and no empty file"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        embedded = [asset.name for asset in ASSETS if asset.kind == "text"]
        raise ValueError(
            f"source {source!r} is neither embedded text nor a data set on the hub or in a folder "
            f"(the loader said: {error}){nearest(name, embedded)}"
        ) from error
    if "text" not in table.column_names:
        raise ValueError(f"source {source!r} has no column 'text': it has {table.column_names}")
    if "string" not in (kind := str(table.features["text"].dtype)):
        raise ValueError(f"source {source!r}: its column 'text' holds {kind}, not text")
    return table["text"]


def assign(
    texts: Sequence[Sequence[str | None]], shares: Mapping[str, float], *, seed: int
) -> dict[str, list[Place]]:
    """Each distinct document's place, by split, in the split's own order.

    A hash of the seed and the text gives a number in [0, 1), which picks the split, and a sort
    key. Exact repetitions and blank documents are dropped.
    """
    bounds = list(accumulate(shares.values()))
    bounds[-1] = 1.0  # against rounding: every number in [0, 1) has a split
    seen: set[bytes] = set()
    places: dict[str, list[Place]] = {name: [] for name in shares}
    for source, index, text in numbered(texts):
        digest = hashlib.blake2b(f"{seed}\n{text}".encode(), digest_size=16).digest()
        if digest in seen or not text.strip():
            continue
        seen.add(digest)
        fraction = (int.from_bytes(digest[:8]) >> 11) / 2**53
        split = next(name for name, bound in zip(shares, bounds, strict=True) if fraction < bound)
        places[split].append(Place(digest[8:], source, index))
    return {name: sorted(found) for name, found in places.items()}


def numbered(texts: Sequence[Sequence[str | None]]) -> Iterator[tuple[int, int, str]]:
    """(source, index in it, text) of every document."""
    for source, column in enumerate(texts):
        for index, text in enumerate(column):
            yield source, index, text or ""  # a data set's null is a blank document


def tokenised(texts: Iterator[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Token ids of each document, EOS after it, made a batch at a time."""
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ValueError("the tokenizer has no EOS token to put between documents: set eos_token")
    while batch := list(islice(texts, 256)):
        for ids in tokenizer(batch, add_special_tokens=False, verbose=False).input_ids:
            yield [*ids, end]


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

"""Token rows for the subject model, in five splits that share no document (method, section 2).

In: names of text sources and a tokenizer. Out: a `Corpus` of int64 rows [row, pos], BOS first.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from jaxtyping import Bool, Int64
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rewrite_utils.assets.sources import source_texts
from rewrite_utils.assets.splits import Place, Split, Texts, assign, rows_of
from rewrite_utils.params import SPLITS
from rewrite_utils.runs.whole import whole
from rewrite_utils.subject.masking import measured

SHARED = SPLITS[1:]
"""The splits that are one and the same in a faithful corpus: the authors held nothing out."""
FITTED = ("calibrate", "evaluate")
"""The splits that calibrations are fitted and measured on."""


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
    masked: tuple[int, ...] = ()
    """Control tokens on which nothing is trained, cached, described or measured."""

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
        rows = self.rows(split)
        return rows.numel() - len(rows)

    def measured(self, split: str) -> Bool[Tensor, "batch pos"]:
        """Where losses of one split are measured."""
        return measured(self.rows(split), self.masked)

    def __repr__(self) -> str:
        """Rows by split, in one line."""
        sizes = ", ".join(f"{name} {len(split.rows):,}" for name, split in self.splits.items())
        return f"Corpus(rows: {sizes}; faithful={self.faithful})"

    def write(self, folder: Path | str) -> None:
        """Write `rows.safetensors` (int32) and `corpus.json` into an existing or a new folder."""
        about = {
            "documents": {name: split.documents for name, split in self.splits.items()},
            "sources": self.sources,
            "seed": self.seed,
            "faithful": self.faithful,
        }
        if self.masked:  # as it was written before there was such a thing
            about["masked"] = self.masked
        with whole(Path(folder) / "rows.safetensors") as file:
            save_file({name: split.rows.int() for name, split in self.splits.items()}, file)
        with whole(Path(folder) / "corpus.json") as file:
            file.write_text(json.dumps(about, indent=1), "utf-8")

    @classmethod
    def read(cls, folder: Path | str) -> "Corpus":
        """Read what `write` wrote; FileNotFoundError if the folder holds no corpus."""
        about = json.loads((Path(folder) / "corpus.json").read_text("utf-8"))
        rows = load_file(Path(folder) / "rows.safetensors")
        counts = about.pop("documents")
        splits = {name: Split(rows[name].long(), count) for name, count in counts.items()}
        lists = {name: tuple(about[name]) for name in ("sources", "masked") if name in about}
        return cls(splits=splits, **about | lists)


def load_corpus(
    sources: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    row_tokens: int,
    shares: Mapping[str, float],
    seed: int,
    bos: int,
    draw: int | None = None,
    max_rows: Mapping[str, int] | None = None,
    faithful: bool = False,
    apart_from: Sequence[int] = (),
    masked: Collection[int] = (),
) -> Corpus:
    """Split, shuffle, tokenise and cut documents into rows of `row_tokens`, BOS included.

    Shares are fractions of the documents and sum to 1; a split without a share is left out.
    `max_rows` ends a split early (and saves tokenising the rest); which documents come first is the
    seed's to say, or `draw`'s in every split but train. With `faithful`, the four splits after
    train are pooled and each takes its rows from the pool's beginning. Documents that lie in
    calibrate or evaluate by one of the seeds ``apart_from`` are left out of evaluate.

    Raises ValueError for an unknown source, or a split too small for one row.
    """
    shares = {name: shares[name] for name in SPLITS if shares.get(name)}
    texts = [source_texts(source) for source in sources]
    places = _placed(texts, shares, seed, draw, faithful=faithful, apart_from=apart_from)
    splits, size = {}, {"row_tokens": row_tokens, "bos": bos}
    for name, found in places.items():
        limit = (max_rows or {}).get(name)
        splits[name] = rows_of(texts, found, tokenizer, name=name, limit=limit, **size)
        if not len(splits[name].rows):
            total = len(set(chain.from_iterable(places.values())))
            raise ValueError(
                f"split {name!r} is empty: its share of {shares[name]:g} holds {len(found)} of "
                f"{total} documents, too little text for one row of {row_tokens} tokens. Give it a "
                "larger share, add a source, or shorten the rows."
            )
    made_of = {"sources": tuple(sources), "seed": seed, "faithful": faithful}
    return Corpus(splits=splits, masked=tuple(masked), **made_of)


def _placed(
    texts: Texts,
    shares: Mapping[str, float],
    seed: int,
    draw: int | None,
    *,
    faithful: bool,
    apart_from: Sequence[int],
) -> dict[str, list[Place]]:
    """Each split's documents, in its order."""
    places = assign(texts, shares, seed=seed, draw=draw)
    if faithful:
        pool = sorted(chain.from_iterable(places[name] for name in shares if name in SHARED))
        places = {name: pool if name in SHARED else places[name] for name in shares}
    if apart_from:
        drawn = [assign(texts, shares, seed=other) for other in apart_from]
        used = {one[1:] for each in drawn for name in FITTED for one in each.get(name, ())}
        places["evaluate"] = [one for one in places["evaluate"] if one[1:] not in used]
    return places

"""The documents of a text source: embedded, a folder, or a data set on the hub.

In: a name. Out: one string a document. What a document is depends on the kind of source: in text
files one file, in tables (JSON lines, parquet, CSV) one row's `text`, and in embedded text what the
catalogue says.
"""

from collections.abc import Sequence
from pathlib import Path

from datasets import ReadInstruction, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetGenerationError

from rewrite_utils.assets.catalogue import ASSETS, is_embedded, nearest
from rewrite_utils.assets.hub import reason
from rewrite_utils.assets.store import documents
from rewrite_utils.params import placed

TEXT_FILES = (".txt", ".text")
TABLES = (".jsonl", ".json", ".parquet", ".csv", ".arrow")


def source_texts(source: str) -> Sequence[str | None]:
    """The documents of an embedded corpus, a folder, or a data set from the hub.

    A source may name its split and slice: "monology/pile-uncopyrighted:train[:1%]" (default train).
    Raises ValueError for an unknown source, or one that cannot be read as text.
    """
    if is_embedded(source):
        return documents(source)
    name, _, split = source.partition(":")
    if not name.strip():
        raise ValueError(
            f"source {source!r} names nothing: give embedded text, a data set, a folder"
        )
    place = placed(name)
    try:
        if files := text_files(place):
            return file_texts(files, split or "train")
        return table_texts(str(place), split or "train")
    except (UnicodeDecodeError, DatasetGenerationError) as error:
        raise ValueError(
            f"source {source!r} cannot be read ({error.__cause__ or error}): it takes UTF-8 text "
            "files (one a document), or JSON lines or parquet with a column 'text' (one row a "
            "document), and no empty file"
        ) from error
    except UnusableSource as error:
        raise ValueError(f"source {source!r} {error}") from error
    except (OSError, ValueError, RuntimeError) as error:
        embedded = [asset.name for asset in ASSETS if asset.kind == "text"]
        if why := reason(error):
            raise ValueError(f"source {source!r} {why}{nearest(name, embedded)}") from error
        raise ValueError(
            f"source {source!r} is neither embedded text nor a data set on the hub or in a folder "
            f"(the loader said: {error}){nearest(name, embedded)}"
        ) from error


class UnusableSource(ValueError):
    """There is something of that name, but not text; the message goes on from the source's name."""


def text_files(folder: Path) -> list[Path]:
    """The text files in a folder and below, in order of their paths; none where it holds tables.

    Raises UnusableSource where it holds both.
    """
    files = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    texts, tables = (
        [path for path in files if path.suffix.lower() in kinds] for kinds in (TEXT_FILES, TABLES)
    )
    if texts and tables:
        raise UnusableSource(
            f"holds text files ({texts[0].name} …), each a document, and tables ({tables[0].name} "
            "…), each row a document: put them into folders of their own"
        )
    return texts


def file_texts(files: Sequence[Path], split: str) -> list[str]:
    """Each file as one document, its line breaks kept (as LF); `split` may take a slice of them."""
    slices = ReadInstruction.from_spec(split).to_absolute({"train": len(files)})
    chosen = [file for part in slices for file in files[part.from_ : part.to]]
    texts = [file.read_text("utf-8-sig") for file in chosen]
    if not any(text.strip() for text in texts):
        raise UnusableSource(f"cannot be read: its {len(texts)} text files hold no text")
    return texts


def table_texts(name: str, split: str) -> Sequence[str | None]:
    """The column `text` of a data set; in a data set of text files, one file a document."""
    of_text_files = hasattr(load_dataset_builder(name).config, "sample_by")
    whole_files = {"sample_by": "document"} if of_text_files else {}
    table = load_dataset(name, split=split, **whole_files)
    if "text" not in table.column_names:
        raise UnusableSource(f"has no column 'text': it has {table.column_names}")
    if "string" not in (kind := str(table.features["text"].dtype)):
        raise UnusableSource(f"holds {kind} in its column 'text', not text")
    return table["text"]

"""What a document is in each kind of source, and which sources are refused."""

import gzip
import json
from pathlib import Path

import datasets
import pandas as pd
import pytest

from rewrite_utils.assets import sources as reading
from rewrite_utils.assets.sources import source_texts
from rewrite_utils.assets.splits import assign

SHARES = {"train": 0.4, "explain": 0.2, "score": 0.2, "calibrate": 0.1, "evaluate": 0.1}
BOOK = "Chapter 1\n\nIt was night.\nIt was night.\n\n  The end\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    """Data sets are unpacked below the test's own folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def folder(tmp_path: Path, **files: bytes) -> Path:
    """A folder with these files; "__" in a name is a folder below, "_" a dot."""
    for name, content in files.items():
        path = tmp_path / "text" / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "text"


def test_a_text_file_is_a_document_line_breaks_and_repeated_lines_kept(tmp_path):
    windows = b"\xef\xbb\xbf" + BOOK.replace("\n", "\r\n").encode()
    place = folder(tmp_path, a_txt=BOOK.encode(), more__test_txt=windows, b_TXT=b"caf\xc3\xa9")
    assert list(source_texts(str(place))) == [BOOK, "caf\u00e9", BOOK]
    assert list(source_texts(f"{place}:train[1:]")) == ["caf\u00e9", BOOK]


def test_a_blank_file_is_a_blank_document_and_hidden_ones_are_none(tmp_path):
    place = folder(tmp_path, a_txt=BOOK.encode(), b_txt=b"\n", _c_txt=b"\xff\x00")
    texts = source_texts(str(place))
    assert list(texts) == [BOOK, "\n"]
    assert sum(map(len, assign([texts], SHARES, seed=1).values())) == 1


def test_a_row_of_a_table_is_a_document(tmp_path):
    for ending in ("jsonl", "parquet"):
        place = tmp_path / ending
        place.mkdir()
        table = pd.DataFrame({"text": [BOOK, "two"], "title": ["a", "b"]})
        if ending == "jsonl":
            table.to_json(place / "rows.jsonl", orient="records", lines=True)
        else:
            table.to_parquet(place / "rows.parquet")
        assert list(source_texts(str(place))) == [BOOK, "two"]


def test_packed_text_files_are_a_document_each(tmp_path):
    """What the loader of data sets reads itself: here as on the hub."""
    place = folder(tmp_path, a_txt_gz=gzip.compress(BOOK.encode()))
    assert list(source_texts(str(place))) == [BOOK]


def test_text_files_beside_tables_are_refused(tmp_path):
    place = folder(tmp_path, a_txt=b"text", rows_jsonl=b'{"text": "x"}\n')
    with pytest.raises(ValueError, match=r"text files \(a.txt …\).*tables \(rows.jsonl …\).*own"):
        source_texts(str(place))


def test_a_slice_of_a_split_that_is_not_there_is_an_error(tmp_path):
    place = folder(tmp_path, a_txt=b"text")
    with pytest.raises(ValueError, match='Unknown split "test"'):
        source_texts(f"{place}:test")


def test_a_folder_is_a_source_and_needs_a_text_column(tmp_path):
    for name, column in (("good", "text"), ("bad", "body")):
        (tmp_path / name).mkdir()
        lines = [json.dumps({column: f"document {i}"}) for i in range(10)]
        (tmp_path / name / "rows.jsonl").write_text("\n".join(lines))
    half = source_texts(f"{tmp_path}/good:train[:50%]")
    assert list(half) == [f"document {i}" for i in range(5)]
    assert sum(map(len, assign([half], SHARES, seed=1).values())) == 5
    with pytest.raises(ValueError, match=r"no column 'text': it has \['body'\]"):
        source_texts(f"{tmp_path}/bad")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.txt", "café\n".encode("latin1")),
        ("a.txt", b""),
        ("a.jsonl", b'{"text": "x"\n'),
        ("a.jsonl", b'{"text": 3}\n'),
        ("a.jsonl", b'{"text": null}\n'),
    ],
)
def test_a_folder_without_readable_text_is_one_error_that_names_it(tmp_path, file, content):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"source '{tmp_path}/text'.*(cannot be read|not text)"):
        source_texts(f"{tmp_path}/text")


def test_a_source_without_a_name_is_refused():
    with pytest.raises(ValueError, match="source '' names nothing"):
        source_texts("")


def test_an_unknown_source_names_the_near_one(monkeypatch):
    def unreachable(name: str) -> None:
        raise ConnectionError(f"could not reach {name!r}")

    monkeypatch.setattr(reading, "load_dataset_builder", unreachable)
    with pytest.raises(ValueError, match=r"'wikipedia' is neither.*could not reach.*'embedded/wik"):
        source_texts("wikipedia")
    with pytest.raises(ValueError, match="did you mean 'embedded/wikipedia'"):
        source_texts("embedded/wikipdia")

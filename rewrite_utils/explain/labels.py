"""Labels from elsewhere as the explanations of a run, and ours as Neuronpedia imports them.

In: Neuronpedia's export (a file of JSON lines or a folder of them), a delphi run's folder, or a
table of two columns, latent and label (CSV, TSV). Out: our explanations table; a failed parse, null
or −1 is a failure there, not a sentence. No LLM is asked. Of Neuronpedia's format
(docs.neuronpedia.org/api-and-data/exports, 2026) these fields are used: modelId, layer (its source,
"6-gemmascope-transcoder-16k"; its Python package says ``source``), index, description, typeName and
explanationModelName.
"""

import csv
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from rewrite_utils.explain import delphi
from rewrite_utils.params import ParameterError, placed
from rewrite_utils.runs.whole import whole
from rewrite_utils.subject.model import Hookpoint

TABLES = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".jsonl.gz")
TYPE = "rewrite-utils"
"""Our kind of explanation, where Neuronpedia says how one was made."""


def read_labels(place: str, hookpoint: Hookpoint) -> pd.DataFrame:
    """One row a latent, in order; of several labels of a latent the first counts.

    Raises ParameterError: no labels there, or of several sources for one layer.
    """
    if is_delphi(place):
        return delphi.read_explanations(place, hookpoint.name)
    found: dict[int, object] = {}
    for file in files(place, hookpoint.name):
        pairs = _pairs(file) if file.suffix in TABLES else _of_layer(file, hookpoint.layer)
        for latent, said in pairs:
            found.setdefault(latent, said)
    if not found:
        raise ParameterError(f"explain.labels: {place} holds no label of {hookpoint.name}")
    return delphi.explained(dict(sorted(found.items())))


def is_delphi(place: str) -> bool:
    """Whether it is a delphi run's folder."""
    return any(placed(place).glob("explanations/*_latent*.txt"))


def files(place: str, hookpoint: str) -> list[Path]:
    """The file; in a folder the one named by the hookpoint, else all files of JSON lines in it.

    Raises ParameterError where there are none.
    """
    folder, endings = placed(place), (*TABLES, *LINES)
    if folder.is_file():
        found = [folder] if folder.name.endswith(endings) else []
    else:
        named = [folder / (hookpoint + ending) for ending in endings]
        found = [file for file in named if file.is_file()][:1]
        found = found or sorted(file for end in LINES for file in folder.rglob(f"*{end}"))
    if not found:
        raise ParameterError(
            f"explain.labels: there are no labels of {hookpoint} in {place}: give Neuronpedia's "
            "JSON lines (.jsonl, .jsonl.gz), a delphi run's folder, or a table of latent and label "
            f"(.csv, .tsv); in a folder, {hookpoint}.csv"
        )
    return found


def digest(place: str, hookpoint: Hookpoint) -> str:
    """Hash of what is read."""
    if is_delphi(place):
        return delphi.digest(place, hookpoint.name)
    read = hashlib.sha256()
    for file in files(place, hookpoint.name):
        read.update(f"{file.name}:".encode() + file.read_bytes())
    return read.hexdigest()[:12]


def write_lines(
    file: Path, explanations: pd.DataFrame, *, model: str, source: str, explainer: str
) -> None:
    """One line a latent that has a sentence; ``model`` and ``source`` are Neuronpedia's names."""
    kept = explanations.dropna(subset=["sentence"])
    common = {"modelId": model, "layer": source, "source": source}
    made = {"typeName": TYPE, "explanationModelName": explainer}
    with whole(file) as beside, beside.open("w", encoding="utf-8") as stream:
        for latent, sentence in zip(kept["latent"], kept["sentence"], strict=True):
            row = common | {"index": str(latent), "description": sentence} | made
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _of_layer(file: Path, layer: int) -> list[tuple[int, object]]:
    """The labels of one layer's source, of those in a file; a source begins with its layer."""
    by_source: dict[str, list[tuple[int, object]]] = {}
    for source, latent, said in _lines(file):
        by_source.setdefault(source, []).append((latent, said))
    layers = {source: re.match(r"\d+", source) for source in by_source}
    fitting = [source for source, found in layers.items() if not found or int(found[0]) == layer]
    if len(fitting) != 1:
        raise ParameterError(
            f"explain.labels: {file} holds {len(fitting)} sources for layer {layer} (of "
            f"{', '.join(sorted(by_source)) or 'none'}): keep the lines of the one that the "
            "site's coder is"
        )
    return by_source[fitting[0]]


def _lines(file: Path) -> Iterator[tuple[str, int, object]]:
    """(source, latent, description) of every line of Neuronpedia's, in order."""
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _label(line, f"{file}, line {number}")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ParameterError(f"explain.labels: {file} cannot be read: {error}") from None


def _label(line: str, where: str) -> tuple[str, int, object]:
    try:
        found: dict[str, Any] = json.loads(line)
        source = found["layer"] if "layer" in found else found["source"]
        return str(source), int(found["index"]), found["description"]
    except (ValueError, KeyError, TypeError) as error:
        raise ParameterError(
            f"explain.labels: {where} is not a label of Neuronpedia's (fields layer, index, "
            f"description): {error!r}"
        ) from None


def _pairs(file: Path) -> Iterator[tuple[int, str]]:
    """The rows of a table, a line of headings before them left out."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        for number, row in enumerate(csv.reader(stream, delimiter=TABLES[file.suffix]), 1):
            if len(row) == 2 and row[0].strip().isdecimal():
                yield int(row[0]), row[1]
            elif row and number > 1:
                raise ParameterError(
                    f"explain.labels: {file}, line {number} is not a latent's number and its "
                    f"label, in quotation marks if it has a separator in it: {row}"
                )

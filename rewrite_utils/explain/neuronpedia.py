"""Explanations as Neuronpedia exports and imports them: JSON lines, one object a label.

In and out: ``explanations/batch-N.jsonl(.gz)`` of its exports, of which these fields are used:
modelId, layer (its source, "6-gemmascope-transcoder-16k"), index, description, typeName and
explanationModelName. Format: docs.neuronpedia.org/api-and-data/exports, 2026.
"""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from rewrite_utils.params import ParameterError
from rewrite_utils.runs.whole import whole

TYPE = "rewrite-utils"
"""Our kind of explanation, where Neuronpedia says how one was made."""


def read(file: Path) -> Iterator[tuple[str, int, object]]:
    """(source, latent, description) of every line, in order.

    Raises ParameterError at a line that is not such an object.
    """
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _label(line, f"{file}, line {number}")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ParameterError(f"explain.labels: {file} cannot be read: {error}") from None


def write(
    file: Path, explanations: pd.DataFrame, *, model: str, source: str, explainer: str
) -> None:
    """One line a latent that has a sentence; ``model`` and ``source`` are Neuronpedia's names."""
    kept = explanations.dropna(subset=["sentence"])
    common = {"modelId": model, "layer": source}
    made = {"typeName": TYPE, "explanationModelName": explainer}
    with whole(file) as beside, beside.open("w", encoding="utf-8") as stream:
        for latent, sentence in zip(kept["latent"], kept["sentence"], strict=True):
            row = common | {"index": str(latent), "description": sentence} | made
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def layer_of(source: str) -> int | None:
    """The layer that a source begins with; None where it says none."""
    found = re.match(r"\d+", source)
    return int(found[0]) if found else None


def _label(line: str, where: str) -> tuple[str, int, object]:
    try:
        found: dict[str, Any] = json.loads(line)
        return str(found["layer"]), int(found["index"]), found["description"]
    except (ValueError, KeyError, TypeError) as error:
        raise ParameterError(
            f"explain.labels: {where} is not a label of Neuronpedia's (fields layer, index, "
            f"description): {error!r}"
        ) from None

"""Explanations and scores as delphi writes and reads them, both ways.

A delphi run's folder holds ``explanations/<hookpoint>_latent<j>.txt`` (one JSON string) and
``scores/<scorer>/<hookpoint>_latent<j>.txt`` (a JSON list, one object a window). Out: our tables,
so that someone with a delphi run can start at notebook 05. Format: EleutherAI/delphi, 2025.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy import ndarray

from rewrite_utils.explain.asking import Explanation
from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.windows import window_tokens, window_values
from rewrite_utils.params import ParameterError, placed

SCORES = {"detection": "detection", "fuzzing": "fuzz"}
"""Our kind of test → delphi's folder below scores/."""
UNPARSED = frozenset({"explanation could not be parsed.", "no explanation found", ""})
"""What delphi stores where its explainer gave no sentence: failures, not sentences."""
FAILED = (None, -1, "-1")
"""What stands for an answer that could not be parsed: neither a sentence nor a "no"."""


class Judged(NamedTuple):
    """A delphi run's scores of one kind."""

    table: pd.DataFrame
    """latent, row, end (−1: delphi does not say), active, probability."""
    failures: int
    """Windows without a parsable answer; they are left out."""


def read_explanations(folder: str | Path, hookpoint: str) -> pd.DataFrame:
    """One row a latent, in order: our explanations table, ``sentence`` missing for a failure.

    Raises ParameterError: no such files, or one that is not a JSON string.
    """
    found: dict[int, object] = {}
    for latent, file in files(folder, "explanations", hookpoint).items():
        found[latent] = text = _loaded(file)
        if not isinstance(text, str) and text not in FAILED:
            raise ParameterError(f"{file} holds {type(text).__name__}, not one JSON string")
    return explained(found)


def explained(found: Mapping[int, object]) -> pd.DataFrame:
    """What was said elsewhere about each latent as our explanations table; ``sentence`` is missing
    where that is a failure."""
    rows = []
    for latent, text in found.items():
        words = "" if text in FAILED else str(text)
        said = None if words.strip().lower() in UNPARSED else " ".join(words.split())
        rows.append(Explanation(latent, said, "", "", words, 0, 0))
    table = pd.DataFrame(rows, columns=list(Explanation._fields))
    return table.assign(sentence=table["explanation"])


def read_scores(folder: str | Path, hookpoint: str, *, kind: str = "detection") -> Judged:
    """One row a (latent, window). Where delphi kept no probability, its prediction is 0 or 1.

    Raises ParameterError: no such files, or a list with other fields.
    """
    rows, failures = [], 0
    for latent, file in files(folder, f"scores/{SCORES[kind]}", hookpoint).items():
        judged, needed = _loaded(file), {"activating", "prediction"}
        if not isinstance(judged, list) or any(
            not isinstance(one, dict) or not needed <= one.keys() for one in judged
        ):
            raise ParameterError(
                f"{file} is not a list of delphi's judgements (fields activating, prediction)"
            )
        for one in judged:
            said = one["probability"] if one.get("probability") is not None else one["prediction"]
            if one["prediction"] in FAILED or said in FAILED:
                failures += 1
            else:
                rows.append((latent, -1, -1, bool(one["activating"]), float(said)))
    columns = ["latent", "row", "end", "active", "probability"]
    return Judged(pd.DataFrame(rows, columns=columns), failures)


def files(folder: str | Path, part: str, hookpoint: str) -> dict[int, Path]:
    """The files of one hookpoint, by latent.

    Raises ParameterError, naming the hookpoints there are.
    """
    name = re.compile(rf"{re.escape(_safe(hookpoint))}_latent(\d+)\.txt")
    folder = placed(folder)
    there = sorted(Path(folder, part).glob("*_latent*.txt"))
    found = {int(hit[1]): file for file in there if (hit := name.fullmatch(file.name))}
    if not found:
        known = sorted({file.name.rpartition("_latent")[0] for file in there})
        raise ParameterError(
            f"explain.delphi: no file {hookpoint}_latent<j>.txt in {Path(folder, part)}; it holds "
            f"{', '.join(known) or 'no latents'}"
        )
    return dict(sorted(found.items()))


def digest(folder: str | Path, hookpoint: str, *, scores: str = "") -> str:
    """Hash of the explanations, or of the scores of one kind: names and bytes."""
    part = f"scores/{SCORES[scores]}" if scores else "explanations"
    whole = hashlib.sha256()
    for latent, file in files(folder, part, hookpoint).items():
        whole.update(f"{latent}:".encode() + file.read_bytes())
    return whole.hexdigest()[:12]


def require_width(
    latents: Iterable[int], width: int, hookpoint: str, origin: str = "explain.delphi"
) -> None:
    """Raise ParameterError when the latents are a wider coder's."""
    highest = max(latents)
    if highest >= width:
        raise ParameterError(
            f"{origin}: {hookpoint} has a latent {highest}, but the site's coder has "
            f"{width} latents: name the coder they belong to in sites.<site>.coder"
        )


def write_explanations(folder: Path, hookpoint: str, explanations: pd.DataFrame) -> None:
    """One file a latent; a latent without a sentence gets none."""
    kept = explanations.dropna(subset=["sentence"])
    for latent, text in zip(kept["latent"], kept["sentence"], strict=True):
        _write(folder / "explanations", hookpoint, latent, text)


def write_scores(
    folder: Path,
    hookpoint: str,
    judgements: pd.DataFrame,
    *,
    cache: LatentCache,
    window: int,
    texts: Callable[[ndarray], list[str]],
    kind: str = "detection",
) -> None:
    """One file a latent in delphi's field names; ``cache`` is of the rows that were judged.

    ``judgements``: latent, row, end, active, probability, and ``said``, whether that is a yes.
    ``distance`` is the rank decile of an activating window's maximum (1: strongest), −1 for others.
    """
    for latent, table in judgements.groupby("latent"):
        places = Windows(table["row"].to_numpy(), table["end"].to_numpy())
        ids = window_tokens(cache, places, window)
        values = window_values(cache, int(str(latent)), places, window)
        decile = _deciles(values.max(1), table["active"].to_numpy(bool))
        found = [
            {
                "str_tokens": texts(row),
                "activations": [round(float(v), 4) for v in strength],
                "distance": rank,
                "activating": bool(one.active),
                "prediction": bool(one.said),
                "probability": float(one.probability),
                "correct": bool(one.active) == bool(one.said),
            }
            for row, strength, rank, one in zip(
                ids, values, decile, table.itertuples(), strict=True
            )
        ]
        _write(folder / "scores" / SCORES[kind], hookpoint, latent, found)


def _deciles(peaks: ndarray, active: ndarray) -> list[int]:
    """1 … 10 by rank among the activating windows, strongest first; −1 elsewhere."""
    found = np.full(len(peaks), -1)
    order = np.flatnonzero(active)[np.argsort(-peaks[active], kind="stable")]
    for decile, part in enumerate(np.array_split(order, 10), 1):
        found[part] = decile
    return found.tolist()


def _loaded(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ParameterError(f"{file} is not JSON: {error}") from None


def _write(folder: Path, hookpoint: str, latent: object, value: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{_safe(hookpoint)}_latent{latent}.txt"
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _safe(name: str) -> str:
    return name.replace("/", "--")

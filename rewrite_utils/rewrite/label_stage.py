"""A benchmark of anyone's labels: what they are worth to the model, in nats, when they are read.

In: labels (``explain.labels``, or the run's own sentences), a coder, unseen rows of text. Out: a
row a source of descriptions, all read by one kind of reader at every position of the same latents:
the labels, words counted from activations, and the labels of other latents. Beyond the paper.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.explain.described import Description
from rewrite_utils.explain.floor import derangement
from rewrite_utils.latents.cache import LatentCache
from rewrite_utils.latents.neighbours import clusters
from rewrite_utils.latents.stage import Caches
from rewrite_utils.params import ParameterError, Params
from rewrite_utils.rewrite import layer
from rewrite_utils.rewrite.layer import CODER, MEAN, Says
from rewrite_utils.runs.stage import Declared
from rewrite_utils.simulate.readers import stage as reading
from rewrite_utils.simulate.readers.arms import Senses
from rewrite_utils.simulate.readers.reader import Calibrated, dense
from rewrite_utils.simulate.readers.text import Text, truth
from rewrite_utils.subject.corpus import Corpus
from rewrite_utils.subject.model import Hookpoint, Subject

LABELS, COUNTED, SHUFFLED = "labels", "counted words", "labels of other latents"
ARMS = {LABELS: "a", COUNTED: "c"}
"""What a reader compares: with words of a sentence, or with a list of words."""
FILE = "benchmark.parquet"


def make_benchmark(
    folder: Path,
    *,
    subject: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    corpus: Corpus,
    cache: Caches,
    sentences: dict[int, str],
    level_records: dict[int, Description],
    senses: Senses,
    latent_means: Float[ndarray, " latent"],
    output_mean: Tensor,
    params: Params,
    name: str,
) -> dict[str, Any]:
    """Fit a reader for the labels and one for counted words, on calibrate rows; measure them, and
    the first with other latents' labels, on evaluate rows."""
    latents = np.array(sorted(set(sentences) & set(level_records)), np.int64)
    require_enough(latents, params.readers.folds, name)
    said = _described(latents, sentences, level_records)
    given = reading.first_rows(cache("calibrate"), params.readers.calibrate_rows)
    text, true = reading.text_of(given.tokens, subject), truth(given)[:, latents]
    groups = clusters(coder.W_dec.detach().float().cpu().numpy())[latents]
    readers = {
        key: reading.fit(arm, said[key], text, true, groups, senses, params)
        for key, arm in ARMS.items()
    }
    order = derangement(len(latents), params.seed)
    readers[SHUFFLED] = readers[LABELS]  # the real curves, other labels: a floor that can move
    said[SHUFFLED] = [said[LABELS][one] for one in order.tolist()]
    asked = reading.first_rows(cache("evaluate"), params.readers.evaluate_rows)
    read = {key: _read(reader, said[key], asked, subject) for key, reader in readers.items()}
    says = {key: Says(latents, values.__getitem__) for key, values in read.items()}
    says[MEAN] = layer.whole_mean(latent_means, latents)
    how = {"name": f"{name}, labels", "masked": corpus.masked, "whole": {*says, layer.CODER}}
    losses = layer.measure(subject, hookpoint, coder, asked.tokens, says, output_mean, **how)
    fits = {key: r_squared(asked, latents, values, latent_means) for key, values in read.items()}
    _verdict(losses, fits, params).to_parquet(folder / FILE)
    return {"labels": len(sentences), "latents": len(latents)}


def require_enough(latents: Int[ndarray, " latent"], folds: int, name: str) -> None:
    """Raise ParameterError where there are too few labels to fit a reader on other latents'."""
    if len(latents) < 2 * folds:
        raise ParameterError(
            f"sites.{name}: {len(latents)} labels are of latents that fire often enough, and "
            f"readers.folds = {folds} needs {2 * folds}: label more, or lower readers.folds"
        )


def r_squared(
    cache: LatentCache,
    latents: Int[ndarray, " latent"],
    said: Float[ndarray, "row pos latent"],
    means: Float[ndarray, " width"],
) -> Float[ndarray, " latent"]:
    """1 − Σ(a − â)² / Σ(a − ā)² of each latent over all tokens that count; ā of calibrate rows."""
    true = truth(cache)[:, latents].toarray().reshape(said.shape)
    true, told = true[cache.counted], said[cache.counted].astype(np.float64)
    left, whole = ((true - one) ** 2 for one in (told, means[latents]))
    return 1 - left.sum(0) / np.maximum(whole.sum(0), 1e-12)


def _described(
    latents: Int[ndarray, " latent"],
    sentences: Mapping[int, str],
    records: Mapping[int, Description],
) -> dict[str, list[str]]:
    """The labels, and what counting alone says."""
    counted = []
    for one in latents.tolist():
        words = tuple(word for word in records[one].words if word.strength)
        counted.append(dataclasses.replace(records[one], english="", words=words).text("c"))
    return {LABELS: [sentences[one] for one in latents.tolist()], COUNTED: counted}


def _read(
    reader: Calibrated, said: list[str], cache: LatentCache, subject: Subject
) -> Float[ndarray, "row pos latent"]:
    text: Text = reading.text_of(cache.tokens, subject)
    return dense(reader.read(said, text), text)


def _verdict(
    losses: pd.DataFrame, fits: Mapping[str, Float[ndarray, " latent"]], params: Params
) -> pd.DataFrame:
    """One row a source: its share of the range, perplexity, and R² over latents."""
    against = dict.fromkeys((*fits, CODER, MEAN), MEAN)
    how = {"seed": params.seed, "resamples": params.readers.bootstrap}
    table = layer.judged(losses, against, table=MEAN, **how)
    own = table["source"].map(fits)
    found = {"mean": np.mean, "median": np.median}
    columns = {f"r2_{key}": [float(f(one)) if isinstance(one, ndarray) else np.nan for one in own]
               for key, f in found.items()}  # fmt: skip
    return table.assign(latents=len(next(iter(fits.values()))), **columns)


def benchmark_hashes(*, params: Params, name: str) -> dict[str, Any]:
    """How labels are read, and where."""
    asked = reading.readers_hashes(params=params, name=name) | {"arms": ARMS}
    return asked | {"rows": params.readers.evaluate_rows}


BENCHMARK = Declared(
    name="13_labels",
    make=make_benchmark,
    read=lambda folder: pd.read_parquet(folder / FILE),
    on=("latents_stage", "totals_stage", "sentences_stage"),
    hashes=benchmark_hashes,
)

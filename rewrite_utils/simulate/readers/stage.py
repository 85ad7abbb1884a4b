"""A stage of notebook 13: every arm's reader, cross-fitted and calibrated on calibrate rows.

Also the texts that are read, as readers see them, and what the features are made of.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from scipy.sparse import csr_array

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.assets.sources import source_texts
from rewrite_utils.assets.splits import assign, rows_of
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.explain.described import Level
from rewrite_utils.latents.cache import LatentCache
from rewrite_utils.latents.neighbours import clusters
from rewrite_utils.latents.stage import Caches
from rewrite_utils.latents.totals import TokenTotals
from rewrite_utils.params import Params, Site
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.stage import Declared
from rewrite_utils.simulate.readers import kept as keeping
from rewrite_utils.simulate.readers import passes
from rewrite_utils.simulate.readers.arms import Senses, features, parse_arm
from rewrite_utils.simulate.readers.competing import Competing
from rewrite_utils.simulate.readers.kept import Kept
from rewrite_utils.simulate.readers.reader import Calibrated, CrossFitted, Readable, Reader
from rewrite_utils.simulate.readers.spaces import Space, input_spaces, sentence_space
from rewrite_utils.simulate.readers.text import Text, truth
from rewrite_utils.subject.model import Subject
from rewrite_utils.subject.pieces import spelled

COUNTED = "latents.json"
"""By arm, the latents that it reads."""


@functools.cache
def spaces(model: str) -> Mapping[str, Space]:
    """The spaces of words of one LLM, and the sentence encoder's; made once a process."""
    plain, whitened = input_spaces(model)
    return {"input": plain, "whitened": whitened, "minilm": sentence_space()}


def senses(*, totals: TokenTotals, subject: Subject, params: Params, states_folder: Path) -> Senses:
    """What features are made of."""
    read = passes.opened(params.simulator, states_folder)
    spelt = spelled(subject.tokenizer, totals.kinds.tolist())
    common = dict(zip(spelt, totals.seen.tolist(), strict=True))
    return Senses(spaces(params.simulator.model), common, read.states, read.chances)


class Readings:
    """The readers of a site by arm, each read from disk when it is first asked for."""

    def __init__(self, folder: Path, senses: Senses) -> None:
        self._folder, self._material, self._read = folder, senses, {}

    def latents(self, arm: str) -> Int[ndarray, " latent"]:
        """Which latents an arm reads; nothing else is loaded."""
        return np.array(json.loads((self._folder / COUNTED).read_text("utf-8"))[arm], np.int64)

    def __getitem__(self, arm: str) -> Kept:
        """The reader of one arm, with its latents and its level."""
        if arm not in self._read:
            made = features(parse_arm(arm), self._material)
            self._read[arm] = keeping.read(self._folder / _file(arm), made)
        return self._read[arm]


def make_readers(
    folder: Path,
    *,
    level_texts: Mapping[Level, Mapping[int, str]],
    cache: Caches,
    coder: SparseCoder,
    subject: Subject,
    senses: Senses,
    params: Params,
    name: str,
) -> dict[str, Any]:
    """Fit every arm's reader on other latents, and its curves on all calibrate tokens."""
    given = first_rows(cache("calibrate"), params.readers.calibrate_rows)
    text, true = text_of(given.tokens, subject), truth(given)
    groups = clusters(coder.W_dec.detach().float().cpu().numpy())
    read = {}
    for arm in params.arms_of(name):
        told = level_texts[parse_arm(arm).level]
        latents = np.array(sorted(told), np.int64)
        read[arm] = latents.tolist()
        if (folder / _file(arm)).exists():
            continue
        said, own = [told[one] for one in latents.tolist()], true[:, latents]
        fitted = fit(arm, said, text, own, groups[latents], senses, params)
        keeping.write(folder / _file(arm), Kept(fitted, latents, parse_arm(arm).level))
    (folder / COUNTED).write_text(json.dumps(read), "utf-8")
    return {"latents": {arm: len(latents) for arm, latents in read.items()}}


def fit(
    arm: str,
    said: Sequence[str],
    text: Text,
    true: csr_array,
    groups: Int[ndarray, " latent"],
    senses: Senses,
    params: Params,
) -> Calibrated:
    """An arm's reader of these descriptions: each latent's is fitted on other groups' latents."""
    asked = params.readers
    made = features(parse_arm(arm), senses)
    how = Reader(made, trees=asked.trees, pairs=asked.pairs, seed=params.seed)
    reader: Readable = how.cross_fit(said, text, true, groups, folds=asked.folds)
    if parse_arm(arm).together:
        reader = Competing.fit(reader, said, text, true, seed=params.seed)
    return Calibrated.fit(reader, said, text, true)


def readers_hashes(*, params: Params, name: str) -> dict[str, Any]:
    """How they are fitted, and by which LLM's eyes."""
    asked = params.readers.content()
    fitted = ("words", "raises", "lowers", "trees", "pairs", "folds", "calibrate_rows")
    return {
        "readers": {key: asked[key] for key in fitted},
        "arms": list(params.arms_of(name)),
        "llm": params.simulator.content(),
        "seed": params.seed,
    }


def readers_cost(*, params: Params, settings: Site, name: str, model: ModelShape) -> Cost | None:
    """One LLM pass over the calibrate rows and the texts, where an arm needs it."""
    if not settings.reader:
        return None
    arms = len(params.arms_of(name))
    return Cost(
        "13_readers",
        name,
        f"{arms} readers of at most {settings.latents:,} latents, no pass a pair",
        storage=2e6 * arms,
    )


READERS = Declared(
    name="13_readers",
    make=make_readers,
    read=lambda folder, *, senses: Readings(folder, senses),
    on=("latents_stage", "totals_stage", "sentences_stage", "told_stage"),
    hashes=readers_hashes,
    cost=readers_cost,
)


class Elsewhere(NamedTuple):
    """Another site's latents: what a reader is fitted on that is used here."""

    name: str
    """That site."""
    descriptions: list[str]
    """Level c."""
    text: Text
    """Its calibrate rows."""
    true: csr_array
    """The truth of these latents there."""
    groups: Int[ndarray, " latent"]
    """Latents that are alike share a number."""


def elsewhere_of(
    level_texts: Mapping[Level, Mapping[int, str]], cache: Caches, coder: SparseCoder,
    subject: Subject, params: Params, name: str,
) -> Elsewhere:  # fmt: skip
    """What a site has for readers of another one."""
    given = first_rows(cache("calibrate"), params.readers.calibrate_rows)
    latents = sorted(level_texts["c"])
    groups = clusters(coder.W_dec.detach().float().cpu().numpy())[latents]
    said = [level_texts["c"][one] for one in latents]
    return Elsewhere(name, said, text_of(given.tokens, subject), truth(given)[:, latents], groups)


def make_elsewhere(
    folder: Path,
    *,
    elsewhere: Elsewhere,
    level_texts: Mapping[Level, Mapping[int, str]],
    cache: Caches,
    subject: Subject,
    senses: Senses,
    params: Params,
) -> dict[str, Any]:
    """Fit level c's regression on the other site's latents, and only the curves here."""
    asked, arm = params.readers, parse_arm("c")
    made = features(arm, senses)
    how = Reader(made, trees=asked.trees, pairs=asked.pairs, seed=params.seed)
    fitted = how.fit(*elsewhere[1:])
    given = first_rows(cache("calibrate"), asked.calibrate_rows)
    latents = np.array(sorted(level_texts["c"]), np.int64)
    said = [level_texts["c"][one] for one in latents.tolist()]
    reader = CrossFitted((fitted,), np.zeros(len(latents), np.int64))
    text, true = text_of(given.tokens, subject), truth(given)[:, latents]
    calibrated = Calibrated.fit(reader, said, text, true)
    keeping.write(folder / _file("c"), Kept(calibrated, latents, "c"))
    return {"fitted at": elsewhere.name}


ELSEWHERE = Declared(
    name="13_elsewhere",
    make=make_elsewhere,
    read=lambda folder, *, senses: Readings(folder, senses)["c"],
    on=("readers_stage", "other_readers_stage"),
)


def first_rows(cache: LatentCache, count: int) -> LatentCache:
    """The first ``count`` rows of a cache."""
    inside = cache.row < count
    latent = np.repeat(np.arange(cache.n_latents), cache.counts)[inside]
    start = np.searchsorted(latent, np.arange(cache.n_latents + 1))
    kept = cache.row[inside], cache.position[inside], cache.value[inside]
    return LatentCache(cache.tokens[:count], start, *kept, cache.masked)


def text_of(tokens: Int[ndarray, "row pos"], subject: Subject) -> Text:
    """Rows of tokens as readers see them."""
    return Text.of(tokens, lambda kinds: spelled(subject.tokenizer, kinds.tolist()))


def reader_rows(
    *, cache: Caches, subject: Subject, params: Params
) -> dict[str, Int[ndarray, "row pos"]]:
    """The rows of every text that losses are measured on: evaluate rows, and the foreign texts."""
    asked = params.readers
    found = {"evaluate": cache("evaluate").tokens[: asked.evaluate_rows]}
    for source in asked.texts:
        documents = [source_texts(source)]
        found[source] = rows_of(
            documents,
            assign(documents, {"evaluate": 1.0}, seed=params.seed)["evaluate"],
            subject.tokenizer,
            name=source,
            row_tokens=params.corpus.row_tokens,
            bos=subject.bos,
            limit=asked.text_rows,
        ).rows.numpy()
    return found


def _file(arm: str) -> str:
    return f"{arm.replace(':', ' only ')}.joblib"

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
LevelTexts = Mapping[Level, Mapping[int, str]]
"""The description of every latent that has one, by level."""


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
        self._folder, self._senses, self._read = folder, senses, {}

    def latents(self, arm: str) -> Int[ndarray, " latent"]:
        """Which latents an arm reads; nothing else is loaded."""
        return np.array(json.loads((self._folder / COUNTED).read_text("utf-8"))[arm], np.int64)

    def __getitem__(self, arm: str) -> Kept:
        """The reader of one arm, with its latents and its level."""
        if arm not in self._read:
            made = features(parse_arm(arm), self._senses)
            self._read[arm] = Kept.read(self._folder / _file(arm), made)
        return self._read[arm]


def make_readers(
    folder: Path, *, level_texts: LevelTexts, cache: Caches, coder: SparseCoder, subject: Subject,
    senses: Senses, params: Params, name: str,
) -> dict[str, Any]:  # fmt: skip
    """Fit every arm's reader on other latents, and its curves on all calibrate tokens."""
    (text, true), groups = _calibrate_rows(cache, subject, params), _groups(coder)
    read = {}
    for arm in params.arms_of(name):
        level = parse_arm(arm).level
        latents = np.array(sorted(level_texts[level]), np.int64)
        read[arm] = latents.tolist()
        if not (folder / _file(arm)).exists():
            said = [level_texts[level][one] for one in read[arm]]
            fitted = fit(arm, said, text, true[:, latents], groups[latents], senses, params)
            Kept(fitted, latents, level).write(folder / _file(arm))
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
    regression, folds = _regression(arm, senses, params), params.readers.folds
    reader: Readable = regression.cross_fit(said, text, true, groups, folds=folds)
    if parse_arm(arm).together:
        reader = Competing.fit(reader, said, text, true, seed=params.seed)
    return Calibrated.fit(reader, said, text, true)


def _regression(arm: str, senses: Senses, params: Params) -> Reader:
    asked, made = params.readers, features(parse_arm(arm), senses)
    return Reader(made, trees=asked.trees, pairs=asked.pairs, seed=params.seed)


def _calibrate_rows(cache: Caches, subject: Subject, params: Params) -> tuple[Text, csr_array]:
    given = first_rows(cache("calibrate"), params.readers.calibrate_rows)
    return text_of(given.tokens, subject), truth(given)


def _groups(coder: SparseCoder) -> Int[ndarray, " latent"]:
    return clusters(coder.W_dec.detach().float().cpu().numpy())


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
    level_texts: LevelTexts, cache: Caches, coder: SparseCoder, subject: Subject, params: Params,
    name: str,
) -> Elsewhere:  # fmt: skip
    """What a site has for readers of another one."""
    text, true = _calibrate_rows(cache, subject, params)
    latents = sorted(level_texts["c"])
    said = [level_texts["c"][one] for one in latents]
    return Elsewhere(name, said, text, true[:, latents], _groups(coder)[latents])


def make_elsewhere(
    folder: Path, *, elsewhere: Elsewhere, level_texts: LevelTexts, cache: Caches, subject: Subject,
    senses: Senses, params: Params,
) -> dict[str, Any]:  # fmt: skip
    """Fit level c's regression on the other site's latents, and only the curves here."""
    fitted = _regression("c", senses, params).fit(*elsewhere[1:])
    text, true = _calibrate_rows(cache, subject, params)
    latents = np.array(sorted(level_texts["c"]), np.int64)
    said = [level_texts["c"][one] for one in latents.tolist()]
    reader = CrossFitted((fitted,), np.zeros(len(latents), np.int64))
    calibrated = Calibrated.fit(reader, said, text, true[:, latents])
    Kept(calibrated, latents, "c").write(folder / _file("c"))
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
    start = np.searchsorted(cache.latent[inside], np.arange(cache.n_latents + 1))
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

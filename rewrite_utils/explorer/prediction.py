"""What a description alone predicts: no LLM, no pass of the subject, so an edit answers at once.

In: a cross-fitted, calibrated reader of single tokens, rows with their true activations. Out: the
activation that a description means on every kind of token, and how good that is on evaluate rows.
Only the reader of the latent's own fold is bound, to its description alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.sparse import csr_array

from rewrite_utils.explain.described import Description, Level, parse
from rewrite_utils.explorer import change
from rewrite_utils.latents.cache import LatentCache
from rewrite_utils.latents.stage import Caches
from rewrite_utils.score.rates import auroc_value
from rewrite_utils.simulate.readers.competing import Competing
from rewrite_utils.simulate.readers.curves import Curves
from rewrite_utils.simulate.readers.kept import Kept
from rewrite_utils.simulate.readers.reader import Calibrated, CrossFitted, read_descriptions
from rewrite_utils.simulate.readers.text import Text, by_kind, every_kind, truth
from rewrite_utils.stats import Estimate, ratio, resampled
from rewrite_utils.subject.model import Subject
from rewrite_utils.subject.pieces import spelled

ROWS = 80
"""Evaluate rows that an edit is judged on, and explain rows that suggestions are taken from."""
STEPS, RESAMPLES = 64, 300
"""Levels of the prediction that an AUROC's interval tells apart, and its resamples."""
PAIRS = 8_000
"""(token, word left out) pairs that are read to say what each word carries."""
DRAWN = 400
"""Tokens in the picture of the calibration curve."""

Spell = Callable[[Sequence[int]], list[str]]
"""Each token's text by itself."""


class Judged(NamedTuple):
    """One description of one latent, and what came of it on the evaluate rows."""

    latent: int
    """Index in the coder."""
    description: str
    """What was read."""
    said: dict[str, float]
    """The activation that it means, by kind of token."""
    r2: Estimate
    """1 − squared error over that of the mean, over all tokens."""
    auroc: Estimate
    """P(a token on which the latent fires is predicted above a silent one)."""
    cost: Estimate
    """CE with the prediction in the latent's place over its truth, nats, estimated:
    (1 − R²) × what its mean costs. NaN where that is not known."""
    tokens: pd.DataFrame
    """Some evaluate tokens, true and predicted, as the curve draws them."""


@dataclass(frozen=True)
class Predictor:
    """Reads descriptions of one site's latents."""

    reader: Calibrated
    """Cross-fitted, with or without ``Competing``, with its curves."""
    latents: Int[ndarray, " latent"]
    """The latents that it reads: its columns."""
    descriptions: Mapping[int, str]
    """What the run says of each of them."""
    evaluate: LatentCache
    """What a description is judged on."""
    explain: LatentCache
    """What suggestions are taken from."""
    spell: Spell
    """Spells token ids."""
    seed: int = 0
    """Of the resamples."""

    def place(self, latent: int) -> int:
        """Its column; ValueError for a latent that is not read."""
        found = np.flatnonzero(self.latents == latent)
        if not len(found):
            raise ValueError(f"latent {latent} is not read: it fires too seldom to be described")
        return int(found[0])

    @functools.cached_property
    def judged_on(self) -> Text:
        """The evaluate rows as kinds of token."""
        return self._text(self.evaluate)

    @functools.cached_property
    def suggested_from(self) -> Text:
        """The explain rows as kinds of token."""
        return self._text(self.explain)

    def _text(self, cache: LatentCache) -> Text:
        return Text.of(cache.tokens[:ROWS], lambda ids: self.spell(ids.tolist()))

    def said(
        self, latent: int, descriptions: Sequence[str], kinds: Sequence[str]
    ) -> Float[ndarray, "kind description"]:
        """The activation of the latent on each kind of token, by each description.

        ExplanationError for a description that says nothing.
        """
        return self._bound(latent, read_descriptions(descriptions), kinds)

    def _bound(
        self, latent: int, told: Sequence[Description], kinds: Sequence[str]
    ) -> Float[ndarray, "kind description"]:
        place, reader = self.place(latent), self.reader.reader
        crossed = reader.reader if isinstance(reader, Competing) else reader
        if not isinstance(crossed, CrossFitted):
            raise TypeError(f"a {type(crossed).__name__} cannot read one latent alone")
        text = as_text(kinds)
        bound = crossed.readers[crossed.fold[place]].bind(told, text)
        scores = bound(every_kind(text))
        if isinstance(reader, Competing):
            scores = reader.alone(scores, self._crowd(kinds, crossed), place)
        own = np.repeat(self.reader.curves.y[[place]], len(told), axis=0)
        return self._unmasked(Curves(self.reader.curves.x, own)(scores), kinds)

    def _unmasked(
        self, said: Float[ndarray, "kind column"], kinds: Sequence[str]
    ) -> Float[ndarray, "kind column"]:
        """The same with 0 on control tokens, on which no latent is looked at."""
        control = set(self.spell(self.evaluate.masked.tolist()))
        return np.where([[kind in control] for kind in kinds], 0, said)

    def _crowd(self, kinds: Sequence[str], crossed: CrossFitted) -> Float[ndarray, "kind latent"]:
        """The scores of every latent on these kinds; each kind is read once."""
        if new := [kind for kind in dict.fromkeys(kinds) if kind not in self._scores]:
            for block in crossed.read(self._told, as_text(new)):
                found = zip(block.places.kinds.tolist(), block.values, strict=True)
                self._scores.update((new[kind], row) for kind, row in found)
        return np.stack([self._scores[kind] for kind in kinds])

    @functools.cached_property
    def _told(self) -> list[str]:
        return [self.descriptions[one] for one in self.latents.tolist()]

    @functools.cached_property
    def _scores(self) -> dict[str, Float[ndarray, " latent"]]:
        return {}

    def true(self, latent: int) -> Float[ndarray, "row pos"]:
        """Its activation at every token of the judged rows, the BOS left out."""
        own, found = self.evaluate.of(latent), np.zeros(self.judged_on.rows.shape, np.float32)
        inside = own.rows < len(found)
        found[own.rows[inside], own.positions[inside]] = own.values[inside]
        return found[:, 1:]

    def judge(self, latent: int, description: str, *, stake: float, more: Sequence[str]) -> Judged:
        """Read a description and judge it; ``stake``: what the latent's mean costs (nats), NaN
        where unknown; ``more``: kinds of token to read besides."""
        text, true = self.judged_on, self.true(latent)
        kinds = tuple(dict.fromkeys((*text.kinds, *more)))
        values = self.said(latent, [description], kinds)[:, 0]
        predicted = values[text.rows[:, 1:]]
        r2 = _r2(true, predicted, self.seed)
        cost = r2._replace(
            value=(1 - r2.value) * stake, low=(1 - r2.high) * stake, high=(1 - r2.low) * stake
        )
        said = dict(zip(kinds, values.tolist(), strict=True))
        area = _auroc(true > 0, predicted, self.seed)
        return Judged(latent, description, said, r2, area, cost, _drawn(true, predicted))

    def carried(self, judged: Judged) -> list[tuple[str, float]]:
        """R² lost without each word of the description, most first; over tokens on which the
        latent fires or is said to, the others as they are."""
        told, true = parse(judged.description), self.true(judged.latent)
        text, rows = self.judged_on, self.judged_on.rows[:, 1:]
        if len(told.words) < 2 or np.isnan(judged.r2.value):
            return []
        size = len(text.kinds)
        before = np.array([judged.said[kind] for kind in text.kinds])
        sums, count = (np.bincount(rows.ravel(), w, size) for w in (true.ravel(), None))
        ranked = np.argsort(-(sums + count * before), kind="stable")
        some = ranked[: PAIRS // len(told.words)]
        rest = [tuple(one for one in told.words if one != word) for word in told.words]
        without = [dataclasses.replace(told, words=words) for words in rest]
        after = self._bound(judged.latent, without, [text.kinds[kind] for kind in some])
        error = count[some, None] * after**2 - 2 * sums[some, None] * after
        error -= (count[some] * before[some] ** 2 - 2 * sums[some] * before[some])[:, None]
        lost = error.sum(0) / max(float(np.square(true - true.mean()).sum()), 1e-12)
        pairs = zip([word.text for word in told.words], lost.tolist(), strict=True)
        return sorted(pairs, key=lambda pair: -pair[1])

    def changes(self, judged: Judged) -> list[change.Change]:
        """What the explain rows suggest: words that fire and are missed, words that do not fire."""
        text, own = self.suggested_from, self.explain.of(judged.latent)
        inside = own.rows < len(text.rows)
        kinds = text.rows[own.rows[inside], own.positions[inside]]
        sums = np.bincount(kinds, own.values[inside], len(text.kinds))
        said = np.array([judged.said.get(kind, np.nan) for kind in text.kinds])
        return change.suggested(judged.description, text.kinds, sums, text.counts, said)

    def firing_kinds(self, latent: int) -> list[str]:
        """The kinds of token that it fires on in the explain rows, and the words of those."""
        text, own = self.suggested_from, self.explain.of(latent)
        inside = own.rows < len(text.rows)
        used = np.unique(text.rows[own.rows[inside], own.positions[inside]])
        return [text.kinds[kind] for kind in used]

    def scores(self) -> pd.Series:
        """R² of every latent's description on the judged rows, by latent."""
        text = self.judged_on
        true = truth(self.evaluate)[: text.rows.size, self.latents]
        mean, count = by_kind(csr_array(true), text), text.counts.astype(np.float64)
        error = np.asarray(true.power(2).sum(0), np.float64)
        spread = error - np.asarray(true.sum(0), np.float64) ** 2 / count.sum()
        for block in self.reader.read(self._told, text):
            kinds = block.places.kinds
            read = self._unmasked(block.values, [text.kinds[kind] for kind in kinds])
            said, weight = read.astype(np.float64), count[kinds, None]
            error += (weight * said * (said - 2 * mean[kinds].toarray())).sum(0)
        found = np.where(spread > 0, 1 - error / np.maximum(spread, 1e-12), np.nan)
        return pd.Series(found, index=self.latents)


def predictor(
    kept: Kept, texts: Mapping[Level, Mapping[int, str]], cache: Caches, subject: Subject, seed: int
) -> Predictor:
    """That of a site, from what its stages hold."""
    own = {latent: texts[kept.level][latent] for latent in kept.latents.tolist()}
    spell = functools.partial(spelled, subject.tokenizer)
    rows = {"evaluate": cache("evaluate"), "explain": cache("explain")}
    return Predictor(kept.reader, kept.latents, own, **rows, spell=spell, seed=seed)


def as_text(kinds: Sequence[str]) -> Text:
    """Kinds of token without rows: enough to be read."""
    return Text(tuple(kinds), np.arange(len(kinds), dtype=np.int32)[None])


def _r2(true: Float[ndarray, "row pos"], said: Float[ndarray, "row pos"], seed: int) -> Estimate:
    """R² with its interval over rows."""
    error = np.square(true - said).sum(1, dtype=np.float64)
    spread = np.square(true - true.mean()).sum(1, dtype=np.float64)
    if not spread.any():
        return Estimate(*[float("nan")] * 3, len(true), "row", "undefined")
    found = ratio(error, spread, unit="row", seed=seed, resamples=RESAMPLES)
    return found._replace(value=1 - found.value, low=1 - found.high, high=1 - found.low)


def _auroc(fires: Bool[ndarray, "row pos"], said: Float[ndarray, "row pos"], seed: int) -> Estimate:
    """AUROC over all tokens, ties half; its interval over rows from ``STEPS`` levels of what is
    said."""
    levels = np.unique(said)
    edges = levels[np.linspace(0, len(levels) - 1, STEPS + 1).astype(int)[1:]]
    step = np.searchsorted(np.unique(edges), said)
    at = (step + (step.max() + 1) * np.arange(len(said))[:, None]).ravel()
    size = len(said) * (step.max() + 1)
    counts = [np.bincount(at, weight.ravel(), size).reshape(len(said), -1)
              for weight in (fires, ~fires)]  # fmt: skip

    def area(rows: ndarray) -> float:
        firing, silent = (count[rows].sum(0) for count in counts)
        below = silent.cumsum() - silent / 2
        pairs = firing.sum() * silent.sum()
        return float((firing * below).sum() / pairs) if pairs else float("nan")

    found = resampled(area, len(said), unit="row", seed=seed, resamples=RESAMPLES)
    return found._replace(value=auroc_value(fires, said))


def _drawn(true: Float[ndarray, "row pos"], said: Float[ndarray, "row pos"]) -> pd.DataFrame:
    """At most ``DRAWN`` tokens on which it fires or is said to, and how it is split for a curve."""
    some = np.flatnonzero((true > 0) | (said > 0.05 * max(float(said.max()), 1e-9)))
    some = some[np.unique(np.linspace(0, len(some) - 1, DRAWN).astype(int))] if len(some) else some
    return pd.DataFrame(
        {"true": true.ravel()[some], "predicted": said.ravel()[some], "split": "evaluate"}
    )

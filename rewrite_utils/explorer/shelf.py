"""What a run knows of its latents, read once, so that taking one latent out is a slice.

In: a site. Out: records of one latent and a table of all. The one place of the explorer that
touches the site, also to compute on its subject; draws nothing and asks no simulator.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.assets.splits import plain_ids
from rewrite_utils.explain import curated
from rewrite_utils.explain.logits import promoted
from rewrite_utils.explorer import alone, scores, windows
from rewrite_utils.explorer.records import LONGEST, Known, OwnText, Reading
from rewrite_utils.explorer.scores import Scored
from rewrite_utils.explorer.stage import ALONE
from rewrite_utils.explorer.windows import EACH, Kind
from rewrite_utils.latents import neighbours
from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.stage import SIMULATED
from rewrite_utils.llm import opening
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import Usage
from rewrite_utils.params import LLM, Params
from rewrite_utils.rewrite import usefulness
from rewrite_utils.rewrite.estimates import Evidence
from rewrite_utils.score.scores import cut
from rewrite_utils.simulate import Ratings, Window
from rewrite_utils.site import SiteStages
from rewrite_utils.stats import Estimate, auroc_value, bootstrap
from rewrite_utils.subject.splice import hooked


@dataclasses.dataclass(frozen=True)
class Shelf:
    """Everything the explorer shows of one site, and computes on it.

    Columns of arrays are ``latents``, rows the rated windows, calibrate before evaluate.
    """

    site: SiteStages
    """Its stages."""

    @property
    def params(self) -> Params:
        """The run's parameters."""
        return self.site.params

    @functools.cached_property
    def sentences(self) -> dict[int, str]:
        """The sentence of every latent that has one."""
        return self.site.sentences

    @property
    def latents(self) -> list[int]:
        """The latents that have a sentence, in order."""
        return self.site.simulated

    @property
    def cache(self) -> LatentCache:
        """Activations on the explain rows."""
        return self.site.cache("explain")

    def place(self, latent: int) -> int:
        """The latent's column; KeyError naming the latents that have a sentence."""
        if latent not in self.sentences:
            known = ", ".join(map(str, self.latents[:12])) + " …" * (len(self.latents) > 12)
            raise KeyError(f"latent {latent} has no sentence in this run; those that do: {known}")
        return self.latents.index(latent)

    @functools.cached_property
    def rated(self) -> pd.DataFrame:
        """The rated windows: rows and ends in their split, and the split."""
        parts = {split: self.site.simulated_windows(split)._asdict() for split in SIMULATED}
        tables = [pd.DataFrame(part).assign(split=split) for split, part in parts.items()]
        return pd.concat(tables, ignore_index=True)

    @functools.cached_property
    def true(self) -> Float[ndarray, "window latent"]:
        """True activations."""
        return np.concatenate([self.site.true(split) for split in SIMULATED])

    @functools.cached_property
    def ratings(self) -> Ratings:
        """The simulator's ratings."""
        both = [self.site.ratings(split) for split in SIMULATED]
        return Ratings(*(np.concatenate(field) for field in zip(*both, strict=True)))

    @property
    def evidence(self) -> Evidence:
        """What calibrators are fitted on: the ratings of the calibrate windows beside the truth."""
        return self.site.evidence

    @functools.cached_property
    def predicted(self) -> Float[ndarray, "window latent"]:
        """The ratings, calibrated by the run's headline calibrator."""
        return self.evidence.calibrated(self.params.rewrite.headline, self.ratings)

    @functools.cached_property
    def losses(self) -> dict[int, pd.DataFrame]:
        """By latent, one row a (window, arm): the loss with this latent alone replaced."""
        table = self.site.read(ALONE)
        return {int(latent): mine for latent, mine in table.groupby("latent", sort=False)}

    @functools.cached_property
    def rows(self) -> pd.DataFrame:
        """One row a latent: scores, firing rate, what its sentence costs against its mean."""
        latents, energy = self.latents, self.site.energy
        means = [self.losses[latent].groupby("arm")["loss"].mean() for latent in latents]
        pairs = zip(self.true.T > 0, self.ratings.expected.astype(np.float64).T, strict=True)
        detection = self.site.scores.set_index("latent")["auroc"].reindex(latents)
        return pd.DataFrame(
            {
                "latent": latents,
                "rating AUROC": [auroc_value(*pair) for pair in pairs],
                "detection AUROC": detection.to_numpy(),
                "firing rate": self.cache.rate[latents],
                "CE sentence − mean": [one["sentence"] - one["mean"] for one in means],
                "share of output": energy[latents] / max(float(energy.sum()), 1e-12),
                "sentence": list(self.sentences.values()),
            }
        )

    # ── one latent ───────────────────────────────────────────────────────────────────────────

    @functools.lru_cache(maxsize=256)  # noqa: B019 (a shelf lives as long as its process)
    def known(self, latent: int) -> Known:
        """What the latent does."""
        site, cache = self.site, self.cache
        near = {
            "by decoder cosine": neighbours.cosines(site.coder, latent),
            "by firing on the same tokens (Jaccard)": neighbours.cofiring(cache, latent),
        }
        return Known(
            title=f"{site.name} · {site.hookpoint.name} · latent {latent} of {cache.n_latents}",
            tokens=cache.n_tokens,
            firings=cache.of(latent).values,
            maximum=float(cache.maximum[latent]),
            share=float(self.rows["share of output"][self.place(latent)]),
            windows=windows.of_text(cache, latent, texts=site.texts, seed=self.params.seed),
            promoted=promoted(site.subject, site.coder, latent),
            above=site.subject.n_layers - 1 - site.hookpoint.layer,
            near={
                measure: [
                    (one, value, self.sentences.get(one, "no sentence"))
                    for one, value in neighbours.nearest(values, latent, count=4)
                ]
                for measure, values in near.items()
            },
        )

    @functools.lru_cache(maxsize=256)  # noqa: B019
    def reading(self, latent: int) -> Reading:
        """The run's own sentence of a latent and what came of it."""
        place, losses = self.place(latent), self.losses[latent]
        origin = "curated" if latent in self.site.curated else "explainer"
        said = self.ratings.expected[:, place], self.predicted[:, place]
        return self.read(latent, self.sentences[latent], origin, *said, losses)

    def read(
        self,
        latent: int,
        sentence: str,
        origin: str,
        expected: Float[ndarray, " window"],
        predicted: Float[ndarray, " window"],
        losses: pd.DataFrame,
    ) -> Reading:
        """A sentence with what came of it: E, prediction, and losses with the latent alone."""
        place, seed = self.place(latent), self.params.seed
        others = np.delete(self.ratings.expected, place, axis=1).astype(np.float64)
        rated = self.rated.assign(
            true=self.true[:, place],
            expected=expected.astype(np.float64),
            predicted=predicted.astype(np.float64),
        )
        fires = rated["true"].to_numpy() > 0
        found = [scores.rating(fires, rated["expected"].to_numpy(), others, seed=seed)]
        if sentence == self.sentences[latent]:
            found += self._detection(latent)
        errors = {kind: self._strips(latent, rated.iloc[which[:EACH]], len(which))
                  for kind, which in windows.errors(rated).items()}  # fmt: skip
        verdict = alone.verdict(losses, seed=seed, resamples=self.params.rewrite.bootstrap)
        loss = losses[losses["arm"] == "sentence"].sort_values("window")["loss"].to_numpy()
        return Reading(latent, sentence, origin, rated, found, errors, verdict, loss)

    def _detection(self, latent: int) -> list[Scored]:
        judged = self.site.judgements
        where = cut(judged, self.params.score.threshold)
        mine = judged[judged["latent"] == latent]
        active, said = mine["active"].to_numpy(bool), mine["probability"].to_numpy(np.float64)
        return scores.detection(active, said, where=where, seed=self.params.seed)

    def _strips(self, latent: int, chosen: pd.DataFrame, total: int) -> Kind:
        """Some rated windows, the prediction at their last token."""
        shown = []
        for at in chosen.itertuples():
            one = Windows(np.array([at.rows]), np.array([at.ends]))
            [strip] = windows.cut(self.site.cache(at.split), latent, one, self.site.texts)
            numbers = f"true {at.true:.2f}, predicted {at.predicted:.2f}, E {at.expected:.1f}"
            shown.append(strip.told(at.predicted, -1, f"{numbers}, {at.split}"))
        return Kind(shown, f"{len(shown)} of {total} windows" if shown else "")

    def gain(self, old: Reading, new: Reading) -> Estimate:
        """What the new sentence costs more than the old one, nats, window by window."""
        options = {"seed": self.params.seed, "resamples": self.params.rewrite.bootstrap}
        return bootstrap(new.losses - old.losses, unit="evaluate window", **options)

    # ── what another sentence or another text needs ──────────────────────────────────────────

    def open_engine(self, llm: LLM) -> Engine:
        """The engine that holds an LLM, one a process."""
        return opening.engine(llm)

    @property
    def usage(self) -> Usage:
        """What the run's own ratings took."""
        return Usage(**self.site.simulation_stage.manifest["facts"].get("usage", {}))

    def description(self, latent: int, sentence: str) -> str:
        """What the simulator would read about the latent; ExplanationError on an empty sentence."""
        return self.site.telling.about(latent, sentence)

    def rated_texts(self) -> list[Window]:
        """The rated windows as the simulator reads them."""
        return [window for split in SIMULATED for window in self.site.telling.windows(split)]

    def read_as(self, row: int, end: int) -> Window:
        """A window of the explain rows as the simulator reads it, never with the BOS."""
        first = max(1, end - self.params.simulate.window_tokens + 1)
        return Window.of(self.site.texts(self.cache.tokens[row, first : end + 1]))

    def replaced(
        self, latent: int, values: Float[ndarray, " window"], *, step: Callable[[float], None]
    ) -> pd.DataFrame:
        """The latent's losses, with these activations at the rated windows as its sentence's."""
        again = usefulness.measure(
            self.site.subject,
            self.site.hookpoint,
            self.site.coder,
            self.site.cache("evaluate").tokens,
            self.site.simulated_windows("evaluate"),
            {(latent, "sentence"): values[self.rated["split"] == "evaluate"]},
            name="your sentence",
            progress=step,
        )
        old = self.losses[latent]
        return pd.concat([old[old["arm"] != "sentence"], again[again["arm"] == "sentence"]])

    @property
    def replaced_seconds(self) -> float:
        """About what ``replaced`` takes: not more than the run's own pass over all latents."""
        return float(self.site.stage(ALONE).manifest["seconds"])

    def ids(self, text: str) -> list[int]:
        """Token ids of a text of one's own; ValueError when there is none."""
        ids = plain_ids(self.site.subject.tokenizer, [text])[0]
        if not ids:
            raise ValueError("the text is empty: paste some words")
        return ids

    @torch.no_grad()
    def own(self, text: str) -> OwnText:
        """What subject and coder make of a text; ValueError when there is none."""
        site, ids = self.site, self.ids(text)
        rows = torch.tensor([[site.subject.bos, *ids[:LONGEST]]])
        inputs = hooked(site.collector, rows, site.hookpoint).inputs[0, 1:]
        true = site.coder.dense(site.coder.encode(inputs.float())).cpu().numpy()
        return OwnText(site.texts(np.array(ids[:LONGEST])), true, len(ids[LONGEST:]))

    def save(self, latent: int, sentence: str) -> Path:
        """Put a sentence into the run's curated.parquet, and say where that is."""
        site, file = self.site, self.site.run.folder / curated.FILE
        who = {"site": site.name, "coder": site.coder_stage.hash, "latent": latent}
        curated.save(file, **who, sentence=sentence, replaced=self.sentences[latent])
        return file


def headline(shelves: Mapping[str, Shelf]) -> str:
    """Sentence against mean with one latent replaced at a time, mean over latents."""
    parts = []
    for name, shelf in shelves.items():
        cost, windows = shelf.rows["CE sentence − mean"], shelf.site.settings.evaluate_windows
        found = bootstrap(cost.to_numpy(), unit="latent", seed=shelf.params.seed)
        said = f"CE sentence − mean {found} nats, {windows} windows"
        parts.append(f"{name}: one latent alone, {said}")
    return "; ".join(parts)

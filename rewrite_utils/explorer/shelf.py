"""What a run knows of its latents, read once, so that taking one latent out is a slice.

In: a site. Out: records of one latent and a table of all. The one place of the explorer that
touches the site, also to compute on its subject; draws nothing and asks no simulator.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.explain.logits import promoted
from rewrite_utils.explain.stage import EXPLANATIONS
from rewrite_utils.explorer import scores, windows
from rewrite_utils.explorer.card import Known, Reading
from rewrite_utils.explorer.prediction import Predictor, predictor
from rewrite_utils.explorer.scores import Scored
from rewrite_utils.explorer.stage import ALONE, FITTED, verdict
from rewrite_utils.explorer.windows import EACH, Kind
from rewrite_utils.latents import neighbours
from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.stage import SIMULATED
from rewrite_utils.llm.protocol import EngineError
from rewrite_utils.params import Params
from rewrite_utils.rewrite.layer import CODER, MEAN
from rewrite_utils.rewrite.layer_stage import LAYER
from rewrite_utils.score.rates import auroc_value
from rewrite_utils.score.scores import cut
from rewrite_utils.simulate import ExplanationError, Ratings
from rewrite_utils.site import SiteStages
from rewrite_utils.stats import bootstrap
from rewrite_utils.subject.pieces import spelled


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
    def predictor(self) -> Predictor | None:
        """What reads descriptions without an LLM; None where the site has no reader."""
        site = self.site
        if not site.settings.reader:
            return None
        return predictor(site.reader, site.level_texts, site.cache, site.subject, site.params.seed)

    @functools.cached_property
    def missing(self) -> str:
        """What this run lacks of what the explorer can show, in a sentence; "" where nothing."""
        said = [self._unsimulated] if self._unsimulated else []
        if self.predictor is None:
            said.append(
                f"site {self.site.name!r} has no reader, so an edited sentence is not judged while "
                f"you type: set sites.{self.site.name}.reader to 'c' and run again"
            )
        return "; ".join(said)

    @functools.cached_property
    def _unsimulated(self) -> str:
        """Why no sentence was simulated; "" where some were.

        A site with a reader needs no ratings, so none are made for it; any other is simulated now.
        """
        try:
            if self.predictor is None or self._rated_already:
                self.site.ratings("evaluate")
                return ""
        except (OSError, ImportError, EngineError, ExplanationError) as error:
            return f"no sentence of site {self.site.name!r} is simulated ({error})"
        return f"no sentence of site {self.site.name!r} is simulated: notebook 05 does it"

    @property
    def _rated_already(self) -> bool:
        return self.site.finished(EXPLANATIONS) and self.site.is_simulated

    @functools.cached_property
    def sentences(self) -> dict[int, str]:
        """The sentence of every latent that was simulated."""
        return {} if self._unsimulated else self.site.sentences

    @functools.cached_property
    def descriptions(self) -> dict[int, str]:
        """What is said of every latent of which something is: words and strengths where the site
        has a reader, else the simulated sentence."""
        return self.sentences | dict(self.predictor.descriptions if self.predictor else {})

    @property
    def latents(self) -> list[int]:
        """The latents that have a simulated sentence, in order."""
        return list(self.sentences)

    @property
    def cache(self) -> LatentCache:
        """Activations on the explain rows."""
        return self.site.cache("explain")

    def place(self, latent: int) -> int:
        """The latent's column; KeyError for one that was not simulated."""
        if latent not in self.sentences:
            known = ", ".join(map(str, self.latents[:12])) + " …" * (len(self.latents) > 12)
            raise KeyError(
                f"latent {latent} was not simulated in this run; those that were: {known}"
            )
        return self.latents.index(latent)

    def spell(self, ids: Sequence[int]) -> list[str]:
        """Each token's text by itself."""
        return spelled(self.site.subject.tokenizer, ids)

    def require(self, latent: int) -> None:
        """KeyError for a latent that the coder does not have."""
        if not 0 <= latent < self.cache.n_latents:
            raise KeyError(f"latent {latent} is not in this coder (0 … {self.cache.n_latents - 1})")

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

    @functools.cached_property
    def predicted(self) -> Float[ndarray, "window latent"]:
        """The ratings, calibrated by the run's headline calibrator."""
        return self.site.evidence.calibrated(self.params.rewrite.headline, self.ratings)

    @functools.cached_property
    def losses(self) -> dict[int, pd.DataFrame]:
        """By latent, one row a (window, arm): the loss with this latent alone replaced."""
        if not self.latents:
            return {}
        table = self.site.read(ALONE)
        return {int(latent): mine for latent, mine in table.groupby("latent", sort=False)}

    @functools.cached_property
    def rows(self) -> pd.DataFrame:
        """One row a latent of the coder: scores, firing rate, what its description is worth; won
        back by what a reader makes of it, or where nothing is read as measured."""
        whole = self.worth.assign(**{"firing rate": self.cache.rate})
        whole["R²"] = self.fitted.reindex(whole.index)
        read = whole["R²"] * whole["at stake"]
        whole["won back"] = read.fillna(-whole["CE sentence − mean"])
        whole["lost"] = whole["at stake"] - whole["won back"]
        whole["sentence"] = pd.Series(self.descriptions).reindex(whole.index).fillna("")
        return whole.reset_index()

    @functools.cached_property
    def worth(self) -> pd.DataFrame:
        """What each latent is worth: measured where the run did; elsewhere ``at stake`` is shared
        out in proportion to the output, from what is measured of latents or of the whole layer."""
        share = self.site.energy / max(float(self.site.energy.sum()), 1e-12)
        whole = pd.DataFrame({"share of output": share}).rename_axis("latent").join(self._measured)
        known = whole["at stake"].notna()
        rate = whole["at stake"].sum() / max(whole["share of output"][known].sum(), 1e-12)
        guessed = whole["share of output"] * (rate if known.any() else self._layer_worth)
        return whole.assign(measured=known, **{"at stake": whole["at stake"].fillna(guessed)})

    @property
    def _layer_worth(self) -> float:
        """CE with every latent at its mean over CE with the coder (nats); NaN where notebook 13
        has not measured it."""
        if not (self.site.settings.reader and self.site.finished(LAYER)):
            return np.nan
        own = self.site.layer_losses.query("text == 'evaluate'").groupby("source")["loss"].mean()
        return float(own[MEAN] - own[CODER])

    @functools.cached_property
    def fitted(self) -> pd.Series:
        """R² of every description that is read, by latent."""
        return self.site.read(FITTED) if self.predictor else pd.Series(dtype=float)

    @property
    def _measured(self) -> pd.DataFrame:
        """What the run measured of its simulated latents, by latent."""
        columns = ["rating AUROC", "detection AUROC", "CE sentence − mean", "at stake"]
        if not self.latents:
            return pd.DataFrame(columns=columns, dtype=float)
        means = [self.losses[one].groupby("arm")["loss"].mean() for one in self.latents]
        pairs = zip(self.true.T > 0, self.ratings.expected.astype(np.float64).T, strict=True)
        detection = self.site.scores.set_index("latent")["auroc"].reindex(self.latents)
        found = [
            [auroc_value(*pair) for pair in pairs],
            detection.to_numpy(),
            [one["sentence"] - one["mean"] for one in means],
            [one["mean"] - one["truth"] for one in means],
        ]
        return pd.DataFrame(dict(zip(columns, found, strict=True)), index=self.latents)

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
            share=float(site.energy[latent] / max(float(site.energy.sum()), 1e-12)),
            windows=windows.of_text(cache, latent, texts=site.texts, seed=self.params.seed),
            promoted=promoted(site.subject, site.coder, latent),
            above=site.subject.n_layers - 1 - site.hookpoint.layer,
            near={
                measure: [
                    (one, value, self.descriptions.get(one, "no sentence"))
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
        seed, sentence = self.params.seed, self.sentences[latent]
        others = np.delete(self.ratings.expected, place, axis=1).astype(np.float64)
        rated = self.rated.assign(
            true=self.true[:, place],
            expected=self.ratings.expected[:, place].astype(np.float64),
            predicted=self.predicted[:, place].astype(np.float64),
        )
        fires = rated["true"].to_numpy() > 0
        found = [scores.rating(fires, rated["expected"].to_numpy(), others, seed=seed)]
        found += self._detection(latent)
        errors = {kind: self._strips(latent, rated.iloc[which[:EACH]], len(which))
                  for kind, which in windows.errors(rated).items()}  # fmt: skip
        alone = verdict(losses, seed=seed, resamples=self.params.rewrite.bootstrap)
        return Reading(latent, sentence, origin, rated, found, errors, alone)

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


def headline(shelves: Mapping[str, Shelf]) -> str:
    """Sentence against mean with one latent replaced at a time, mean over latents."""
    parts = []
    for name, shelf in shelves.items():
        cost, windows = (
            shelf.worth["CE sentence − mean"].dropna(),
            shelf.site.settings.evaluate_windows,
        )
        if len(cost) < 2:
            parts.append(f"{name}: {shelf.missing or 'too few sentences for an interval'}")
            continue
        found = bootstrap(cost.to_numpy(), unit="latent", seed=shelf.params.seed)
        said = f"CE sentence − mean {found} nats, {windows} windows"
        parts.append(f"{name}: one latent alone, {said}")
    return "; ".join(parts)

"""Stage 02: the sparse activations of every latent, over all rows that are not training rows."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.latents import cache as caching
from rewrite_utils.latents.cache import LatentCache, OutputMoments, Windows, cache_latents
from rewrite_utils.latents.windows import draw_windows, some
from rewrite_utils.params import ParameterError, Params, Site
from rewrite_utils.runs.cost import Cost, PlanError
from rewrite_utils.runs.run import Stage, require_space
from rewrite_utils.runs.stage import Declared
from rewrite_utils.subject.corpus import Corpus
from rewrite_utils.subject.masking import control_tokens
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.stage import CACHED_SPLITS, flops_to, split_rows

SIMULATED = ("calibrate", "evaluate")
"""Splits whose windows are simulated: calibrations are fitted on the first, losses measured on the
second."""
SORTING_BYTES = 52
"""Bytes of memory an activation needs while one split's cache is sorted by latent: batches 16,
joined 16, order 8, sorted 12."""


class Caches:
    """The latent cache of every split, each read when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, LatentCache] = {}

    def __call__(self, split: str) -> LatentCache:
        """The latent cache of one split."""
        if split not in self._read:
            self._read[split] = LatentCache.read(self._folder / f"{split}.safetensors")
        return self._read[split]


class Drawn:
    """The windows of a split, (row, last position): drawn once, the same for every arm."""

    def __init__(self, *, cache: Caches, settings: Site, params: Params) -> None:
        self._cache, self._settings, self._params = cache, settings, params

    def __call__(self, split: str) -> Windows:
        """In evaluate the simulated windows come first, then those of the controls."""
        count = self.simulated_count(split)
        if split == "evaluate":
            count = max(count, self._settings.control_windows)
        first, last = self._params.rated_positions
        generator = np.random.default_rng([self._params.draws, SIMULATED.index(split)])
        where = self._cache(split).measured
        return draw_windows(where, count, first=first, last=last, generator=generator)

    def simulated(self, split: str) -> Windows:
        """The windows that the simulator rates."""
        return some(self(split), np.arange(self.simulated_count(split)))

    def simulated_count(self, split: str) -> int:
        """How many of them."""
        return getattr(self._settings, f"{split}_windows")


def make_latents(
    folder: Path,
    *,
    collector: Subject,
    hookpoint: Hookpoint,
    coder: SparseCoder,
    corpus: Corpus,
    name: str,
) -> dict[str, Any]:
    """Cache the sparse activations of all rows that are not training rows."""
    tokens = {split: corpus.rows(split) for split in CACHED_SPLITS}
    if coder.k is not None:  # of a coder with thresholds nobody knows how many will fire
        require_space(folder, needed=24 * coder.k * sum(rows.numel() for rows in tokens.values()))
    for split, rows in tokens.items():
        if not (folder / f"{split}.safetensors").exists():
            batches, label = folder / f"batches-{split}", f"{name}, {split}"
            how = {"folder": batches, "name": label, "masked": corpus.masked}
            cache, moments = cache_latents(collector, hookpoint, coder, rows, **how)
            if split == "calibrate":
                moments.write(folder / "moments.safetensors")
            cache.write(folder / f"{split}.safetensors")
        shutil.rmtree(folder / f"batches-{split}", ignore_errors=True)
    return {split: list(rows.shape) for split, rows in tokens.items()}


def special_firings(*, cache: Caches, subject: Subject) -> pd.DataFrame:
    """One row a split: what share of all firings stood on control tokens inside rows, or would have
    if those were not masked; ``most``: the largest such share of a latent.
    """
    controls, rows = control_tokens(subject.tokenizer), []
    for split in CACHED_SPLITS:
        found = cache(split)
        on = found.on_controls(controls)
        fired = found.counts + (found.left_out if len(found.masked) else 0)
        rows.append(
            {
                "split": split,
                "masked": bool(len(found.masked)),
                "tokens": found.tokens[:, 1:].size,
                "special tokens": int(np.isin(found.tokens[:, 1:], controls).sum()),
                "firings": int(fired.sum()),
                "on special tokens": int(on.sum()),
                "share": on.sum() / max(fired.sum(), 1),
                "most": (on / np.maximum(fired, 1)).max(),
            }
        )
    return pd.DataFrame(rows)


def output_moments(*, latents_stage: Stage) -> OutputMoments:
    """Mean and variance of the hooked output, over the calibrate rows."""
    return OutputMoments.read(latents_stage / "moments.safetensors")


def output_mean(*, output_moments: OutputMoments) -> Float[Tensor, " d_out"]:
    """Mean of the hooked output over the calibrate rows."""
    return torch.from_numpy(output_moments.mean)


def output_variance(*, output_moments: OutputMoments) -> float:
    """Summed variance of the hooked output over the calibrate rows."""
    return float(output_moments.variance)


def latent_means(*, cache: Caches) -> Float[ndarray, " latent"]:
    """Mean activation of every latent over the calibrate rows: what mean ablation puts there."""
    return cache("calibrate").mean


def energy(*, cache: Caches, coder: SparseCoder) -> Float[ndarray, " latent"]:
    """Share of the output's variance each latent carries alone, on the explain rows."""
    return caching.energy(cache("explain"), coder)


def described(
    *,
    cache: Caches,
    energy: Float[ndarray, " latent"],
    settings: Site,
    params: Params,
    name: str,
) -> Int[ndarray, " described"]:
    """The latents that get a sentence, in order of index.

    Raises ParameterError when fewer fire often enough than were asked for.
    """
    least = params.explain.min_firings
    alive = cache("explain").counts >= least
    wanted = settings.described or int(alive.sum())
    if alive.sum() < max(wanted, 1):
        raise ParameterError(
            f"sites.{name}.described = {wanted}, but only {int(alive.sum())} latents fire "
            f"at least {least} times in the explain rows: lower it, "
            "lower explain.min_firings, or train the coder longer"
        )
    ranked = np.argsort(-np.where(alive, energy, -1), kind="stable")
    return np.sort(ranked[:wanted])


def latents_cost(*, params: Params, settings: Site, name: str, model: ModelShape) -> Cost:
    """The coder over all rows that are not training rows."""
    _require_windows(name, settings, params)
    kept = {split: split_rows(params)[split] for split in CACHED_SPLITS}
    rows = sum(kept.values())
    most = rows * params.corpus.row_tokens * settings.k
    longest = max(kept.values()) * params.corpus.row_tokens * settings.k
    what = f"{rows:,} rows, at most {most:,} activations"
    found = cached_cost("02_latents", name, what, params, settings, model, rows=rows)
    return found._replace(memory={f"latent cache of sites.{name}": SORTING_BYTES * longest})


def cached_cost(
    stage: str,
    name: str,
    what: str,
    params: Params,
    settings: Site,
    model: ModelShape,
    *,
    rows: int,
) -> Cost:
    """So many rows through the subject up to the hookpoint, and the coder on every token."""
    tokens = rows * params.corpus.row_tokens
    return Cost(
        stage,
        name,
        what,
        tokens=tokens,
        storage=24 * tokens * settings.k,
        flops=tokens * (flops_to(model, settings) + 2 * model.d_model * settings.latents),
        dtype=params.subject.collected_in,
    )


def _require_windows(name: str, settings: Site, params: Params) -> None:
    """Enough different (row, position) pairs for the windows that are drawn."""
    rows, study = split_rows(params), params.studies
    first, last = params.rated_positions
    evaluate = max(settings.evaluate_windows, settings.control_windows, study.held_windows)
    fitted = max(settings.calibrate_windows, *study.sizes)
    for split, count in (("calibrate", fitted), ("evaluate", evaluate)):
        places = rows[split] * (last - first + 1)
        if count > places:
            raise PlanError(
                f"sites.{name}: {count:,} {split} windows, but its {rows[split]:,} rows have "
                f"only {places:,} positions {first} … {last}: lower the site's windows or "
                "studies.sizes and studies.held_windows, or raise "
                f"corpus.{split} or corpus.max_rows"
            )


LATENTS = Declared(
    name="02_latents",
    make=make_latents,
    read=Caches,
    on=("coder_stage",),
    cost=latents_cost,
    version=2,
)

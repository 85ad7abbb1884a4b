"""What measures the losses of arms at one site, and what that costs.

In: a subject, its coder, rows of text. Out: one row a (window, arm), as ``arms.measure`` gives it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.explain.stage import latent_count
from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.stage import Caches
from rewrite_utils.params import Params, Site
from rewrite_utils.rewrite import arms, usefulness
from rewrite_utils.rewrite.arms import Estimate
from rewrite_utils.runs.cost import Cost
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.stage import flops_to, layer_of


class Splicer:
    """Losses of arms at one site: the same subject, coder and rows for all of them."""

    def __init__(
        self, subject: Subject, hookpoint: Hookpoint, coder: SparseCoder, cache: Caches, name: str
    ) -> None:
        self._place = subject, hookpoint, coder
        self._cache, self._name = cache, name

    def losses(
        self,
        windows: Windows,
        estimates: Mapping[str, Estimate],
        latents: Int[ndarray, " latent"],
        what: str,
        *,
        seed: int,
        split: str = "evaluate",
        fractions: Sequence[float] = (1.0,),
        rankings: Mapping[str, Float[ndarray, " latent"]] | None = None,
        constants: Mapping[str, Float[Tensor, " d_out"]] | None = None,
    ) -> pd.DataFrame:
        """See ``arms.measure``: one row a (window, arm)."""
        return arms.measure(
            *self._place,
            self._cache(split).tokens,
            windows,
            described=latents,
            estimates=estimates,
            fractions=fractions,
            rankings=rankings or {},
            constants=constants or {},
            seed=seed,
            name=f"{self._name}, {what}",
        )

    def alone(
        self,
        windows: Windows,
        sources: Mapping[tuple[int, str], Float[ndarray, " window"]],
        *,
        split: str = "evaluate",
        **shown: Any,
    ) -> pd.DataFrame:
        """See ``usefulness.measure``: each (latent, arm) by itself, all other latents true."""
        tokens, name = self._cache(split).tokens, f"{self._name}, one latent at a time"
        return usefulness.measure(*self._place, tokens, windows, sources, name=name, **shown)


def splicer(
    *, subject: Subject, hookpoint: Hookpoint, coder: SparseCoder, cache: Caches, name: str
) -> Splicer:
    """What measures the losses of arms at this site."""
    return Splicer(subject, hookpoint, coder, cache, name)


def spliced(model: ModelShape, settings: Site, *, whole: int, losses: int) -> int:
    """FLOPs of ``whole`` tokens passed untouched and ``losses`` patched ones above the splice."""
    above = model.n_layers - layer_of(model, settings) - 1
    patched = model.flops(layers=above, logits=True) + 2 * model.d_model * settings.latents
    return whole * (model.flops() + flops_to(model, settings)) + losses * patched


def splice_cost(
    stage: str,
    name: str,
    what: str,
    params: Params,
    settings: Site,
    model: ModelShape,
    *,
    windows: int,
    losses: int,
) -> Cost:
    """Each window once whole, and one token a (window, arm) through the layers above."""
    whole = windows * params.corpus.row_tokens
    return Cost(
        stage,
        name,
        what,
        tokens=whole + losses,
        storage=60 * losses,
        flops=spliced(model, settings, whole=whole, losses=losses),
        dtype=params.subject.measured_in,
    )


def n_arms(params: Params, settings: Site, sources: Iterable[str]) -> int:
    """Arms of some sources, as the rewrite plans them: every fraction in every order."""
    count, asked = latent_count(settings), params.rewrite
    estimate = Estimate(np.empty((0, count), np.float32), asked.orders)
    return len(arms.plan_arms(dict.fromkeys(sources, estimate), asked.fractions, count))


def one_by_one(
    stage: str,
    params: Params,
    settings: Site,
    name: str,
    model: ModelShape,
    *,
    windows: int,
    each: int,
) -> Cost:
    """Every latent by itself in so many arms, and the truth once."""
    latents = latent_count(settings)
    losses = windows * (each * latents + 1)
    what = f"{windows:,} windows × {latents:,} latents alone × {each} arms"
    return splice_cost(stage, name, what, params, settings, model, windows=windows, losses=losses)

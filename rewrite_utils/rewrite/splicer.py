"""What measures the losses of arms at one site, and what that costs.

In: a subject, its coder, rows of text. Out: one row a (window, arm), and FLOPs. Paper §6.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped
from numpy import ndarray
from torch import Tensor

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.explain.stage import latent_count
from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.stage import Caches
from rewrite_utils.params import Params, Site
from rewrite_utils.rewrite import arms
from rewrite_utils.rewrite.arms import ALL, TOPK, Arm, Estimate
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.machine import at_once
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice import (
    GivenLatents,
    GivenOutput,
    OneLatent,
    Source,
    TrueLatents,
    arm_losses,
)
from rewrite_utils.subject.stage import flops_to, layer_of

FILE = "losses.parquet"
TRUTH = "truth"
"""The arm in which a latent keeps its own activation."""


@dataclass(frozen=True)
class Splicer:
    """Losses of arms at one site: the same subject, coder and rows for all of them."""

    subject: Subject
    """The model that is spliced."""
    hookpoint: Hookpoint
    """Where."""
    coder: SparseCoder
    """What decodes the latents there."""
    tokens: Callable[[str], Int[ndarray, "row pos"]]
    """The rows of text of a split."""
    name: str
    """The site's, for progress bars."""

    def losses(
        self,
        windows: Windows,
        estimates: Mapping[str, Estimate],
        described: Int[ndarray, " described"],
        what: str,
        *,
        seed: int,
        split: str = "evaluate",
        fractions: Sequence[float] = (1.0,),
        rankings: Mapping[str, Float[ndarray, " described"]] | None = None,
        constants: Mapping[str, Float[Tensor, " d_out"]] | None = None,
        batch: int | None = None,
    ) -> pd.DataFrame:
        """Losses of the coder as is, ``constants`` and all planned arms of the ``described``
        latents; ``batch`` windows at once."""
        planned, n = arms.plan_arms(estimates, fractions, len(described)), len(windows.rows)
        chosen = arms.masks(planned, rankings or {}, len(described), n_windows=n, seed=seed)
        whole: dict[Arm, Source] = {Arm("coder", 0, ALL): TrueLatents()}
        whole |= {Arm(key, 0, ALL): GivenOutput(y) for key, y in (constants or {}).items()}

        def told(arm: Arm, part: slice) -> Source:
            values, _, topk = estimates[arm.source]
            both = torch.from_numpy(values[part]), chosen[arm.count, arm.order][part]
            wide = (self._wide(narrow, described) for narrow in both)
            return GivenLatents(*wide, topk=topk or arm.source.endswith(TOPK))

        def losses(part: slice, rows: Tensor, mask: Tensor) -> dict[str, Tensor]:
            sources = [*whole.values(), *(told(arm, part) for arm in planned)]
            found = arm_losses(self.subject, self.coder, self.hookpoint, sources, rows, mask)
            return found.losses._asdict() | {"squared_error": found.squared_error}

        table = pd.DataFrame([*whole, *planned], columns=list(Arm._fields))
        how = {"name": f"rewrite of {self.name}, {what}", "batch": batch or self._fit(len(table))}
        return arms.by_window(self.tokens(split), windows, table, losses, **how)

    def alone(
        self,
        windows: Windows,
        sources: Mapping[tuple[int, str], Float[ndarray, " window"]],
        *,
        split: str = "evaluate",
        progress: Callable[[float], None] | None = None,
    ) -> pd.DataFrame:
        """One row a (window, latent, arm), each latent's truth among its arms: one latent replaced
        by ``sources``, its activations by (latent, arm), all others true.

        ``progress`` is told the share done after each batch and may raise to stop.
        """
        latents = list(dict.fromkeys(latent for latent, _ in sources))
        keys = [(latent, TRUTH) for latent in latents] + list(sources)

        def losses(part: slice, rows: Tensor, mask: Tensor) -> dict[str, Tensor]:
            told = [OneLatent(key[0], torch.tensor(v[part])) for key, v in sources.items()]
            given = [TrueLatents(), *told]
            found = arm_losses(self.subject, self.coder, self.hookpoint, given, rows, mask).losses
            truth = found.loss[:, :1].expand(-1, len(latents))  # once for every latent
            loss = torch.cat([truth, found.loss[:, 1:]], dim=1)
            return {"loss": loss, "base_loss": found.base_loss}

        table = pd.DataFrame(keys, columns=["latent", "arm"])
        how = {"name": f"{self.name}, one latent at a time", "batch": self._fit(0)}
        return arms.by_window(self.tokens(split), windows, table, losses, progress=progress, **how)

    def _wide(
        self, narrow: Tensor, described: Int[ndarray, " described"]
    ) -> Shaped[Tensor, "window latent"]:
        """Columns of the described latents at their places among all, 0 elsewhere."""
        width = self.coder.config.num_latents
        places = torch.from_numpy(described)
        return narrow.new_zeros(len(narrow), width).index_copy_(1, places, narrow)

    def _fit(self, n_arms: int) -> int:
        """Windows whose arms are made ready together: 8 on a CPU, or what a GPU holds of them."""
        each = self.coder.config.num_latents * (32 + 5 * n_arms)
        return at_once(8, each=each, device=self.subject.device)


def splicer(
    *, subject: Subject, hookpoint: Hookpoint, coder: SparseCoder, cache: Caches, name: str
) -> Splicer:
    """What measures the losses of arms at this site."""
    return Splicer(subject, hookpoint, coder, lambda split: cache(split).tokens, name)


def read_losses(folder: Path) -> pd.DataFrame:
    """One row a (window, arm)."""
    return pd.read_parquet(folder / FILE)


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
    above = model.n_layers - layer_of(model, settings) - 1
    patched = model.flops(layers=above, logits=True) + 2 * model.d_model * settings.latents
    return Cost(
        stage,
        name,
        what,
        tokens=whole + losses,
        storage=60 * losses,
        flops=whole * (model.flops() + flops_to(model, settings)) + losses * patched,
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

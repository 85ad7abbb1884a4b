"""Where the latent activations of an arm come from: the one thing in which arms differ.

In: a Site (what the model and the coder say at the patched tokens). Out: what to write there.
The order is the paper's (§6): true top-k → overwrite the substituted latents → keep the k largest
(if asked) → decode, the skip reading the true input. Knows nothing of models, and of a coder only
what ``Coder`` says.
"""

import dataclasses
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class Coder(Protocol):
    """What the splice asks of a sparse coder."""

    @property
    def k(self) -> int | None:
        """Latents that may be active on a token; None where no such number decides."""
        ...

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Any:
        """The true latents, in a form of the coder's own."""
        ...

    def dense(self, latents: Any) -> Float[Tensor, "batch latent"]:
        """What ``encode`` gave as whole vectors, with their zeros."""
        ...

    def decode(self, latents: Any, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_out"]:
        """The output of what ``encode`` gave; a skip reads ``x``."""
        ...

    def decode_dense(
        self, z: Float[Tensor, "batch latent"], x: Float[Tensor, "batch d_in"]
    ) -> Float[Tensor, "batch d_out"]:
        """The same from whole vectors, which may be any."""
        ...

    def direction(self, latent: int) -> Float[Tensor, " d_out"]:
        """What one unit of a latent adds to the output."""
        ...

    def require_fit(self, hookpoint: str, width: int) -> None:
        """ValueError where the coder is not of this hookpoint, or of another width."""
        ...


@dataclasses.dataclass(frozen=True)
class Site:
    """The patched tokens of one forward pass, and all that a source may know about them."""

    coder: Coder | None
    """The coder of the hookpoint; None where only whole outputs are replaced."""
    inputs: Float[Tensor, "site d_in"]
    """What the coder reads there, float32."""
    outputs: Float[Tensor, "site d_model"]
    """What the model itself puts out there, float32."""
    rows: Int[Tensor, " site"]
    """Row of each patched token: its index along the first axis of a source's values."""
    positions: Int[Tensor, " site"]
    """Its position in the row."""
    n_rows: int
    """Rows there are: what the first axis of a source's values must be."""

    @cached_property
    def latents(self) -> Any:
        """The true latents, as the coder gives them."""
        return self.require_coder().encode(self.inputs)

    @cached_property
    def dense(self) -> Float[Tensor, "site latent"]:
        """The same with their zeros."""
        return self.require_coder().dense(self.latents)

    def require_coder(self) -> Coder:
        """The coder; ValueError if there is none."""
        if self.coder is None:
            raise ValueError("this source needs the coder of the hookpoint: pass one, not None")
        return self.coder

    def take(self, values: Tensor) -> Tensor:
        """Values of these tokens, out of [width], [batch width] or [batch pos width] ones."""
        values = values.to(self.inputs.device)
        if values.ndim == 1:
            return values.expand(len(self.rows), -1)
        if values.shape[0] != self.n_rows:
            raise ValueError(
                f"values for {values.shape[0]} rows, but {self.n_rows} rows are patched"
            )
        return values[self.rows] if values.ndim == 2 else values[self.rows, self.positions]


@runtime_checkable
class Source(Protocol):
    """One arm: anything that says what stands at the patched tokens."""

    def output(self, site: Site) -> Float[Tensor, "site d_model"]:
        """What is written in place of ``site.outputs``."""
        ...


class Untouched:
    """The model's own output: the splice that changes nothing."""

    def output(self, site: Site) -> Float[Tensor, "site d_model"]:
        """``site.outputs``."""
        return site.outputs


class TrueLatents:
    """The coder as it is: encoded and decoded, nothing substituted."""

    def output(self, site: Site) -> Float[Tensor, "site d_model"]:
        """The coder's own sparse decode: bit for bit ``coder(x)``."""
        return site.require_coder().decode(site.latents, site.inputs)


@dataclasses.dataclass(frozen=True)
class GivenLatents:
    """True latents, some of them overwritten: simulated, calibrated, zero, mean, shuffled."""

    values: Float[Tensor, "*where latent"]
    """Activations that overwrite, in the latents' own units: [latent], [batch latent] or
    [batch pos latent]."""
    substituted: Bool[Tensor, "*whose latent"] | None = None
    """Which latents they overwrite, in the same three shapes; None: all of them."""
    topk: bool = False
    """Keep only the coder's k largest afterwards, as the paper does."""

    def output(self, site: Site) -> Float[Tensor, "site d_model"]:
        """Decode the mixture; the skip term reads the true input."""
        coder = site.require_coder()
        true, which = site.dense, self.substituted
        every = torch.ones_like(true, dtype=torch.bool)
        chosen = every if which is None else site.take(which)
        if self.topk and coder.k is None:
            raise ValueError(
                "the paper's top k after the overwrite needs a TopK coder, and this one has "
                "thresholds: take what ends in +topk out of rewrite.calibrators, rewrite.headline "
                "and studies.calibrators"
            )
        k = coder.k if self.topk else None
        return coder.decode_dense(mix(true, site.take(self.values), chosen, k=k), site.inputs)


@dataclasses.dataclass(frozen=True)
class OneLatent:
    """True latents, one of them overwritten: ``GivenLatents`` for a single column, without a dense
    decode."""

    latent: int
    """Which one."""
    values: Float[Tensor, " batch"]
    """Its activation in each row, in its own unit."""

    def output(self, site: Site) -> Float[Tensor, "site d_model"]:
        """The coder's own decode, moved along this latent's decoder direction."""
        coder = site.require_coder()
        change = self.values.to(site.inputs)[site.rows] - site.dense[:, self.latent]
        decoded = coder.decode(site.latents, site.inputs)
        return decoded + change[:, None] * coder.direction(self.latent)


@dataclasses.dataclass(frozen=True)
class GivenOutput:
    """The whole output replaced, coder or not: by zeros, by its mean."""

    values: Float[Tensor, "*where d_model"]
    """[d_model], [batch d_model] or [batch pos d_model]."""

    def output(self, site: Site) -> Float[Tensor, "site d_model"]:
        """The given vectors."""
        return site.take(self.values)


def zero_latents(
    n_latents: int, substituted: Bool[Tensor, "*whose latent"] | None = None
) -> GivenLatents:
    """v1's ablation: the substituted latents at zero, the others true."""
    return GivenLatents(torch.zeros(n_latents), substituted)


def mean_latents(
    means: Float[Tensor, " latent"], substituted: Bool[Tensor, "*whose latent"] | None = None
) -> GivenLatents:
    """v2's ablation: the substituted latents at their mean over all tokens but the BOS."""
    return GivenLatents(means, substituted)


def shuffled_latents(
    values: Float[Tensor, "batch *pos latent"],
    substituted: Bool[Tensor, "*whose latent"] | None = None,
    *,
    topk: bool = False,
    generator: torch.Generator,
) -> GivenLatents:
    """The floor: every window gets another window's values (a cyclic shift of a random order)."""
    if len(values) < 2:
        raise ValueError("shuffling needs two windows or more: one would keep its own values")
    order = torch.randperm(len(values), generator=generator, device=generator.device)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    return GivenLatents(values[partner.to(values.device)], substituted, topk)


def mix(
    true: Float[Tensor, "*batch latent"],
    estimate: Float[Tensor, "*batch latent"],
    substituted: Bool[Tensor, "*whose latent"],
    *,
    k: int | None = None,
) -> Float[Tensor, "*batch latent"]:
    """Overwrite the substituted latents; then keep the k largest and zero the rest (None: all).

    TypeError if ``estimate`` holds indices, ValueError where a substituted estimate is not finite.
    """
    if not estimate.is_floating_point():
        raise TypeError(f"estimates are activations, not {estimate.dtype} (latent indices?)")
    mixed = torch.where(substituted, estimate.to(true.dtype), true)
    missing = ~torch.isfinite(mixed)
    if missing.any():
        raise ValueError(
            f"{int(missing.sum())} activations to decode are missing or infinite: substitute only "
            "latents that were simulated"
        )
    if k is None or k >= mixed.shape[-1]:
        return mixed
    top = mixed.topk(k, dim=-1)
    return torch.zeros_like(mixed).scatter(-1, top.indices, top.values)


def substituted(
    n_latents: int,
    fraction: float,
    order: Literal["top", "random", "useful"],
    *,
    ranking: Float[Tensor, " latent"] | None = None,
    windows: int | None = None,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "*window latent"]:
    """The latents a fraction substitutes: ⌈fraction · n_latents⌉ of them.

    "top" and "useful" take the largest ``ranking`` first (score, measured usefulness; the lower
    index of equals, NaN last); "random" draws from ``generator``, anew for each of ``windows``.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction {fraction} is not between 0 and 1")
    count = -int(-(fraction * n_latents - 1e-9) // 1)
    if order == "random":
        chosen = _random_order(n_latents, windows, generator)[..., :count]
    else:
        chosen = _best_first(n_latents, order, ranking)[:count]
    mask = torch.zeros(*chosen.shape[:-1], n_latents, dtype=torch.bool)
    return mask.scatter(-1, chosen, True)


def _random_order(
    n_latents: int, windows: int | None, generator: torch.Generator | None
) -> Int[Tensor, "*window latent"]:
    if generator is None:
        raise ValueError("order 'random' needs a generator")
    shape = (n_latents,) if windows is None else (windows, n_latents)
    return torch.rand(shape, generator=generator, dtype=torch.float64).argsort(-1)


def _best_first(
    n_latents: int, order: str, ranking: Float[Tensor, " latent"] | None
) -> Int[Tensor, " latent"]:
    if ranking is None or ranking.shape != (n_latents,):
        raise ValueError(f"order {order!r} needs a ranking of all {n_latents} latents")
    worst_last = ranking.double().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return worst_last.argsort(descending=True, stable=True)

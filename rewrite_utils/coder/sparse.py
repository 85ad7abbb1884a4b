"""The sparse coder: a TopK transcoder of one MLP (with or without skip), or a TopK SAE.

In: activations [batch d_in]. Out: the k active latents of every token, and the decoded output.
Also the one definition of FVU, the random-weights control and `check_coder`.
Knows nothing of training (training/), of file formats (formats.py), or of any model.
Paper: §2 (coders) and its Table of coder quality.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from rewrite_utils.coder.topk import decode_sparse, top_latents

BiasConvention = Literal["current", "pre-2025-02"]
"""A transcoder's input is used as it is, or minus b_dec (sparsify before 12 February 2025)."""


class CoderConfig(BaseModel):
    """What determines a coder's function and initialisation, weights aside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    d_in: int = Field(gt=0)
    """Width of the activations it reads."""
    d_out: int = Field(0, ge=0)
    """Width of the activations it writes; left out: as `d_in`."""
    num_latents: int = Field(gt=0)
    """Width of the coder."""
    k: int = Field(gt=0)
    """Latents that may be active on a token."""
    transcode: bool = True
    """True: MLP input → MLP output. False: an SAE, which subtracts b_dec from its input."""
    skip_connection: bool = False
    """Add W_skip x (transcoders only)."""
    hookpoint: str = ""
    """Where the coder belongs: `layers.6.mlp` or `layers.6`; empty: unknown."""
    normalize_decoder: bool = False
    """Keep the decoder's rows at norm 1 while training (SAEs only)."""
    bias_convention: BiasConvention = "current"
    """`pre-2025-02`: the transcoder was trained on x − b_dec, and must be evaluated so."""

    @model_validator(mode="before")
    @classmethod
    def _same_width(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "d_out": values.get("d_out") or values.get("d_in", 0)}

    @model_validator(mode="after")
    def _consistent(self) -> "CoderConfig":
        if self.k > self.num_latents:
            raise ValueError(
                f"k = {self.k} is more than the coder's {self.num_latents} latents; lower k"
            )
        if not self.transcode and (self.skip_connection or self.d_out != self.d_in):
            raise ValueError("an SAE has no skip connection and d_out = d_in; set transcode = True")
        if self.transcode and self.normalize_decoder:
            raise ValueError("normalize_decoder is for SAEs: a transcoder's decoder starts at 0")
        if self.shifts_input and self.d_out != self.d_in:
            raise ValueError("bias_convention 'pre-2025-02' needs d_out = d_in")
        return self

    @property
    def shifts_input(self) -> bool:
        """True if b_dec is subtracted from the input before encoding."""
        return not self.transcode or self.bias_convention == "pre-2025-02"


class Latents(NamedTuple):
    """The active latents of a batch of tokens."""

    values: Float[Tensor, "batch k"]
    """Activations, ≥ 0, in no order; a token with fewer than k active latents has zeros."""
    indices: Int[Tensor, "batch k"]
    """Which latent each value belongs to; meaningless where the value is 0."""


class SparseCoder(nn.Module):
    """`ŷ = W_dec · TopK(ReLU(W_enc x + b_enc), k) + W_skip x + b_dec` (SAEs encode x − b_dec).

    W_enc [latent d_in], W_dec [latent d_out] (a row a latent), W_skip [d_out d_in] or None.
    """

    def __init__(self, config: CoderConfig, *, generator: torch.Generator | None = None) -> None:
        """Transcoders start as a constant: W_dec = W_skip = 0 (method §1). SAEs: W_dec = W_enc."""
        super().__init__()
        self.config = config
        bound = config.d_in**-0.5
        W_enc = torch.empty(config.num_latents, config.d_in)
        W_enc.uniform_(-bound, bound, generator=generator)
        d_out = config.d_out
        W_dec = torch.zeros(config.num_latents, d_out) if config.transcode else W_enc.clone()
        self.W_enc = nn.Parameter(W_enc)
        self.b_enc = nn.Parameter(torch.zeros(config.num_latents))
        self.W_dec = nn.Parameter(W_dec)
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        skip = config.skip_connection
        self.W_skip = nn.Parameter(torch.zeros(d_out, config.d_in)) if skip else None

    @torch.no_grad()
    def centre(
        self, x_mean: Float[Tensor, " d_in"], y_mean: Float[Tensor, " d_out"]
    ) -> "SparseCoder":
        """Set b_dec to the mean output, and b_enc so that a mean input has pre-activations 0."""
        self.b_dec.copy_(y_mean)
        shift = torch.zeros_like(x_mean) if self.config.shifts_input else x_mean
        self.b_enc.copy_(-self.W_enc @ shift.to(self.W_enc))
        return self

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Latents:
        """The k largest latents of every token, after the ReLU."""
        if self.config.shifts_input:
            x = x - self.b_dec
        return Latents(*top_latents(x, self.W_enc, self.b_enc, self.config.k))

    def decode(
        self, latents: Latents, x: Float[Tensor, "batch d_in"]
    ) -> Float[Tensor, "batch d_out"]:
        """`W_dec z + b_dec + W_skip x`, reading the active rows only; only the skip uses x."""
        return self._affine(decode_sparse(latents.values, latents.indices, self.W_dec), x)

    def decode_dense(
        self, z: Float[Tensor, "batch latent"], x: Float[Tensor, "batch d_in"]
    ) -> Float[Tensor, "batch d_out"]:
        """The same from whole vectors of latents, of which more than k may be active."""
        return self._affine(z @ self.W_dec, x)

    def dense(self, latents: Latents) -> Float[Tensor, "batch latent"]:
        """Active latents written into whole vectors."""
        z = latents.values.new_zeros(latents.values.shape[0], self.config.num_latents)
        return z.scatter(1, latents.indices, latents.values)

    def forward(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_out"]:
        """Encode and decode."""
        return self.decode(self.encode(x), x)

    def _affine(self, y: Tensor, x: Tensor) -> Tensor:
        y = y + self.b_dec
        return y if self.W_skip is None else torch.addmm(y, x, self.W_skip.T)

    def save(self, folder: str | Path) -> None:
        """Write `cfg.json` + `sae.safetensors` as sparsify does (see `formats.write_sparsify`)."""
        from rewrite_utils.coder.formats import write_sparsify  # noqa: PLC0415 (it imports this file)

        write_sparsify(self, Path(folder))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        hookpoint: str | None = None,
        bias_convention: BiasConvention = "current",
    ) -> "SparseCoder":
        """Read a coder's folder (see `formats.read_folder`); `hookpoint` must be the coder's."""
        from rewrite_utils.coder.formats import read_folder  # noqa: PLC0415 (it imports this file)

        return read_folder(Path(folder), hookpoint=hookpoint, bias_convention=bias_convention)


def random_coder(config: CoderConfig, generator: torch.Generator) -> SparseCoder:
    """The control with random weights: independent rows of norm 1 in W_enc and W_dec, W_skip = 0.

    Give it the data's means with `.centre(x_mean, y_mean)`, as a trained coder gets them.
    """
    coder = SparseCoder(config, generator=generator)
    for matrix in (coder.W_enc, coder.W_dec):
        rows = torch.randn(matrix.shape, generator=generator)
        matrix.data.copy_(rows / rows.norm(dim=1, keepdim=True))
    return coder


def fvu(
    y: Float[Tensor, "batch d_out"],
    y_hat: Float[Tensor, "batch d_out"],
    *,
    variance: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Fraction of variance unexplained, `Σ|y − ŷ|² / Σ|y − ȳ|²`; 1 is the mean, 0 is perfect.

    `variance` replaces the denominator when `y` is a part of a larger population.
    """
    return (y - y_hat).square().sum() / (total_variance(y) if variance is None else variance)


def total_variance(
    y: Float[Tensor, "batch d_out"], *, mean: Float[Tensor, " d_out"] | None = None
) -> Float[Tensor, ""]:
    """`Σ|y − ȳ|²` over the batch, the denominator of FVU; `mean`: ȳ of a larger population."""
    return (y - (y.mean(0) if mean is None else mean)).square().sum()


class FVU:
    """FVU of a stream of batches, equal to `fvu` of their concatenation; sums are float64."""

    def __init__(self) -> None:
        """Start empty."""
        self.tokens = 0
        self._error = self._variance = self._mean = torch.zeros((), dtype=torch.float64)

    def update(self, y: Float[Tensor, "batch d_out"], y_hat: Float[Tensor, "batch d_out"]) -> "FVU":
        """Add a batch; the batch variance is merged around the common mean (Chan et al. 1979)."""
        y, y_hat = y.detach().double().cpu(), y_hat.detach().double().cpu()
        n, shift = y.shape[0], y.mean(0) - self._mean
        total = self.tokens + n
        between = shift.square().sum() * self.tokens * n / total
        self._variance = self._variance + total_variance(y) + between
        self._mean = self._mean + shift * n / total
        self._error = self._error + (y - y_hat).square().sum()
        self.tokens = total
        return self

    @property
    def value(self) -> float:
        """The FVU so far; raises if nothing varied."""
        if not self._variance > 0:
            raise ValueError(f"FVU is undefined: {self.tokens} tokens whose target does not vary")
        return float(self._error / self._variance)


class CoderCheck(NamedTuple):
    """What a coder does on given activations."""

    hookpoint: str
    """The module the activations were read from."""
    fvu: float
    """Fraction of variance unexplained."""
    tokens: int
    """Tokens it was measured on."""
    l0: float
    """Mean number of latents above 0 on a token."""
    dead: float
    """Share of the latents that never fired on these tokens."""
    firing_rates: Float[Tensor, " latent"]
    """Share of the tokens on which each latent fires."""


@torch.no_grad()
def check_coder(
    coder: SparseCoder,
    pairs: Iterable[tuple[Float[Tensor, "_ d_in"], Float[Tensor, "_ d_out"]]],
    *,
    hookpoint: str,
    limit: float | None = 1.0,
) -> CoderCheck:
    """Measure a coder on (input, output) activations of the module `hookpoint`.

    Raises ValueError if the coder is of another hookpoint or of other widths, or if its FVU is
    above `limit`: no better than the mean, the usual sign of a wrong module (None: never).
    """
    require_hookpoint(coder.config, hookpoint)
    stream, fired = FVU(), torch.zeros(coder.config.num_latents)
    for x, y in pairs:
        require_widths(coder.config, x, y)
        latents = coder.encode(x)
        stream.update(y, coder.decode(latents, x))
        fired += firings(latents, coder.config.num_latents).cpu()
    rates = fired / max(stream.tokens, 1)
    dead = float((fired == 0).float().mean())
    check = CoderCheck(hookpoint, stream.value, stream.tokens, float(rates.sum()), dead, rates)
    if limit is not None and not check.fvu <= limit:
        raise ValueError(
            f"the coder does not explain {hookpoint!r}: FVU {check.fvu:.3f} on {check.tokens} "
            f"tokens is above {limit}; check the hookpoint, the layer norm's side, bias_convention"
        )
    return check


def firings(latents: Latents, num_latents: int) -> Float[Tensor, " latent"]:
    """On how many tokens of the batch each latent is above 0."""
    on = latents.indices[latents.values > 0]
    return torch.bincount(on, minlength=num_latents).float()


def require_hookpoint(config: CoderConfig, hookpoint: str) -> None:
    """Raise ValueError if the coder says that it belongs somewhere else."""
    if config.hookpoint and config.hookpoint != hookpoint:
        raise ValueError(
            f"this coder belongs to {config.hookpoint!r}, not to {hookpoint!r}; load the right one"
        )


def require_widths(config: CoderConfig, x: Tensor, y: Tensor) -> None:
    """Raise ValueError if activations do not fit the coder."""
    widths = (x.shape[-1], y.shape[-1])
    if widths != (config.d_in, config.d_out):
        raise ValueError(
            f"the coder maps width {config.d_in} to {config.d_out}, but the activations are "
            f"{widths[0]} and {widths[1]} wide; they are of another model or hookpoint"
        )

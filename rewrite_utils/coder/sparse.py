"""The sparse coder: a transcoder of one MLP (with or without skip), or an SAE; TopK or thresholds.

In: activations [batch d_in]. Out: the active latents of every token, and the decoded output.
On disk it is sparsify's folder, `cfg.json` + `sae.safetensors` (others' formats: formats.py).
Knows nothing of training or of any model. Paper: §2 (coders); method §1.
"""

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rewrite_utils.coder.config import BiasConvention, CoderConfig
from rewrite_utils.coder.topk import decode_sparse, latents_above, top_latents
from rewrite_utils.runs.whole import whole

WEIGHTS = "sae.safetensors"
_SPARSIFY_NAMES = {"W_enc": "encoder.weight", "b_enc": "encoder.bias"}
_DAMAGE = (json.JSONDecodeError, SafetensorError, ValidationError)
_DAMAGE += (KeyError, TypeError, AttributeError, UnicodeDecodeError, zipfile.BadZipFile)


class Latents(NamedTuple):
    """The active latents of a batch of tokens."""

    values: Float[Tensor, "batch k"]
    """Activations, ≥ 0, in no order; a token with fewer than k active latents has zeros."""
    indices: Int[Tensor, "batch k"]
    """Which latent each value belongs to; meaningless where the value is 0."""


class SparseCoder(nn.Module):
    """`ŷ = W_dec · TopK(ReLU(W_enc x + b_enc), k) + W_skip x + b_dec` (SAEs encode x − b_dec).

    W_enc [latent d_in], W_dec [latent d_out] (a row a latent), W_skip [d_out d_in] or None;
    threshold [latent] where there is no k: what is not above it is 0.
    """

    threshold: Tensor | None

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
        threshold = torch.zeros(config.num_latents) if config.k is None else None
        self.register_buffer("threshold", threshold)

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
        """The k largest latents of every token, after the ReLU; or all above their threshold."""
        if self.config.shifts_input:
            x = x - self.b_dec
        if self.config.k is None:
            return Latents(*latents_above(x, self.W_enc, self.b_enc, self.threshold))
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

    # ── what the splice asks of a coder ───────────────────────────────────────────────────────────

    @property
    def k(self) -> int | None:
        """Latents that may be active on a token; None where thresholds decide."""
        return self.config.k

    def direction(self, latent: int) -> Float[Tensor, " d_out"]:
        """What one unit of a latent adds to the output."""
        return self.W_dec[latent]

    def require_fit(self, hookpoint: str, width: int) -> None:
        """Raise ValueError if the coder is not of this hookpoint, or of another width."""
        self.config.require_hookpoint(hookpoint)
        self.config.require_widths(width, width)

    # ── on disk ───────────────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def save(self, folder: str | Path) -> None:
        """Write `cfg.json` + `sae.safetensors` so that sparsify gives the same outputs.

        The pre-2025-02 convention is folded away (b_enc − W_enc b_dec), because sparsify no longer
        has it. sparsify cannot read d_out ≠ d_in, nor thresholds; this package can.
        """
        config, tensors = self.config, {k: v.detach() for k, v in self.state_dict().items()}
        if config.transcode and config.shifts_input:
            tensors["b_enc"] = self.b_enc - self.W_enc @ self.b_dec
        weights = {_SPARSIFY_NAMES.get(k, k): v.cpu().contiguous() for k, v in tensors.items()}
        with whole(Path(folder) / WEIGHTS) as file:
            save_file(weights, file)
        with whole(Path(folder) / "cfg.json") as file:
            file.write_text(json.dumps(config.to_sparsify(), indent=1) + "\n")

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        hookpoint: str | None = None,
        bias_convention: BiasConvention = "current",
    ) -> "SparseCoder":
        """Read what `save`, or sparsify, wrote; `hookpoint` must be the coder's.

        Raises FileNotFoundError where there is no such folder, ValueError where it is damaged, of
        another hookpoint, or a coder of another function.
        """
        folder = Path(folder)
        if (folder / "cfg.json").is_file() and not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(f"{folder} has no {WEIGHTS}, nor weights of another package")
        with readable(folder):
            config = CoderConfig.from_sparsify(
                read_cfg(folder), folder=folder.name, bias_convention=bias_convention
            )
            ours = {theirs: name for name, theirs in _SPARSIFY_NAMES.items()}
            weights = {ours.get(k, k): v for k, v in load_file(folder / WEIGHTS).items()}
            return cls.of(config, weights, where=folder, hookpoint=hookpoint)

    @classmethod
    def of(
        cls, config: CoderConfig, weights: dict[str, Tensor], *, where: Path, hookpoint: str | None
    ) -> "SparseCoder":
        """A coder with these weights, put at `hookpoint`; ValueError where they do not fit."""
        if hookpoint is not None:
            config.require_hookpoint(hookpoint)
            config = config.model_copy(update={"hookpoint": hookpoint})
        coder = cls(config)
        wanted = {name: tuple(tensor.shape) for name, tensor in coder.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if wanted != found:
            differ = {n for n in wanted | found if wanted.get(n) != found.get(n)}
            pairs = ", ".join(f"{n}: {found.get(n)} not {wanted.get(n)}" for n in sorted(differ))
            raise ValueError(f"the weights in {where} do not fit its cfg.json: {pairs}")
        coder.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        return coder


@contextlib.contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turn what damaged files raise into one ValueError that names the coder's folder."""
    try:
        yield
    except _DAMAGE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{folder} cannot be read as a coder ({reason}): copy or download it again"
        ) from error


def read_cfg(folder: Path) -> dict[str, Any]:
    """A coder's `cfg.json`; FileNotFoundError if there is none."""
    if not (folder / "cfg.json").is_file():
        raise FileNotFoundError(f"{folder} is not a coder's folder: it has no cfg.json")
    return json.loads((folder / "cfg.json").read_text())


def random_coder(config: CoderConfig, generator: torch.Generator) -> SparseCoder:
    """The control with random weights: independent rows of norm 1 in W_enc and W_dec, W_skip = 0.

    Give it the data's means with `.centre(x_mean, y_mean)`, as a trained coder gets them.
    """
    coder = SparseCoder(config, generator=generator)
    for matrix in (coder.W_enc, coder.W_dec):
        rows = torch.randn(matrix.shape, generator=generator)
        matrix.data.copy_(rows / rows.norm(dim=1, keepdim=True))
    return coder

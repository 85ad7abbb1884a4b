"""What determines a coder's function: its widths, its k, what it reads and writes.

In: settings, or the `cfg.json` of a coder's folder as sparsify writes it. Paper: §2; method §1.
"""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

BiasConvention = Literal["current", "pre-2025-02"]
"""A transcoder's input is used as it is, or minus b_dec (sparsify before 12 February 2025)."""

_OTHER_FUNCTIONS = ("signed", "embed_skip", "gram_lookup")
"""Options of sparsify that make a coder another function than ours."""


class CoderConfig(BaseModel):
    """What determines a coder's function and initialisation, weights aside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    d_in: int = Field(gt=0)
    """Width of the activations it reads."""
    d_out: int = Field(0, ge=0)
    """Width of the activations it writes; left out: as `d_in`."""
    num_latents: int = Field(gt=0)
    """Width of the coder."""
    k: int | None = Field(None, gt=0)
    """Latents that may be active on a token (TopK); None: all above their own threshold (JumpReLU;
    ReLU and gated coders and BatchTopK are cases of it). Coders are trained as TopK."""
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
        if self.k is not None and self.k > self.num_latents:
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

    def require_hookpoint(self, hookpoint: str) -> None:
        """Raise ValueError if the coder says that it belongs somewhere else."""
        if self.hookpoint and self.hookpoint != hookpoint:
            raise ValueError(
                f"this coder belongs to {self.hookpoint!r}, not to {hookpoint!r}; load the right "
                "one"
            )

    def require_widths(self, d_in: int, d_out: int) -> None:
        """Raise ValueError if activations of these widths do not fit the coder."""
        if (d_in, d_out) != (self.d_in, self.d_out):
            raise ValueError(
                f"the coder maps width {self.d_in} to {self.d_out}, but the activations are "
                f"{d_in} and {d_out} wide; they are of another model or hookpoint"
            )

    @classmethod
    def from_sparsify(
        cls, cfg: dict[str, Any], *, folder: str, bias_convention: BiasConvention
    ) -> "CoderConfig":
        """The configuration that a `cfg.json` of sparsify, of any age, describes.

        `folder` is the name of its folder, which says the hookpoint where the file does not. Raises
        ValueError where the coder is another function than ours.
        """
        activation = cfg.get("activation", "topk")
        others = [option for option in _OTHER_FUNCTIONS if cfg.get(option)]
        if activation not in ("topk", "jumprelu") or others:
            raise ValueError(
                f"{folder}: this package reads TopK coders with ReLU, not activation "
                f"{activation!r} with {', '.join(others) or 'no option'}"
            )
        # Before 2025-02 cfg.json said nothing of transcoding; only transcoders had a skip.
        transcode = cfg.get("transcode", cfg.get("skip_connection", False))
        named = folder if re.fullmatch(r"layers\.\d+(\.mlp)?", folder) else ""
        return cls(
            d_in=cfg["d_in"],
            d_out=cfg.get("d_out", 0),
            num_latents=cfg.get("num_latents") or cfg["d_in"] * cfg["expansion_factor"],
            k=cfg["k"],
            transcode=transcode,
            skip_connection=cfg.get("skip_connection", False),
            hookpoint=cfg.get("hookpoint") or named,
            normalize_decoder=cfg.get("normalize_decoder", False) and not transcode,
            bias_convention=bias_convention if transcode else "current",
        )

    def to_sparsify(self) -> dict[str, Any]:
        """What sparsify's `cfg.json` says of this coder (its convention is always the current)."""
        return {
            "activation": "topk" if self.k else "jumprelu",
            "expansion_factor": max(1, self.num_latents // self.d_in),
            "normalize_decoder": self.normalize_decoder,
            "num_latents": self.num_latents,
            "k": self.k,
            "multi_topk": False,
            "skip_connection": self.skip_connection,
            "transcode": self.transcode,
            "d_in": self.d_in,
            "d_out": self.d_out,
            "hookpoint": self.hookpoint,
        }

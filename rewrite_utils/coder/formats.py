"""Coders from elsewhere: sparsify's folders, SAELens' (old and new), GemmaScope's, and hub names.

In: a folder or a hub name, and the hookpoint one expects. Out: a `SparseCoder`. Every convention of
the other package is folded into the weights, so outputs are equal: ReLU, gated and BatchTopK coders
are JumpReLU coders with other thresholds.
Paper: its published coders (method §1).
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors.torch import load_file
from torch import Tensor

from rewrite_utils.assets.hub import reason
from rewrite_utils.coder.config import BiasConvention, CoderConfig
from rewrite_utils.coder.sparse import SparseCoder, read_cfg, readable
from rewrite_utils.params import placed

SAELENS, GEMMASCOPE = "sae_weights.safetensors", "params.npz"
THRESHOLDS = {
    "topk": None,
    "standard": None,
    "gated": None,
    "jumprelu": "threshold",
    "batchtopk": "topk_threshold",
    "matryoshka_batchtopk": "topk_threshold",
    "transcoder": None,
    "skip_transcoder": None,
    "jumprelu_transcoder": "threshold",
    "jumprelu_skip_transcoder": "threshold",
}
"""SAELens' kinds of coders that can be read, and the weight that says what their latents must pass
(BatchTopK has one for use outside training)."""


def load_coder(
    name: str | Path,
    *,
    hookpoint: str,
    bias_convention: BiasConvention = "current",
    revision: str | None = None,
) -> SparseCoder:
    """Load the coder of `hookpoint` from a coder's folder, a folder of such folders, or a hub name.

    Raises FileNotFoundError if there is none (or the hub is out of reach), ValueError if the coder
    belongs to another hookpoint, is of an unknown kind, or its files do not fit together.
    """
    root = placed(name)
    if not root.is_dir():
        root = _from_hub(str(name), hookpoint, revision)
    folder = _of_hookpoint(root, hookpoint)
    if not folder.is_dir():
        found = sorted(path.parent.name for path in root.glob("*/cfg.json"))
        raise FileNotFoundError(f"no coder of {hookpoint!r} in {name}; it holds {found}")
    for file, read in ((SAELENS, _from_saelens), (GEMMASCOPE, _from_gemmascope)):
        if (folder / file).is_file():
            with readable(folder):
                config, weights = read(folder, hookpoint)
                return SparseCoder.of(config, weights, where=folder, hookpoint=hookpoint)
    return SparseCoder.load(folder, hookpoint=hookpoint, bias_convention=bias_convention)


def keeps_k(name: str | Path, hookpoint: str) -> bool | None:
    """Whether a coder keeps a number of latents, as TopK does; None where it is not on this disk.

    ValueError for a kind that cannot be read, or a damaged file.
    """
    folder = _of_hookpoint(placed(name), hookpoint)
    if (folder / GEMMASCOPE).is_file():
        return False
    if not (folder / "cfg.json").is_file():
        return None
    with readable(folder):
        cfg = read_cfg(folder)
        saelens = (folder / SAELENS).is_file()
        return (_saelens_kind(cfg)[1] if saelens else cfg.get("k")) is not None


def _of_hookpoint(root: Path, hookpoint: str) -> Path:
    """A coder's own folder, or the one of its hookpoint in a folder of such."""
    own = any((root / file).is_file() for file in ("cfg.json", GEMMASCOPE))
    return root if own else root / hookpoint


def _from_hub(name: str, hookpoint: str, revision: str | None) -> Path:
    try:
        pattern = f"{hookpoint}/*"
        return Path(snapshot_download(name, revision=revision, allow_patterns=pattern))
    except (OSError, HFValidationError) as error:
        why = reason(error, revision or "") or (
            f"could not be fetched as a hub name ({type(error).__name__}); give a coder's folder, "
            "or run where the hub is reachable"
        )
        raise FileNotFoundError(f"coder {name!r} is no folder here, and {why}") from error


def _from_saelens(folder: Path, hookpoint: str) -> tuple[CoderConfig, dict[str, Tensor]]:
    """A coder of SAELens in our conventions; ValueError for what cannot be folded into weights."""
    cfg = read_cfg(folder)
    kind, k = _saelens_kind(cfg)
    for key in ("normalize_activations", "reshape_activations", "finetuning_scaling_factor"):
        if cfg.get(key) not in (None, False, "none", "None"):
            raise ValueError(f"SAELens' {key} = {cfg[key]!r} is not supported; fold it first")
    raw = {name: tensor.float() for name, tensor in load_file(folder / SAELENS).items()}
    if (name := THRESHOLDS[kind]) and name not in raw:
        raise ValueError(f"this SAELens coder is {kind!r}, but its weights hold no {name!r}")
    weights = _with_threshold(raw, k=k, threshold=raw.get(name or ""))
    if cfg.get("rescale_acts_by_decoder_norm"):
        norms = weights["W_dec"].norm(dim=1).clamp(min=1e-8)
        weights["W_dec"] = weights["W_dec"] / norms[:, None]
        weights["W_enc"] = weights["W_enc"] * norms[:, None]
        weights["b_enc"] = weights["b_enc"] * norms
    transcode = "transcoder" in kind
    where = _saelens_hookpoint(cfg, transcode=transcode)
    shifted = cfg.get("apply_b_dec_to_input", True)
    return _finished(weights, k=k, transcode=transcode, shifted=shifted, hookpoint=where)


def _saelens_kind(cfg: dict[str, Any]) -> tuple[str, int | None]:
    """The architecture, and its k where it is TopK."""
    kind = cfg.get("architecture") or "standard"
    activation = cfg.get("activation_fn") or cfg.get("activation_fn_str") or "relu"
    k = cfg.get("k") or (cfg.get("activation_fn_kwargs") or {}).get("k")
    if kind == "standard" and activation == "topk":  # before version 6
        kind = "topk"
    if kind not in THRESHOLDS or activation not in ("relu", kind) or (kind == "topk" and not k):
        raise ValueError(
            f"this SAELens coder is {kind!r} with activation {activation!r} and k = {k}: what can "
            f"be read is {', '.join(THRESHOLDS)}"
        )
    return kind, int(k) if k and kind == "topk" else None


def _saelens_hookpoint(cfg: dict[str, Any], *, transcode: bool) -> str:
    """`blocks.6.hook_resid_post` → `layers.6` (`hook_resid_pre`: the block before's output); a
    transcoder of `blocks.6`, from what its MLP reads to `hook_mlp_out` → `layers.6.mlp`.
    """
    about = {**cfg, **(cfg.get("metadata") or {})}
    hook = about.get("hook_name") or about.get("hook_point") or ""
    if transcode:
        inside = re.fullmatch(
            r"blocks\.(\d+)\.(ln2\.hook_normalized|mlp\.hook_in|hook_mlp_in)", hook
        )
        if inside and about.get("hook_name_out") == f"blocks.{inside[1]}.hook_mlp_out":
            return f"layers.{inside[1]}.mlp"
        raise ValueError(
            f"SAELens transcoder from {hook!r} to {about.get('hook_name_out')!r} does not stand "
            "for a block's MLP, so no hookpoint here"
        )
    match = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)", hook)
    if match is None or hook == "blocks.0.hook_resid_pre":
        raise ValueError(
            f"SAELens hook {hook!r} is not the residual stream after a block, so no hookpoint here"
        )
    return f"layers.{int(match[1]) - (match[2] == 'pre')}"


def _from_gemmascope(folder: Path, hookpoint: str) -> tuple[CoderConfig, dict[str, Tensor]]:
    """GemmaScope's residual SAEs and transcoders: JumpReLU, b_dec left on the input.

    The file does not say where it belongs; its path does, where it still has the published name.
    """
    with np.load(folder / GEMMASCOPE) as file:
        raw = {"W" + k[1:] if k[:2] == "w_" else k: torch.from_numpy(file[k]) for k in file.files}
    layer = re.search(r"layer_(\d+)", folder.resolve().as_posix())
    if layer and hookpoint.split(".")[1] != layer[1]:
        raise ValueError(f"{folder} is a coder of layer {layer[1]}, not of {hookpoint!r}")
    weights = _with_threshold(raw, k=None, threshold=raw["threshold"])
    transcode = hookpoint.endswith(".mlp")
    return _finished(weights, k=None, transcode=transcode, shifted=False, hookpoint=hookpoint)


def _with_threshold(
    raw: dict[str, Tensor], *, k: int | None, threshold: Tensor | None
) -> dict[str, Tensor]:
    """Weights by our names, W_enc a row a latent; without a k, a threshold for every latent."""
    weights = {name: raw[name] for name in ("W_dec", "b_dec", "W_skip") if name in raw}
    weights["W_enc"] = raw["W_enc"].T
    if "b_gate" in raw:
        # A gated coder gives e^r u + b_mag where u + b_gate > 0 (u = W_enc x): where that magnitude
        # is above b_mag − e^r b_gate.
        scale = raw["r_mag"].exp()
        weights["W_enc"], weights["b_enc"] = weights["W_enc"] * scale[:, None], raw["b_mag"]
        threshold = raw["b_mag"] - scale * raw["b_gate"]
    else:
        weights["b_enc"] = raw["b_enc"]
    if k is None:
        above = torch.zeros(()) if threshold is None else threshold.float()  # 0: a plain ReLU
        weights["threshold"] = above.expand(len(weights["b_enc"])).clone()
    return weights


def _finished(
    weights: dict[str, Tensor], *, k: int | None, transcode: bool, shifted: bool, hookpoint: str
) -> tuple[CoderConfig, dict[str, Tensor]]:
    """The configuration of these weights; an SAE that is not `shifted` encodes x, not x − b_dec,
    which its b_enc makes up for.
    """
    if not transcode and not shifted:
        weights["b_enc"] = weights["b_enc"] + weights["W_enc"] @ weights["b_dec"]
    config = CoderConfig(
        d_in=weights["W_enc"].shape[1],
        d_out=weights["W_dec"].shape[1],
        num_latents=weights["W_enc"].shape[0],
        k=k,
        transcode=transcode,
        skip_connection="W_skip" in weights,
        hookpoint=hookpoint,
    )
    return config, weights

"""Coders on disk: sparsify's folder (both ways), SAELens' TopK folder (reading), and hub names.

In: a folder or a hub name, and the hookpoint one expects. Out: a `SparseCoder`.
sparsify: `cfg.json` + `sae.safetensors`, one folder a hookpoint. SAELens: `cfg.json` +
`sae_weights.safetensors`, whose conventions are folded into the weights, so outputs are equal.
Paper: its published coders (method §1).
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rewrite_utils.coder.sparse import BiasConvention, CoderConfig, SparseCoder, require_hookpoint
from rewrite_utils.params import placed

_SPARSIFY, _SAELENS = "sae.safetensors", "sae_weights.safetensors"
_OTHER_FUNCTIONS = ("signed", "embed_skip", "gram_lookup")
"""Options of sparsify that make a coder another function than ours."""
_DAMAGE = (json.JSONDecodeError, SafetensorError, ValidationError)
_DAMAGE += (KeyError, TypeError, AttributeError, UnicodeDecodeError)
_SPARSIFY_KEYS = {"encoder.weight": "W_enc", "encoder.bias": "b_enc"}


def load_coder(
    name: str | Path,
    *,
    hookpoint: str,
    bias_convention: BiasConvention = "current",
    revision: str | None = None,
) -> SparseCoder:
    """Load the coder of `hookpoint` from a coder's folder, a folder of such folders, or a hub name.

    Raises FileNotFoundError if there is none (or the hub is out of reach), ValueError if the coder
    belongs to another hookpoint or its files do not fit together.
    """
    root = placed(name)
    if not root.is_dir():
        root = _from_hub(str(name), hookpoint, revision)
    folder = root if (root / "cfg.json").is_file() else root / hookpoint
    if not folder.is_dir():
        found = sorted(path.parent.name for path in root.glob("*/cfg.json"))
        raise FileNotFoundError(f"no coder of {hookpoint!r} in {name}; it holds {found}")
    return read_folder(folder, hookpoint=hookpoint, bias_convention=bias_convention)


def read_folder(
    folder: Path, *, hookpoint: str | None, bias_convention: BiasConvention = "current"
) -> SparseCoder:
    """Read one coder's folder, in either format; `hookpoint` (if given) must be the coder's."""
    if not (folder / "cfg.json").is_file():
        raise FileNotFoundError(f"{folder} is not a coder's folder: it has no cfg.json")
    try:
        return _read(folder, hookpoint, bias_convention)
    except _DAMAGE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{folder} cannot be read as a coder ({reason}): copy or download it again"
        ) from error


def _read(folder: Path, hookpoint: str | None, bias_convention: BiasConvention) -> SparseCoder:
    cfg = json.loads((folder / "cfg.json").read_text())
    if (folder / _SAELENS).is_file():
        config, weights = _from_saelens(cfg, load_file(folder / _SAELENS))
    elif (folder / _SPARSIFY).is_file():
        config = _sparsify_config(cfg, folder.name, bias_convention)
        weights = {_SPARSIFY_KEYS.get(k, k): v for k, v in load_file(folder / _SPARSIFY).items()}
    else:
        raise FileNotFoundError(f"{folder} has neither {_SPARSIFY} nor {_SAELENS}")
    if hookpoint is not None:
        require_hookpoint(config, hookpoint)
        config = config.model_copy(update={"hookpoint": hookpoint})
    return _with_weights(config, weights, str(folder))


@torch.no_grad()
def write_sparsify(coder: SparseCoder, folder: Path) -> None:
    """Write `cfg.json` + `sae.safetensors` so that sparsify gives the same outputs.

    The pre-2025-02 convention is folded away (b_enc − W_enc b_dec), because sparsify no longer has
    it. sparsify cannot read d_out ≠ d_in; this package can.
    """
    config, tensors = coder.config, {k: v.detach() for k, v in coder.state_dict().items()}
    if config.transcode and config.shifts_input:
        tensors["b_enc"] = coder.b_enc - coder.W_enc @ coder.b_dec
    names = {ours: theirs for theirs, ours in _SPARSIFY_KEYS.items()}
    weights = {names.get(k, k): v.cpu().contiguous() for k, v in tensors.items()}
    cfg = {
        "activation": "topk",
        "expansion_factor": max(1, config.num_latents // config.d_in),
        "normalize_decoder": config.normalize_decoder,
        "num_latents": config.num_latents,
        "k": config.k,
        "multi_topk": False,
        "skip_connection": config.skip_connection,
        "transcode": config.transcode,
        "d_in": config.d_in,
        "d_out": config.d_out,
        "hookpoint": config.hookpoint,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / f".{_SPARSIFY}")
    (folder / ".cfg.json").write_text(json.dumps(cfg, indent=1) + "\n")
    (folder / f".{_SPARSIFY}").replace(folder / _SPARSIFY)
    (folder / ".cfg.json").replace(folder / "cfg.json")


def _sparsify_config(
    cfg: dict[str, Any], folder: str, bias_convention: BiasConvention
) -> CoderConfig:
    others = [option for option in _OTHER_FUNCTIONS if cfg.get(option)]
    if cfg.get("activation", "topk") != "topk" or others:
        raise ValueError(
            f"{folder}: this package reads TopK coders with ReLU, not activation "
            f"{cfg.get('activation', 'topk')!r} with {', '.join(others) or 'no option'}"
        )
    # Before 2025-02 cfg.json said nothing of transcoding; only transcoders had a skip.
    transcode = cfg.get("transcode", cfg.get("skip_connection", False))
    named = folder if re.fullmatch(r"layers\.\d+(\.mlp)?", folder) else ""
    return CoderConfig(
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


def _from_saelens(
    cfg: dict[str, Any], raw: dict[str, Tensor]
) -> tuple[CoderConfig, dict[str, Tensor]]:
    """SAELens' TopK SAE in our conventions: b_dec off the input, decoder norms folded."""
    older = cfg.get("activation_fn_kwargs") or {}
    is_topk = cfg.get("architecture") == "topk" or "topk" in str(cfg.get("activation_fn"))
    k = cfg.get("k") or older.get("k")
    if not is_topk or k is None:
        raise ValueError(
            f"this SAELens coder is {cfg.get('architecture')!r}: only TopK coders can be read"
        )
    for key in ("normalize_activations", "reshape_activations"):
        if cfg.get(key) not in (None, "none", "None"):
            raise ValueError(f"SAELens' {key} = {cfg[key]!r} is not supported; fold it first")
    W_enc, W_dec = raw["W_enc"].float().T, raw["W_dec"].float()
    b_enc, b_dec = raw["b_enc"].float(), raw["b_dec"].float()
    if cfg.get("rescale_acts_by_decoder_norm"):
        norms = W_dec.norm(dim=1)
        W_enc, b_enc, W_dec = W_enc * norms[:, None], b_enc * norms, W_dec / norms[:, None]
    if not cfg.get("apply_b_dec_to_input", True):
        b_enc = b_enc + W_enc @ b_dec
    config = CoderConfig(
        d_in=cfg["d_in"],
        d_out=cfg["d_in"],
        num_latents=cfg["d_sae"],
        k=int(k),
        transcode=False,
        hookpoint=_saelens_hookpoint(cfg),
    )
    return config, {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}


def _saelens_hookpoint(cfg: dict[str, Any]) -> str:
    """`blocks.6.hook_resid_post` → `layers.6`; `hook_resid_pre` is the block before's output."""
    hook = (cfg.get("metadata") or {}).get("hook_name") or cfg.get("hook_name") or ""
    match = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)", hook)
    if match is None or hook == "blocks.0.hook_resid_pre":
        raise ValueError(
            f"SAELens hook {hook!r} is not the residual stream after a block, so no hookpoint here"
        )
    return f"layers.{int(match[1]) - (match[2] == 'pre')}"


def _with_weights(config: CoderConfig, weights: dict[str, Tensor], where: str) -> SparseCoder:
    coder = SparseCoder(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in coder.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != found:
        differ = {n for n in wanted | found if wanted.get(n) != found.get(n)}
        pairs = ", ".join(f"{n}: {found.get(n)} not {wanted.get(n)}" for n in sorted(differ))
        raise ValueError(f"the weights in {where} do not fit its cfg.json: {pairs}")
    coder.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return coder


def _from_hub(name: str, hookpoint: str, revision: str | None) -> Path:
    try:
        pattern = f"{hookpoint}/*"
        return Path(snapshot_download(name, revision=revision, allow_patterns=pattern))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"coder {name!r} is no folder here, and could not be fetched as a hub name "
            f"({type(error).__name__}); give a coder's folder, or run where the hub is reachable"
        ) from error

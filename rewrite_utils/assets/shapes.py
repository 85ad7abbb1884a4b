"""How large a language model is, without loading it and without a hub.

In: a model's name. Out: its ModelShape, read from a config.json on this disk (embedded cache, a
folder, the hub's cache), else from a table of published shapes. Parameters behind the paper's cost.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import try_to_load_from_cache

from rewrite_utils.assets import asset, cache_folder, is_embedded
from rewrite_utils.params import placed
from rewrite_utils.runs.cost import PlanError

UNGATED = {"gpt_neox", "gpt2", "gptj", "opt", "bloom", "falcon", "phi"}
"""Model types whose MLP has two matrices; all others have three (SwiGLU and its like)."""


class ModelShape(NamedTuple):
    """The numbers that decide what a forward pass costs."""

    n_layers: int
    """Blocks."""
    d_model: int
    """Width of the residual stream."""
    d_mlp: int
    """Width of an MLP's hidden layer."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads."""
    d_head: int
    """Width of a head."""
    vocab: int
    """Rows of the embedding."""
    context: int
    """Longest input in tokens."""
    gated: bool = True
    """Three MLP matrices instead of two."""
    tied: bool = False
    """One matrix serves as embedding and as output."""
    origin: str = "published shape"
    """Where these numbers come from."""

    def described(self, role: str, name: str, dtype: str) -> str:
        """The line of a plan about the model that plays ``role``."""
        origin = "its config.json" if Path(self.origin).is_file() else self.origin
        return (
            f"{role:9}  {name}: {self.n_layers} layers, d_model {self.d_model:,}, "
            f"{self.parameters / 1e6:,.0f}M parameters, {dtype} ({origin})"
        )

    @property
    def layer_parameters(self) -> int:
        """Weights of one block's matrices: Q, K, V, O and the MLP."""
        attention = 2 * self.d_model * self.d_head * (self.heads + self.kv_heads)
        return attention + (3 if self.gated else 2) * self.d_model * self.d_mlp

    @property
    def parameters(self) -> int:
        """Weights of all matrices, embeddings included."""
        embeddings = (1 if self.tied else 2) * self.vocab * self.d_model
        return self.n_layers * self.layer_parameters + embeddings

    def flops(self, *, layers: int | None = None, logits: bool = False) -> int:
        """FLOPs a token: 2 × the weights of ``layers`` blocks (default: all), and of the output."""
        blocks = self.n_layers if layers is None else layers
        output = self.vocab * self.d_model if logits else 0
        return 2 * (blocks * self.layer_parameters + output)


PUBLISHED = {
    "pythia-mini": ModelShape(4, 128, 512, 4, 4, 32, 4096, 128, gated=False),
    "pythia-70m": ModelShape(6, 512, 2048, 8, 8, 64, 50304, 2048, gated=False),
    "pythia-160m": ModelShape(12, 768, 3072, 12, 12, 64, 50304, 2048, gated=False),
    "pythia-410m": ModelShape(24, 1024, 4096, 16, 16, 64, 50304, 2048, gated=False),
    "smollm2-135m": ModelShape(30, 576, 1536, 9, 3, 64, 49152, 8192, tied=True),
    "smollm2-360m": ModelShape(32, 960, 2560, 15, 5, 64, 49152, 8192, tied=True),
    "gemma-3-270m": ModelShape(18, 640, 2048, 4, 1, 256, 262144, 32768, tied=True),
    "llama-3.1-8b": ModelShape(32, 4096, 14336, 32, 8, 128, 128256, 131072),
    "llama-3.1-70b": ModelShape(80, 8192, 28672, 64, 8, 128, 128256, 131072),
    "qwen2.5-0.5b": ModelShape(24, 896, 4864, 14, 2, 64, 151936, 32768, tied=True),
    "qwen2.5-1.5b": ModelShape(28, 1536, 8960, 12, 2, 128, 151936, 32768, tied=True),
    "qwen2.5-3b": ModelShape(36, 2048, 11008, 16, 2, 128, 151936, 32768, tied=True),
    "qwen2.5-7b": ModelShape(28, 3584, 18944, 28, 4, 128, 152064, 32768),
    "qwen2.5-14b": ModelShape(48, 5120, 13824, 40, 8, 128, 152064, 32768),
    "qwen2.5-32b": ModelShape(64, 5120, 27648, 40, 8, 128, 152064, 32768),
    "qwen2.5-72b": ModelShape(80, 8192, 29568, 64, 8, 128, 152064, 32768),
}
"""Layers, d_model, MLP, heads, key-value heads, d_head, vocabulary and context of known models."""


def shape(name: str) -> ModelShape:
    """The shape of an embedded model, a folder or a hub name.

    Raises PlanError when it is neither on this disk nor in ``PUBLISHED``, ValueError for an
    embedded name that does not exist.
    """
    file = _config_file(name)
    if file is not None:
        return from_config(json.loads(file.read_text(encoding="utf-8")), origin=str(file))
    found = PUBLISHED.get(family(name))
    if found is None:
        raise PlanError(
            f"the size of model {name!r} is not known here: no config.json of it on this disk, and "
            f"it is none of {', '.join(PUBLISHED)}. Download its config.json into a folder and "
            "name the folder"
        )
    return found


def family(name: str) -> str:
    """The base model's name: "meta-llama/Llama-3.1-8B-Instruct" is a "llama-3.1-8b"."""
    base = name.rsplit("/", 1)[-1].casefold().removeprefix("meta-")
    return base.replace("-coder", "").removesuffix("-instruct").removesuffix("-deduped")


def from_config(config: dict[str, Any], *, origin: str) -> ModelShape:
    """Read a transformers config; KeyError-free: PlanError names the entry it lacks."""
    d_model = _entry(config, origin, "hidden_size", "n_embd")
    heads = _entry(config, origin, "num_attention_heads", "n_head")
    return ModelShape(
        n_layers=_entry(config, origin, "num_hidden_layers", "n_layer"),
        d_model=d_model,
        d_mlp=config.get("intermediate_size") or config.get("n_inner") or 4 * d_model,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        d_head=config.get("head_dim") or d_model // heads,
        vocab=_entry(config, origin, "vocab_size"),
        gated=config.get("model_type") not in UNGATED,
        tied=bool(config.get("tie_word_embeddings", config.get("model_type") == "gpt2")),
        context=_entry(config, origin, "max_position_embeddings", "n_positions"),
        origin=origin,
    )


def _entry(config: dict[str, Any], origin: str, *names: str) -> int:
    for name in names:
        if config.get(name):
            return int(config[name])
    raise PlanError(f"{origin} has no {' or '.join(names)}: it is not a language model's config")


def _config_file(name: str) -> Path | None:
    """The model's config.json if it is on this disk; nothing is fetched."""
    if is_embedded(name):
        cached = cache_folder() / asset(name, kind="model").name / "config.json"
        return cached if cached.is_file() else None
    if placed(name).is_dir():
        file = placed(name) / "config.json"
        if not file.is_file():
            raise PlanError(
                f"{file.parent} is not a model's folder: it has no config.json; name another"
            )
        return file
    found = try_to_load_from_cache(name, "config.json") if name.count("/") == 1 else None
    return Path(found) if isinstance(found, str) else None

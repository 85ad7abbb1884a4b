"""Attention of many rows to one shared prefix, without copying the prefix to every row.

softmax over prefix and own tokens = the two softmaxes, weighed by their normalisers. The prefix's
part is one product of all rows' queries with its keys, which the CPU does at the speed of a large
matrix product; the own part is small. In: a transformers model on a CPU. Out: the same numbers as
its own attention, up to rounding.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache

NAME = "shared_prefix"
_PREFIX: ContextVar[DynamicCache] = ContextVar("prefix")
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def fits(model: Any) -> bool:
    """Whether the model attends to everything before a token, through transformers' interface, on a
    CPU."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    plain = kinds == {"full_attention"} and model.device.type == "cpu"
    return plain and bool(getattr(model, "_supports_attention_backend", False))


@contextlib.contextmanager
def attending(model: Any, prefix: DynamicCache) -> Iterator[None]:
    """Inside, every row of the model's batches attends to ``prefix``, and then to itself."""
    before, token = model.config._attn_implementation, _PREFIX.set(prefix)
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before
        _PREFIX.reset(token)


def additive(
    allowed: Bool[Tensor, "batch query key"], dtype: torch.dtype
) -> Float[Tensor, "batch 1 query key"]:
    """The own tokens' mask as attention adds it: 0, or −inf."""
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, -torch.inf)[:, None]


def attend(
    module: nn.Module,
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch kv_head own d_head"],
    value: Float[Tensor, "batch kv_head own d_head"],
    attention_mask: Float[Tensor, "batch 1 query own"],
    scaling: float | None = None,
    **_: object,
) -> tuple[Float[Tensor, "batch query head d_head"], None]:
    """transformers' attention interface; ``key`` and ``value`` are the rows' own."""
    rows, heads, width, size = query.shape
    groups = key.shape[1]
    layer: Any = _PREFIX.get().layers[int(module.layer_idx)]  # type: ignore[arg-type]
    # All rows' queries that read the same keys, under one another.
    together = query.view(rows, groups, -1, width, size).permute(1, 2, 0, 3, 4)
    far, far_norm = _flash(
        together.reshape(1, groups, -1, size), layer.keys, layer.values, scale=scaling
    )
    far = far.view(*together.shape).permute(2, 0, 1, 3, 4).reshape(rows, heads, width, size)
    far_norm = far_norm.reshape(together.shape[:-1]).permute(2, 0, 1, 3)
    repeats = heads // groups
    near, near_norm = _flash(
        query,
        key.repeat_interleave(repeats, 1),
        value.repeat_interleave(repeats, 1),
        attn_mask=attention_mask,
        scale=scaling,
    )
    share = torch.sigmoid(far_norm.reshape(rows, heads, width) - near_norm)[..., None]
    mixed = near.float() + share * (far.float() - near.float())
    return mixed.to(query.dtype).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)

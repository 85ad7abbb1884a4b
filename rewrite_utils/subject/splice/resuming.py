"""The layers above the splice alone, for tokens that read the untouched past of their row.

In: the cache of an untouched pass, residual streams behind the spliced block. Out: next-token
log-probabilities. Equal to running the whole row again with the changed token.
"""

import contextlib
import copy
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache

from rewrite_utils.subject.model import Subject
from rewrite_utils.subject.splice.context import Hook


def continued(
    subject: Subject,
    layer: int,
    cache: Cache,
    residual: Float[Tensor, "batch query d_model"],
    at: Int[Tensor, "batch query"],
    *,
    hooks: Sequence[Hook] = (),
) -> Float[Tensor, "batch query vocab"]:
    """Next-token log-probabilities of tokens with this residual stream behind block ``layer``.

    Each query sees the cached keys before its own position, and itself. ``hooks`` act on them.
    """
    dtype = subject.dtype
    n_past, n_queries = cache.get_seq_length(), at.shape[1]
    past = torch.arange(n_past, device=at.device) < at[..., None]
    itself = torch.eye(n_queries, dtype=torch.bool, device=at.device).expand(len(at), -1, -1)
    seen = torch.cat([past, itself], dim=-1)[:, None]
    unseen = torch.finfo(dtype).min
    mask = torch.zeros(seen.shape, dtype=dtype, device=at.device).masked_fill_(~seen, unseen)
    residual = residual.to(dtype)
    as_one_row: Hook = ("unembed.hook_in", lambda hidden, hook: hidden.flatten(0, 1)[None])
    acting = [*hooks, as_one_row]
    with _resuming_after(subject, layer, residual), subject.bridge.hooks(fwd_hooks=acting):
        logits = subject.bridge(
            residual, past_key_values=_fork(cache), position_ids=at, attention_mask=mask
        )
    return logits[0].unflatten(0, at.shape).float().log_softmax(-1)


@contextlib.contextmanager
def _resuming_after(
    subject: Subject, layer: int, residual: Float[Tensor, "batch query d_model"]
) -> Iterator[None]:
    """While open, the blocks up to ``layer`` are not run and hand on ``residual``.

    (TransformerLens' ``start_at_layer`` gives the same logits but still runs the blocks below.)
    """
    skipped = [subject.bridge.blocks[index] for index in range(layer + 1)]
    try:
        for block in skipped:
            # Through vars(): the bridge's own __setattr__ would set it on the wrapped module.
            vars(block)["forward"] = lambda *args, **kwargs: residual
        yield
    finally:
        for block in skipped:
            vars(block).pop("forward", None)


def _fork(cache: Cache) -> Cache:
    """A cache that starts with the same tensors; what is added to it leaves the original alone."""
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork

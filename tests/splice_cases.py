"""What the tests of the splice share: places, random coders, and brute force."""

import torch
from torch import Tensor

from rewrite_utils.coder.sparse import (
    CoderConfig,
    SparseCoder,
    random_coder,
)
from rewrite_utils.subject.model import (
    Hookpoint,
)
from rewrite_utils.subject.splice import (
    GivenOutput,
    PatchedLosses,
    arm_losses,
    at_positions,
    spliced,
)

LATENTS, K, WIDTH = 40, 6, 32
HOOKPOINTS = [
    Hookpoint(0, "mlp"),
    Hookpoint(2, "mlp"),
    Hookpoint(1, "resid"),
    Hookpoint(2, "resid"),
]
MLP = HOOKPOINTS[0]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coder_for(hookpoint: Hookpoint) -> SparseCoder:
    """Random weights, a skip where there can be one, and biases that matter."""
    mlp = hookpoint.kind == "mlp"
    config = CoderConfig(
        d_in=WIDTH,
        num_latents=LATENTS,
        k=K,
        transcode=mlp,
        skip_connection=mlp,
        hookpoint=hookpoint.name,
    )
    coder = random_coder(config, generator(3))
    for weight in (coder.b_dec, *([coder.W_skip] if mlp else [])):
        weight.data.normal_(std=0.3, generator=generator(4))
    return coder


def by_hand(plain, hookpoint, rows, change) -> Tensor:
    """Logits of plain transformers with ``change(input, output)`` for the module's output."""
    block = (plain.model if hasattr(plain, "model") else plain.gpt_neox).layers[hookpoint.layer]
    module = block.mlp if hookpoint.kind == "mlp" else block
    handle = module.register_forward_hook(
        lambda _, args, output: change(output if hookpoint.kind == "resid" else args[0], output)
    )
    with torch.no_grad():
        logits = plain(rows).logits
    handle.remove()
    return logits


@torch.no_grad()
def logits_of(subject, coder, hookpoint, source, rows, positions="all") -> Tensor:
    with spliced(subject, coder, hookpoint, source, positions=positions):
        return subject.bridge(rows)


def one_row_a_position(subject, coder, hookpoint, source_of, rows, mask) -> tuple[Tensor, Tensor]:
    """Loss and KL by brute force: cut the row behind each position and splice its last token."""
    losses, kls = [], []
    for row, pos in mask.nonzero().tolist():
        cut = rows[row : row + 1, : pos + 1]
        log_q = logits_of(subject, coder, hookpoint, source_of(row, pos), cut, "last")[0, -1]
        log_q, log_p = log_q.log_softmax(-1), subject.bridge(cut)[0, -1].log_softmax(-1)
        losses.append(-log_q[rows[row, pos + 1]])
        kls.append((log_p.exp() * (log_p - log_q)).sum())
    return torch.stack(losses), torch.stack(kls)


def given_losses(subject, hookpoint, rows, where, outputs, **more) -> PatchedLosses:
    """Losses with given outputs [batch (pos) arm d_model] at one position a row, or at a mask's."""
    mask = where if where.ndim == 2 else at_positions(rows, where)
    sources = [GivenOutput(arm) for arm in outputs.unbind(-2)]
    return arm_losses(subject, None, hookpoint, sources, rows, mask, **more).losses


def some_positions(rows) -> Tensor:
    """A ragged mask: 2, 0, 4 and 2 positions."""
    mask = torch.zeros(rows.shape, dtype=torch.bool)
    mask[0, [1, 10]] = mask[2, 1:5] = mask[3, [3, 9]] = True
    return mask


def hooks_left(subject) -> list[str]:
    return [name for name, hook in subject.bridge.hook_dict.items() if hook.fwd_hooks]

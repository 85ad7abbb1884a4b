"""What a training step minimises: the batch's FVU, plus (if asked for) the AuxK loss.

In: a coder, a batch, the variance of the joint batch, which latents are dead. Out: the loss and
what was active. Paper: method §1; AuxK is Gao et al. 2024, appendix B.1, with sparsify's scaling.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rewrite_utils.coder.fvu import fvu
from rewrite_utils.coder.sparse import Latents, SparseCoder
from rewrite_utils.coder.topk import decode_sparse


class StepOutput(NamedTuple):
    """What one forward pass of training gives."""

    loss: Float[Tensor, ""]
    """The number to differentiate."""
    fvu: Float[Tensor, ""]
    """This process' error over the joint variance: summed over processes, the joint FVU."""
    latents: Latents
    """The active latents."""


class CoderLoss(nn.Module):
    """A coder with its loss, so that DistributedDataParallel sees one forward pass."""

    def __init__(self, coder: SparseCoder, *, auxk_alpha: float, processes: int) -> None:
        """`processes` undoes the averaging of DistributedDataParallel: gradients are sums."""
        super().__init__()
        self.coder, self.auxk_alpha, self.processes = coder, auxk_alpha, processes

    def forward(
        self,
        x: Float[Tensor, "batch d_in"],
        y: Float[Tensor, "batch d_out"],
        variance: Float[Tensor, ""],
        dead: Bool[Tensor, " latent"],
    ) -> StepOutput:
        """FVU (+ α · AuxK) of a batch, given the joint batch's total variance."""
        latents = self.coder.encode(x)
        y_hat = self.coder.decode(latents, x)
        error = loss = fvu(y, y_hat, variance=variance)
        if self.auxk_alpha and dead.any():
            residual = (y - y_hat).detach()
            loss = loss + self.auxk_alpha * auxk(self.coder, x, residual, variance, dead)
        return StepOutput(
            loss * self.processes, error.detach(), Latents(*(part.detach() for part in latents))
        )


def auxk(
    coder: SparseCoder,
    x: Float[Tensor, "batch d_in"],
    residual: Float[Tensor, "batch d_out"],
    variance: Float[Tensor, ""],
    dead: Bool[Tensor, " latent"],
) -> Float[Tensor, ""]:
    """How badly the d_out / 2 most active dead latents alone predict what the coder missed.

    Scaled down by n_dead / (d_out / 2) when there are fewer dead latents than that.
    """
    rows = dead.nonzero().squeeze(1)
    wanted = residual.shape[1] // 2
    k = min(wanted, len(rows))
    shifted = x - coder.b_dec if coder.config.shifts_input else x
    active = torch.relu(shifted @ coder.W_enc[rows].T + coder.b_enc[rows])
    values, chosen = active.topk(k, dim=1, sorted=False)
    predicted = decode_sparse(values, rows[chosen], coder.W_dec)
    return min(len(rows) / wanted, 1.0) * fvu(residual, predicted, variance=variance)

"""Where training activations come from: a protocol, and activations held in memory.

`Batches` may compute activations on demand (so memory does not grow with the corpus), as long as a
step gives the same pair every time: that is what makes a resumed run exact.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Pair = tuple[Float[Tensor, "batch d_in"], Float[Tensor, "batch d_out"]]


@runtime_checkable
class Batches(Protocol):
    """Activations by step: `batches[step]` is the pair (x, y) of that step, the same every time."""

    def __len__(self) -> int:
        """Number of steps."""
        ...

    def __getitem__(self, step: int, /) -> Pair:
        """Inputs and targets of one step (of this process' share of it)."""
        ...


class TensorBatches:
    """Activations in memory (or memory-mapped) as `Batches`, shuffled anew in every epoch."""

    def __init__(
        self,
        x: Float[Tensor, "token d_in"],
        y: Float[Tensor, "token d_out"],
        *,
        batch: int,
        epochs: int = 1,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        """An epoch is a permutation seeded by (seed, epoch), less its last partial batch.

        ``device``: where a step's tokens are wanted; None: where the activations are.
        """
        if len(x) < batch:
            raise ValueError(f"{len(x)} tokens make no batch of {batch}; lower the batch size")
        self.x, self.y, self.batch, self.epochs, self.seed = x, y, batch, epochs, seed
        self.per_epoch, self.device = len(x) // batch, device or x.device
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __len__(self) -> int:
        """Steps in all epochs."""
        return self.per_epoch * self.epochs

    def __getitem__(self, step: int, /) -> Pair:
        """The tokens of one step."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} is not in 0 … {len(self) - 1}")
        epoch, place = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, order_of(len(self.x), seed=self.seed, epoch=epoch))
        chosen = self._order[1][place * self.batch : (place + 1) * self.batch]
        x = self.x[chosen].to(self.device)
        return x, x if self.y is self.x else self.y[chosen].to(self.device)


def order_of(count: int, *, seed: int, epoch: int) -> Int[Tensor, " count"]:
    """The order in which an epoch shows ``count`` things."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator)

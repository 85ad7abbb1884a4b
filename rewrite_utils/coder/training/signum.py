"""Schedule-free Signum, the optimiser of the paper's SmolLM2 coders (v2).

In: parameters with gradients. Out: parameters moved; `averaged()` writes the averaged ones.
Sign descent on z, running average x, gradients taken at y = (1 − β) z + β x (Defazio et al. 2024).
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


class ScheduleFreeSignum(Optimizer):
    """`z ← z − lr · sign(∇f(y))`, `x ← x + (z − x) / t`, parameter `y = x + (1 − β)(z − x)`."""

    def __init__(self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95) -> None:
        """The learning rate is constant: the average replaces the schedule."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "t": 0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step for every parameter that has a gradient."""
        for group in self.param_groups:
            group["t"] += 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, parameter.grad, group)

    def _step_one(self, parameter: Tensor, gradient: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["x"], state["z"] = parameter.clone(), parameter.clone()
        x, z = state["x"], state["z"]
        z.sub_(gradient.sign(), alpha=group["lr"])
        x.lerp_(z, 1 / group["t"])
        torch.lerp(x, z, 1 - group["momentum"], out=parameter)

    @torch.no_grad()
    def averaged(self) -> None:
        """Write the averages x into the parameters: the weights to use once training has ended."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.copy_(self.state[parameter].get("x", parameter))

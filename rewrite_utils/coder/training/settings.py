"""How a coder is trained, the learning rate of each step, and the record of what happened.

Paper: method §1, first table.
"""

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field


class TrainingSettings(BaseModel):
    """How a coder is trained; the defaults are the paper's (method §1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizer: Literal["adam", "signum"] = "adam"
    """Adam (v1's), or schedule-free Signum (v2's SmolLM2 coders)."""
    lr: float | None = Field(None, gt=0)
    """Peak learning rate; None: c / √(latents / 2¹⁴), c = 2e-4 for Adam, 5e-3 for Signum."""
    warmup_steps: int = Field(1000, ge=0)
    """Steps of linear warm-up (Adam only; Signum has a constant rate)."""
    clip: float | None = Field(1.0, gt=0)
    """Largest norm of the whole gradient; None: no clipping."""
    seed: int = 0
    """Seed of the initial weights."""
    mean_batches: int = Field(8, gt=0)
    """Batches whose means set b_dec and b_enc before the first step."""
    auxk_alpha: float = Field(0.0, ge=0)
    """Weight of the AuxK loss, which revives dead latents; 0: off, as in the paper's run."""
    dead_after: int = Field(1_000_000, gt=0)
    """A latent is dead when it has not fired for this many tokens."""
    record_every: int = Field(50, gt=0)
    """Steps between two records."""
    save_every: int = Field(1000, gt=0)
    """Steps between two checkpoints (if there is a folder)."""
    diverged_fvu: float = Field(100.0, gt=0)
    """A batch FVU above this stops the training."""


class TrainingRecord(NamedTuple):
    """The state of training after a step; means are over the steps since the record before."""

    step: int
    """Steps made."""
    tokens: int
    """Tokens seen, over all processes."""
    fvu: float
    """Mean FVU of the batches, each measured before its step."""
    dead: float
    """Share of the latents that have not fired for `dead_after` tokens."""
    l0: float
    """Mean number of latents above 0 on a token."""
    learning_rate: float
    """Learning rate of the last step."""
    tokens_per_second: float
    """Tokens a second, over all processes (the only field that two equal runs do not share)."""


def learning_rate(settings: TrainingSettings, *, num_latents: int, step: int, steps: int) -> float:
    """Rate of `step` (from 0) of `steps`: linear warm-up to the peak, then linear decay to 0."""
    constant = 2e-4 if settings.optimizer == "adam" else 5e-3
    peak = settings.lr or constant / (num_latents / 2**14) ** 0.5
    if settings.optimizer == "signum":
        return peak
    warm = (step + 1) / max(settings.warmup_steps, 1)
    return peak * min(warm, (steps - step) / max(steps - settings.warmup_steps, 1))

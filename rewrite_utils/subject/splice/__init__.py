"""The splice: decoded latents in place of an MLP's output or of the residual stream. Paper §6.

Every arm of every figure is the same forward pass with another source (`sources`). `spliced` is
that pass as a context manager; `patched_losses` and its sisters give its numbers, many at a time.
"""

from rewrite_utils.subject.splice.context import HookedActivations, hooked, spliced
from rewrite_utils.subject.splice.patching import (
    ArmLosses,
    PatchedLosses,
    arm_losses,
    at_positions,
    patched_losses,
    patched_losses_everywhere,
)
from rewrite_utils.subject.splice.several import Spot, losses_at_once, spliced_at_once
from rewrite_utils.subject.splice.sources import (
    Coder,
    GivenLatents,
    GivenOutput,
    OneLatent,
    Site,
    Source,
    TrueLatents,
    Untouched,
    mean_latents,
    mix,
    shuffled_latents,
    substituted,
    zero_latents,
)

__all__ = [
    "ArmLosses",
    "Coder",
    "GivenLatents",
    "GivenOutput",
    "HookedActivations",
    "OneLatent",
    "PatchedLosses",
    "Site",
    "Source",
    "Spot",
    "TrueLatents",
    "Untouched",
    "arm_losses",
    "at_positions",
    "hooked",
    "losses_at_once",
    "mean_latents",
    "mix",
    "patched_losses",
    "patched_losses_everywhere",
    "shuffled_latents",
    "spliced",
    "spliced_at_once",
    "substituted",
    "zero_latents",
]

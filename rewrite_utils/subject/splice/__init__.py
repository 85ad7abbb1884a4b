"""The splice: decoded latents in place of an MLP's output or of the residual stream. Paper §6.

Every arm of every figure is the same forward pass with another source (`sources`). `spliced` is
that pass as a context manager; `arm_losses` gives its numbers, many at a time.
"""

from rewrite_utils.subject.splice.context import HookedActivations, hooked, spliced
from rewrite_utils.subject.splice.patching import (
    ArmLosses,
    PatchedLosses,
    arm_losses,
    at_positions,
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

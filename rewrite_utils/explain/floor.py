"""The floor of every test of a sentence: the same test with another latent's sentence."""

import numpy as np
from jaxtyping import Int
from numpy import ndarray


def derangement(n: int, seed: int) -> Int[ndarray, " latent"]:
    """A random order of n latents in which none keeps its own place.

    Raises ValueError for fewer than two: one sentence has no other latent to go to.
    """
    if n < 2:
        raise ValueError(
            f"the floor of shuffled explanations needs 2 latents with a sentence or more, not {n}: "
            "raise sites.<site>.described or leave the floor out"
        )
    order = np.random.default_rng(seed).permutation(n)
    partner = np.empty(n, np.int64)
    partner[order] = np.roll(order, 1)
    return partner

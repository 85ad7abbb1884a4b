"""What ratings cost: pairs that are sent, tokens computed for them, bytes kept.

In: the simulator's parameters and counts. Out: numbers, in tokens of about 3.5 characters. Follows
`rewrite_utils.simulate`: what prompts share is computed once, their own part for every pair.
"""

from rewrite_utils.params import Simulate
from rewrite_utils.runs.plan.lengths import FRAME, SENTENCE

SLOTTED = 4
"""Tokens that a window's token costs in the all-positions mode: line end, token, slot, filler."""


def rated(asked: Simulate, windows: int, latents: int) -> tuple[int, int]:
    """(pairs sent, tokens computed) for so many windows × latents."""
    pairs = max(1, round(asked.screen * windows)) * latents
    if asked.mode == "all":
        own = SLOTTED * asked.window_tokens
        return pairs, latents * (SENTENCE + asked.align) + pairs * own
    shared, own = {
        "window_first": (windows * (asked.window_tokens + asked.align), SENTENCE),
        "explanation_first": (latents * (SENTENCE + asked.align), asked.window_tokens),
        "original": (0, asked.window_tokens + SENTENCE),
    }[asked.layout]
    return pairs, shared + pairs * (FRAME + own)


def predictions(asked: Simulate, pairs: int) -> int:
    """Ratings that come of so many pairs."""
    return pairs * (asked.window_tokens if asked.mode == "all" else 1)


def stored(asked: Simulate, pairs: int) -> int:
    """Bytes of so many pairs: E, ten digits and their mass, and E at every token, in float16."""
    return pairs * (24 + (2 * asked.window_tokens if asked.mode == "all" else 0))

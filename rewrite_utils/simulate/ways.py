"""The ways of asking the simulator that are compared, each by what it changes of the plain one."""

from typing import Any

from rewrite_utils.params import Simulate

PLAIN = "plain"
CONTRAST = 4
"""Contrast tokens shown by the way of that name."""
WAYS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "rate": {"show_rate": True},
    "score": {"show_score": True},
    "contrast": {"show_contrast": CONTRAST},
    "explanation_first": {"layout": "explanation_first"},
    "original": {"layout": "original"},
    "all": {"mode": "all"},
}
"""Sentence alone, window first, last token; and one change each."""
KEPT = ("window_tokens", "first_position", "last_position", "align", "digits")
"""What every way takes from the run."""


def asked_as(own: Simulate, way: str) -> Simulate:
    """The parameters of one way, in a run with these."""
    return Simulate(**{name: getattr(own, name) for name in KEPT}, **WAYS[way])

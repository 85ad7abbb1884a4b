"""What simulators that ask an LLM have in common: its engine, and room in its context.

In: an `Engine`. Knows no prompt.
"""

from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import Usage
from rewrite_utils.simulate.prompt import ExplanationError


class OnEngine:
    """A simulator on an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def workers(self) -> int:
        """Its engine's."""
        return self._engine.workers

    @property
    def usage(self) -> Usage:
        """Its engine's."""
        return self._engine.usage


def require_room(tokens: int, room: int, engine: Engine, latent: int) -> None:
    """Raise ExplanationError if a prompt about ``latent`` does not fit the engine's context."""
    if tokens + room > engine.context:
        raise ExplanationError(
            f"the explanation of latent {latent} makes a prompt of {tokens} tokens, more than the "
            f"simulator's context of {engine.context}: shorten it or raise simulator.context"
        )

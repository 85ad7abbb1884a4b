"""One computation at a time: one subject serves all explorers of a process."""

import contextlib
import threading
from collections.abc import Callable, Iterator

Step = Callable[[float], None]
"""Told the share that is done; raises Cancelled to stop."""


class Cancelled(Exception):
    """The person at the keyboard asked to stop."""


def silent(share: float) -> None:
    """A Step that tells nobody."""


_computing = threading.RLock()


@contextlib.contextmanager
def turn(step: Step = silent) -> Iterator[None]:
    """Compute alone; waits until no other thread computes, and ``step`` may raise meanwhile."""
    while not _computing.acquire(timeout=0.1):
        step(0.0)
    try:
        yield
    finally:
        _computing.release()

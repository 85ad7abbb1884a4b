"""What goes wrong between a hub name and its files: one sentence each, that says the fix.

Hub libraries wrap their errors several times and say them in paragraphs; the kind is looked for in
the whole chain. `HF_ENDPOINT` (the libraries' own variable) names another hub than the usual one.
"""

import contextlib
from collections.abc import Iterator

from huggingface_hub import constants

LOGIN = "then log in (hf auth login, or the variable HF_TOKEN) and run again"
CUT = "was cut off on its way from the hub: run again, what is whole is kept"
WRONG = {
    "GatedRepoError": f"is gated on the hub: ask for access on its page there, {LOGIN}",
    "RevisionNotFoundError": "has no revision {revision!r} on the hub: choose one that its page "
    "there lists",
    "RepositoryNotFoundError": f"is not on the hub, or is private: check the name, {LOGIN}",
    "RemoteProtocolError": CUT,
    "ReadError": CUT,
    "OfflineModeIsEnabled": "is not in the hub's cache here, and HF_HUB_OFFLINE forbids fetching",
    "ConnectError": "cannot be fetched: the hub at {endpoint} does not answer; run where it can "
    "be reached, or name a folder",
    "TimeoutException": "cannot be fetched: the hub at {endpoint} took too long; run again",
}
"""By the class of error, the first that is met; a gated repository is also one not found."""


class HubError(OSError):
    """A hub name whose files cannot be had."""


@contextlib.contextmanager
def from_hub(what: str, name: str, revision: str = "") -> Iterator[None]:
    """Around what loads ``name``: raises HubError with one sentence where the hub is to blame."""
    try:
        yield
    except Exception as error:
        said = reason(error, revision)
        if said:
            raise HubError(f"{what} {name!r} {said}") from error
        raise


def reason(error: BaseException, revision: str = "") -> str:
    """The sentence about the first known kind of error behind this one; empty for none."""
    kinds = {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}
    found = next((text for kind, text in WRONG.items() if kind in kinds), "")
    if not found and "Consistency check failed" in str(error):
        found = CUT
    return found.format(revision=revision or "main", endpoint=constants.ENDPOINT)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

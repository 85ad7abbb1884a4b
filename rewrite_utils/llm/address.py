"""An OpenAI-compatible address: one request and its answer, asked again while the server is busy.

In: a path below the address, a body. Out: the JSON that the server answers. The key comes from an
environment variable and goes into one header, nowhere else. Knows nothing of prompts.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from rewrite_utils.llm.protocol import EngineDied, EngineError

IN_FLIGHT = 64
"""Requests on their way at a time."""
SECONDS, CONNECTING = 300.0, 10.0
"""Longest wait for one answer, and for a connection."""
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt."""
LONGEST_WAIT = 300.0
"""Seconds that a server may ask for (Retry-After) before it counts as away."""
LATER = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""Answers that say: try again."""
ADVICE = dict.fromkeys((401, 403), " (is the key in simulator.key_variable the right one?)")
ADVICE[404] = " (does simulator.address end in /v1?)"
HERE = frozenset({"127.0.0.1", "localhost", "::1"})


class _Busy(Exception):
    """Ask again, after so many seconds at least."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Address:
    """Where a server listens; it may be asked from many threads."""

    def __init__(
        self, url: str, *, key_variable: str = "", waits: tuple[float, ...] = WAITS
    ) -> None:
        """``url`` ends before /completions (…/v1). ValueError if it cannot be one, or without the
        key in ``key_variable``."""
        self.url, self._waits = checked(url), waits
        self._key = key_in(key_variable) if key_variable else ""
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(SECONDS, connect=CONNECTING),
            limits=httpx.Limits(max_connections=IN_FLIGHT),
            trust_env=httpx.URL(url).host not in HERE,  # a proxy leads outside, not here
        )

    def close(self) -> None:
        """Let go of the connections; the server runs on."""
        self._client.close()

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What a POST of ``body`` answers; without one, a GET.

        Raises EngineError on an answer that a second attempt would not change, EngineDied when no
        attempt is left.
        """
        reason = ""
        for wait in (*self._waits, None):
            try:
                return self._once(path, body)
            except _Busy as busy:
                reason, asked = str(busy), busy.seconds
            if asked > LONGEST_WAIT:
                reason += f", asks to wait {asked:,.0f} s, more than {LONGEST_WAIT:.0f}"
                break
            if wait is not None:
                time.sleep(max(wait, asked))
        raise EngineDied(
            f"the server at {self.url} did not answer {len(self._waits) + 1} times within "
            f"{sum(self._waits):.0f} s ({reason}): is it running, and is simulator.address right? "
            "Nothing of this call was kept; start it (make serve) and run again"
        )

    def _once(self, path: str, body: Mapping[str, Any] | None) -> Any:
        method = "GET" if body is None else "POST"
        try:
            answer = self._client.request(method, f"{self.url}/{path}", json=body)
        except httpx.TransportError as error:  # nobody there, too slow, or cut off half-way
            raise _Busy(f"{type(error).__name__}: {error}") from None
        if answer.status_code in LATER:
            raise _Busy(f"status {answer.status_code}: {self._said(answer)}", retry_after(answer))
        if answer.status_code >= 300:
            raise EngineError(
                f"{answer.request.url} refused with status {answer.status_code}: "
                f"{self._said(answer)}{ADVICE.get(answer.status_code, '')}"
            )
        try:
            return answer.json()
        except ValueError:
            if "json" in answer.headers.get("content-type", ""):
                raise _Busy("half an answer: the stream ended") from None
            raise EngineError(f"{answer.request.url} did not answer in JSON") from None

    def _said(self, answer: httpx.Response) -> str:
        """The beginning of an answer; a key that a server repeats is left out."""
        text = " ".join(answer.text.split())
        return (text.replace(self._key, "…") if self._key else text)[:500]


def checked(url: str) -> str:
    """The address without a slash at its end; ValueError if it cannot be one, or holds a key."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL()
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ValueError(
            f"engine 'server' needs the server's whole address, not {url!r}: for example "
            "simulator.address: http://127.0.0.1:8000/v1 (make serve starts one there)"
        )
    if parts.userinfo or parts.query:
        raise ValueError(
            f"simulator.address of {parts.host} holds a name, a key or a query, which would be "
            "written with the parameters: put the key into an environment variable and that "
            "variable's name into simulator.key_variable"
        )
    return url.rstrip("/")


def key_in(variable: str) -> str:
    """The key in an environment variable; ValueError, naming the variable, if it has none."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            f"simulator.key_variable: the environment variable {variable} is not set: put the "
            "server's key into it before the run starts"
        )
    return key


def retry_after(answer: httpx.Response) -> float:
    """Seconds that the answer asks to wait: a number or a date; 0 where it asks nothing."""
    asked = answer.headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(asked))
    with contextlib.suppress(ValueError):
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    return 0.0

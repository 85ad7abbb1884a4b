"""What a server says of the answers, in each of the ways that OpenAI-compatible servers have.

In: the JSON of one reply. Out: log-probabilities [answer option]. Exactly (vLLM tells those of
chosen tokens), among the likeliest tokens (OpenAI 20, others 5), or counted from drawn answers.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.llm.protocol import EngineError, Usage

FLOOR = -9999.0
"""What a vLLM server writes for a log-probability of minus infinity."""
COUNT = "set simulator.samples to count drawn answers instead, or use another server"


@contextlib.contextmanager
def complete() -> Iterator[None]:
    """Around reading a reply (a decorator, too): what it does not have is an EngineError that names
    it."""
    try:
        yield
    except (KeyError, IndexError, TypeError) as error:
        raise EngineError(
            f"the server's reply lacks what is read here ({type(error).__name__}: {error}): is "
            "simulator.address that of an OpenAI-compatible server?"
        ) from None


class Position(NamedTuple):
    """One token of a reply, and what the server thought of it."""

    token: str
    """Its text."""
    likeliest: Sequence[tuple[str, float]]
    """The likeliest tokens there, with their log-probabilities over the whole vocabulary."""


@complete()
def exact(reply: Any, options: list[int], answers: int) -> Float[ndarray, "answer option"]:
    """The options' log-probabilities, each looked up by its own token id.

    Raises EngineError if the server left one out: the answer's, never the first one's, is read.
    """
    rows = told(reply)["top_logprobs"]
    try:
        found = [[row[f"token_id:{option}"] for option in options] for row in rows]
    except KeyError as error:
        raise EngineError(
            f"the server did not give the log-probability of {error.args[0]}; it needs vLLM 0.32 "
            "or newer (logprob_token_ids), started as `make serve` does; for another one set "
            "simulator.top_logprobs or simulator.samples"
        ) from None
    if len(found) != answers:
        raise EngineError(f"asked the server for {answers} answers, got {len(found)}")
    logprobs = np.array(found, np.float32)
    return np.where(logprobs <= FLOOR, -np.inf, logprobs).astype(np.float32)


@complete()
def among_likeliest(
    reply: Any, options: Sequence[str], answers: int, *, beginning: str
) -> Float[ndarray, "answer option"]:
    """The options' log-probabilities among the likeliest tokens at each answer's position.

    Tokens that read the same, blanks aside, are taken together. An option that is not among them
    is −inf: it has less probability than any that is. Raises EngineError where none is.
    """
    places = behind(positions(reply), beginning)[:answers]
    said = "".join(place.token for place in positions(reply))
    for token in [place.token.strip() for place in places]:
        if len(token) > 1 and set(token) <= set(options):
            raise EngineError(
                f"the server writes {token!r} as one token, so the answers in it cannot be told "
                "apart: set score.per_prompt: 1"
            )
    if len(places) < answers:
        raise EngineError(f"asked the server for {answers} answers, it wrote {said!r}")
    rows = []
    for place in places:
        texts = [text.strip() for text, _ in place.likeliest]
        if not set(texts) & set(options):
            raise EngineError(
                f"none of the answers {', '.join(options)} is among the {len(texts)} likeliest "
                f"tokens behind {beginning!r} (it wrote {said!r}): raise simulator.top_logprobs, "
                f"or {COUNT}"
            )
        rows.append([_together(place, option) for option in _once(options)])
    return np.array(rows, np.float32)


@complete()
def counted(
    texts: Sequence[str], options: Sequence[str], answers: int
) -> Float[ndarray, "answer option"]:
    """Log of the share of drawn answers that each option has; the n-th sign is the n-th answer.

    Raises EngineError where no draw is one of the options.
    """
    signs = ["".join(text.split()) for text in texts]
    drawn = [[sign[n : n + 1] for sign in signs] for n in range(answers)]
    counts = np.array([[row.count(option) for option in _once(options)] for row in drawn])
    if not counts.any(-1).all():
        raise EngineError(
            f"none of {len(texts)} drawn answers is one of {', '.join(options)}; the first is "
            f"{texts[0]!r}: raise simulator.samples or choose another simulator.model"
        )
    with np.errstate(divide="ignore"):
        return np.log(counts / len(texts)).astype(np.float32)


def _once(options: Sequence[str]) -> list[str]:
    """Options that read the same: the first one has what all of them have."""
    return [text if text not in options[:n] else "" for n, text in enumerate(options)]


def _together(place: Position, option: str) -> float:
    same = [logprob for text, logprob in place.likeliest if option and text.strip() == option]
    return float(np.logaddexp.reduce(same)) if same else -np.inf


def told(reply: Any) -> Mapping[str, Any]:
    """The reply's log-probabilities; EngineError where the server has none."""
    found = reply["choices"][0].get("logprobs")
    if not found:
        raise EngineError(f"the server tells no log-probabilities (logprobs: null): {COUNT}")
    return found


def positions(reply: Any) -> list[Position]:
    """The tokens of a reply, in the words of a chat or of a completion."""
    found = told(reply)
    if found.get("content"):
        return [
            Position(
                one["token"], [(each["token"], each["logprob"]) for each in one["top_logprobs"]]
            )
            for one in found["content"]
        ]
    if not found.get("top_logprobs"):
        raise EngineError(f"the server tells no likeliest tokens (top_logprobs): {COUNT}")
    pairs = zip(found["tokens"], found["top_logprobs"], strict=True)
    return [Position(token, list((top or {}).items())) for token, top in pairs]


def behind(places: Sequence[Position], beginning: str) -> list[Position]:
    """The positions behind the beginning that the few-shots taught it, blanks left out.

    Raises EngineError where one token holds the end of the beginning and an answer.
    """
    said, start = "", 0
    whole = "".join(place.token for place in places)
    if beginning and whole.lstrip().startswith(beginning):
        start = whole.index(beginning) + len(beginning)
    found = []
    for place in places:
        before, said = len(said), said + place.token
        if before < start < len(said) and said[start:].strip():
            raise EngineError(
                f"the server writes {place.token!r} as one token, the end of {beginning!r} and the "
                "answer in one: set simulator.samples to count drawn answers instead"
            )
        if before >= start and place.token.strip():
            found.append(place)
    return found


@complete()
def usage_of(replies: Sequence[Any]) -> Usage:
    """What the replies took together; EngineError from a server that does not say."""
    counts = [reply.get("usage") for reply in replies]
    if not all(counts):
        raise EngineError(
            "the server does not say what a reply took (usage), so that its cost cannot be counted"
        )
    cached = [(one.get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for one in counts]
    return Usage(
        0,
        sum(one["prompt_tokens"] for one in counts),
        sum(cached),
        sum(one.get("completion_tokens") or 0 for one in counts),
    )

"""Questions to the run's simulator, with their cost said first, and stoppable: another sentence,
other windows, another text.

In: a Shelf and sentences. Out: a Reading that stands beside the old one (same windows, same truth,
same calibrator refitted with this latent's new ratings), or predictions at tokens that the run
never rated, calibrated without centring.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isnan, nan

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils import simulate as simulating
from rewrite_utils.explorer.records import OwnText, Reading
from rewrite_utils.explorer.shelf import Shelf
from rewrite_utils.explorer.windows import Kind
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import EngineError, Usage
from rewrite_utils.rewrite.arms import TOPK
from rewrite_utils.simulate import Ratings, Window

BLOCK = 4
"""Windows between two looks at the cancel button."""
RATING = 0.8
"""Share of the progress bar for the simulator; the rest is the subject's."""
OWN_TOKENS, AROUND = 30, 12
"""Tokens of a description with the answer's beginning, and of the words around a window; for the
estimate of seconds only."""

Step = Callable[[float], None]
"""Told the share that is done; raises Cancelled to stop."""
Sentences = Mapping[int, str]
"""A sentence by latent."""


class Cancelled(Exception):
    """The person at the keyboard asked to stop."""


class NoSimulator(RuntimeError):
    """There is no engine to ask; the message says what to start."""


def silent(share: float) -> None:
    """A Step that tells nobody."""


_computing = threading.RLock()


@contextlib.contextmanager
def turn(step: Step = silent) -> Iterator[None]:
    """Compute alone: one subject and one simulator serve all explorers of a process.

    Waits until no other thread computes; ``step`` may raise Cancelled meanwhile.
    """
    while not _computing.acquire(timeout=0.1):
        step(0.0)
    try:
        yield
    finally:
        _computing.release()


class Simulator:
    """The run's simulator, opened when it is first asked."""

    def __init__(self, shelf: Shelf, engine: Engine | None = None) -> None:
        """``engine``: one that is open already; otherwise the run's parameters name it."""
        self._shelf, self._engine, self._used = shelf, engine, Usage()

    def open(self) -> Engine:
        """The engine; NoSimulator, saying what to do, where it cannot be opened."""
        if self._engine is None:
            params = self._shelf.params
            llm = simulating.reading(params.simulate, params.simulator)
            try:
                self._engine = self._shelf.open_engine(llm)
            except (OSError, ValueError, ImportError, EngineError) as error:
                raise NoSimulator(
                    f"no simulator: {llm.model!r} could not be opened with engine "
                    f"{llm.engine!r} ({error}). Fetch the weights with `python -m "
                    "rewrite_utils.assets`, or set simulator.model and simulator.engine to what "
                    "this machine has, and open the explorer again. Everything else works without."
                ) from error
        return self._engine

    def seconds(self, windows: int, sentences: int) -> float:
        """How long so many predictions will take, loading aside; NaN where nothing is known.

        From this session's own questions, else from the speed of the run's simulation stage.
        """
        if self._used.prompts:
            return windows * sentences * self._used.seconds / self._used.prompts
        usage, asked = self._shelf.usage, self._shelf.params.simulate
        around = asked.window_tokens + AROUND + asked.align / 2
        tokens = windows * (around + sentences * OWN_TOKENS)
        computed = usage.prompt_tokens - usage.cached_tokens
        return tokens * usage.seconds / computed if computed else nan

    def price(self, windows: int, sentences: int = 1, *, more: float = 0.0) -> str:
        """The cost in words: predictions, estimated seconds (and ``more``), loading if needed."""
        count, estimate = windows * sentences, self.seconds(windows, sentences) + more
        time = "time unknown" if isnan(estimate) else f"≈ {max(1, round(estimate))} s"
        loading = "" if self._engine is not None else ", + ≈ 30 s to load the simulator"
        return f"{count} prediction{'s' * (count != 1)}, {time}{loading}"

    def rate(
        self, windows: Sequence[Window], sentences: Sentences, *, step: Step = silent
    ) -> Ratings:
        """Every (window, sentence) pair, a few windows at a time.

        Raises ExplanationError on an empty sentence, NoSimulator, and what ``step`` raises.
        """
        step(0.0)
        told = [self._shelf.description(*said) for said in sentences.items()]
        engine, parts = self.open(), []
        simulator = simulating.open_simulator(self._shelf.params.simulate, engine)
        before = engine.usage
        for start in range(0, len(windows), BLOCK):
            block = windows[start : start + BLOCK]
            parts.append(simulating.rate_all(simulator, block, told))
            step(min(1.0, (start + BLOCK) / len(windows)))
        self._used = self._used.plus(engine.usage.since(before))
        return Ratings(*(np.concatenate(field) for field in zip(*parts, strict=True)))

    def again(self, latent: int, sentence: str, *, step: Step = silent) -> Reading:
        """What would have come of ``sentence`` on the windows that the run rated; raises as
        ``rate``."""
        shelf, place = self._shelf, self._shelf.place(latent)
        told, windows = {latent: sentence}, shelf.rated_texts()
        rating = self.rate(windows, told, step=lambda share: step(RATING * share))
        ratings = Ratings(*(field.copy() for field in shelf.ratings))
        for whole, column in zip(ratings, rating, strict=True):
            whole[:, place] = column[:, 0]
        fitted_on = Ratings(*(field[shelf.rated["split"] == "calibrate"] for field in ratings))
        evidence = dataclasses.replace(shelf.evidence, ratings=fitted_on)
        predicted = evidence.calibrated(shelf.params.rewrite.headline, ratings)
        said = ratings.expected[:, place], predicted[:, place]
        rest = 1 - RATING
        losses = shelf.replaced(latent, said[1], step=lambda share: step(RATING + rest * share))
        return shelf.read(latent, sentence.strip(), "yours", *said, losses)

    def in_windows(self, reading: Reading, *, step: Step = silent) -> dict[str, Kind]:
        """The card's windows of text, each with a prediction at its strongest token."""
        kinds = self._shelf.known(reading.latent).windows
        flat = [one for kind in kinds.values() for one in kind.shown]
        windows = [
            self._shelf.read_as(one.row, one.end - len(one.texts) + 1 + one.strongest)
            for one in flat
        ]
        predicted = self._alone(windows, {reading.latent: reading.sentence}, step)
        told = iter(
            one.told(value, one.strongest, f"{one.note}, predicted {value:.2f} there")
            for one, value in zip(flat, predicted[:, 0].tolist(), strict=True)
        )
        return {name: kind._replace(shown=[next(told) for _ in kind.shown])
                for name, kind in kinds.items()}  # fmt: skip

    def on_text(
        self, own: OwnText, sentences: Sentences, *, step: Step = silent
    ) -> Float[ndarray, "pos sentence"]:
        """What each latent's sentence predicts at every token of a text."""
        ends, length = range(1, len(own.texts) + 1), self._shelf.params.simulate.window_tokens
        windows = [Window.of(own.texts[max(0, end - length) : end]) for end in ends]
        return self._alone(windows, sentences, step)

    def _alone(
        self, windows: Sequence[Window], sentences: Sentences, step: Step
    ) -> Float[ndarray, "window sentence"]:
        """Column by column through ``calibrator_alone``, fitted on the run's calibrate windows."""
        shelf, places = self._shelf, [self._shelf.place(latent) for latent in sentences]
        column = np.zeros(len(shelf.latents), np.int64)  # the other latents' are thrown away
        column[places] = np.arange(len(places))
        ratings = self.rate(windows, sentences, step=step)
        everyone = Ratings(*(field[:, column] for field in ratings))
        name = calibrator_alone(shelf.params.rewrite.headline)
        return shelf.evidence.calibrated(name, everyone)[:, places]


def calibrator_alone(name: str) -> str:
    """The calibrator for sentences that are not rated beside all others: no centring per window."""
    return "+".join(part for part in name.removesuffix(TOPK).split("+") if part != "centred")

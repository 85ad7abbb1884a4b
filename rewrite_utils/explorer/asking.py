"""Asking the simulator for a few more predictions, with their cost said first, and stoppable.

In: windows and sentences. Out: ratings, and activations where one latent is rated alone. The engine
is the run's own, opened at the first question; without one the error says what to start.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils import simulate as simulating
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import EngineError
from rewrite_utils.rewrite.arms import TOPK
from rewrite_utils.simulate import Ratings, Window
from rewrite_utils.stages import SiteStages, builders

BLOCK = 4
"""Windows between two looks at the cancel button."""
OWN_TOKENS, AROUND = 30, 12
"""Tokens of a description with the answer's beginning, and of the words around a window; for the
estimate of seconds only."""

Step = Callable[[float], None]
"""Told the share that is done; raises Cancelled to stop."""


class Cancelled(Exception):
    """The person at the keyboard asked to stop."""


class NoSimulator(RuntimeError):
    """There is no engine to ask; the message says what to start."""


def silent(share: float) -> None:
    """A Step that tells nobody."""


class Simulator:
    """The run's simulator, opened when it is first asked."""

    def __init__(self, site: SiteStages, *, engine: Engine | None = None) -> None:
        """``engine``: one that is open already; otherwise the run's parameters name it."""
        self._site, self._engine = site, engine
        self._seconds, self._asked = 0.0, 0

    @property
    def opened(self) -> bool:
        """Whether the next question costs no loading."""
        return self._engine is not None

    def open(self) -> Engine:
        """The engine; NoSimulator, saying what to do, where it cannot be opened."""
        if self._engine is None:
            params = self._site.params
            asked = simulating.reading(params.simulate, params.simulator)
            try:
                self._engine = builders.engine(asked)
            except (OSError, ValueError, ImportError, EngineError) as error:
                raise NoSimulator(
                    f"no simulator: {asked.model!r} could not be opened with engine "
                    f"{asked.engine!r} ({error}). Fetch the weights with `python -m "
                    "rewrite_utils.assets`, or set simulator.model and simulator.engine to what "
                    "this machine has, and open the explorer again. Everything else works without."
                ) from error
        return self._engine

    def seconds(self, windows: int, sentences: int = 1) -> float:
        """How long so many predictions will take, loading aside; NaN where nothing is known.

        From this session's own questions, else from the speed of the run's simulation stage.
        """
        if self._asked:
            return windows * sentences * self._seconds / self._asked
        usage = self._site.simulation_stage.manifest["facts"].get("usage", {})
        computed = usage.get("prompt_tokens", 0) - usage.get("cached_tokens", 0)
        asked = self._site.params.simulate
        tokens = windows * (asked.window_tokens + AROUND + asked.align / 2 + sentences * OWN_TOKENS)
        return tokens * usage["seconds"] / computed if computed else float("nan")

    def price(self, windows: int, sentences: int = 1, *, more: float = 0.0) -> str:
        """The cost in words: predictions, estimated seconds, and loading if it must be loaded."""
        predictions = windows * sentences
        estimate = self.seconds(windows, sentences) + more
        time = "time unknown" if np.isnan(estimate) else f"≈ {max(1, round(estimate))} s"
        loading = "" if self.opened else ", + ≈ 30 s to load the simulator"
        return f"{predictions} prediction{'s' * (predictions != 1)}, {time}{loading}"

    def rate(
        self, windows: Sequence[Window], descriptions: Sequence[str], *, step: Step = silent
    ) -> Ratings:
        """Every (window, description) pair, a few windows at a time."""
        step(0.0)
        engine, parts = self.open(), []
        simulator = simulating.open_simulator(self._site.params.simulate, engine)
        before = engine.usage
        for start in range(0, len(windows), BLOCK):
            block = windows[start : start + BLOCK]
            parts.append(simulating.rate_all(simulator, block, descriptions))
            step(min(1.0, (start + BLOCK) / len(windows)))
        used = engine.usage.since(before)
        self._seconds, self._asked = self._seconds + used.seconds, self._asked + used.prompts
        return Ratings(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def calibrator_alone(name: str) -> str:
    """The calibrator for sentences that are not rated beside all others: no centring per window."""
    return "+".join(part for part in name.removesuffix(TOPK).split("+") if part != "centred")


def calibrated_alone(
    site: SiteStages, latents: Sequence[int], ratings: Ratings
) -> Float[ndarray, "window sentence"]:
    """Activations for ratings of a few latents only, one column a latent.

    Column by column through ``calibrator_alone``, fitted on the run's calibrate windows.
    """
    places = [site.simulated.index(latent) for latent in latents]
    name, width = calibrator_alone(site.params.rewrite.headline), len(site.simulated)

    def wide(field: ndarray) -> ndarray:
        whole = np.zeros((len(field), width, *field.shape[2:]), field.dtype)
        whole[:, places] = field
        return whole

    everyone = Ratings(*(wide(field) for field in ratings))
    # Latents that were not asked about need digits that sum to 1; their columns are thrown away.
    rest = np.setdiff1d(np.arange(width), places)
    everyone.digits[:, rest, 0] = 1
    return site.evidence.calibrated(name, everyone)[:, places]


@dataclasses.dataclass
class Progress:
    """A Step made of two: the first part of the way, then the rest."""

    step: Step
    """Who is told."""
    start: float
    """Where this part begins."""
    share: float
    """How much of the whole it is."""

    def __call__(self, share: float) -> None:
        """Tell the share of the whole."""
        self.step(self.start + self.share * share)

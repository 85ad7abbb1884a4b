"""Ways of asking the simulator, compared: each is a stage of its own, on the same pairs.

In: a site's sentences and its first calibrate windows. Out: ratings of each way, and tables of how
they compare. Off unless ``studies.simulators`` names some; a later way costs only itself.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils import simulate as simulating
from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.explain.stage import latent_count
from rewrite_utils.params import Params, Simulate, Site
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.run import Stage
from rewrite_utils.runs.stage import Declared
from rewrite_utils.simulate import judging
from rewrite_utils.simulate.stage import Telling, asked_hashes, opened, ratings_cost, told_on

PLAIN = "plain"
CONTRAST = 4
"""Contrast tokens shown by the way of that name."""
WAYS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "rate": {"show_rate": True},
    "score": {"show_score": True},
    "contrast": {"show_contrast": CONTRAST},
    "ahead": {"notes": "ahead"},
    "rate_ahead": {"notes": "ahead", "show_rate": True},
    "score_ahead": {"notes": "ahead", "show_score": True},
    "contrast_ahead": {"notes": "ahead", "show_contrast": CONTRAST},
    "explanation_first": {"layout": "explanation_first"},
    "original": {"layout": "original"},
    "all": {"mode": "all"},
}
"""Sentence alone, window first, last token; and one change each, or one beside the prompt that has
its notes ahead."""
KEPT = ("window_tokens", "first_position", "last_position", "align", "digits")
"""What every way takes from the run."""


def asked_as(own: Simulate, way: str) -> Simulate:
    """The parameters of one way, in a run with these."""
    return Simulate(**{name: getattr(own, name) for name in KEPT}, **WAYS[way])


def way_windows(params: Params, settings: Site) -> int:
    """Calibrate windows on which ways of asking are compared."""
    return min(params.studies.simulator_windows, settings.calibrate_windows)


def make_way(
    folder: Path,
    *,
    way: str,
    telling: Telling,
    sentences: dict[int, str],
    params: Params,
    settings: Site,
    name: str,
) -> dict[str, Any]:
    """The ratings of one way on the first calibrate windows."""
    asked = asked_as(params.simulate, way)
    simulator = opened(asked, params)
    before = simulator.usage
    texts = {latent: telling.about(latent, text, asked) for latent, text in sentences.items()}
    windows = telling.windows("calibrate")[: way_windows(params, settings)]
    simulating.simulate(windows, texts, simulator, folder=folder, name=f"{name}, {way}")
    tokens = asked.window_tokens if asked.mode == "all" else 1
    usage = simulator.usage.since(before)
    return {"units": len(windows) * len(texts) * tokens, "usage": usage._asdict()}


def way_hashes(way: str, *, params: Params, settings: Site) -> dict[str, Any]:
    """How this way asks, and of how many windows."""
    asked = asked_as(params.simulate, way)
    windows = [way_windows(params, settings), settings.calibrate_windows]
    return asked_hashes(asked, simulating.reading(asked, params.simulator), windows, params.seed)


def way_on(way: str, *, params: Params) -> tuple[str, ...]:
    """The sentences, and their scores where those are told."""
    return told_on(asked_as(params.simulate, way))


def way_declared(way: str) -> Declared[Path]:
    """The stage of one way."""
    return Declared(
        name=f"05_way_{way}",
        make=partial(make_way, way=way),
        read=Path,
        on=partial(way_on, way),
        hashes=partial(way_hashes, way),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ways:
    """Every way of asking, on the same pairs; each is made when it is first looked at."""

    stage: Callable[..., Stage]
    """Makes a declared stage of the site."""
    own_ratings: Callable[[], Stage]
    """The stage of the run's own way to ask."""
    params: Params
    """The run's."""
    settings: Site
    """The site's."""
    true: Callable[[str], Float[ndarray, "window latent"]]
    """The truth at the simulated windows of a split."""
    true_everywhere: Callable[[str], Float[ndarray, "window latent token"]]
    """The truth at every token of them."""

    @property
    def stages(self) -> dict[str, Stage]:
        """The plain way and those that ``studies.simulators`` names; empty if it names none."""
        names = self.params.studies.simulators
        return {way: self.of(way) for way in (PLAIN, *names)} if names else {}

    def of(self, way: str) -> Stage:
        """The ratings of one way; the run's own where it is this way."""
        own = self.params.simulate
        same = asked_as(own, way).content() == own.content()
        return self.own_ratings() if same else self.stage(way_declared(way))

    def rated(self, way: str) -> simulating.Ratings:
        """What one way said of the first calibrate windows."""
        stage, count = self.of(way), way_windows(self.params, self.settings)
        part = stage.folder / "calibrate"  # where the run's own stage holds both splits
        whole = simulating.read_ratings(part if part.exists() else stage.folder)
        return simulating.Ratings(*(field[:count] for field in whole))

    def comparison(self, base: str = PLAIN) -> pd.DataFrame:
        """Every way against the plain one, or another ``base`` of them, on the same pairs; empty if
        there is none."""
        found = {way: self.rated(way).expected.astype(np.float64) for way in self.stages}
        if not found:
            return pd.DataFrame()
        true = self.true("calibrate")[: len(found[PLAIN])]
        return judging.compared(true, found, base=base, **self._drawn)

    def everywhere(self) -> pd.DataFrame:
        """The all-positions mode at every token of the windows, by place; empty if not run."""
        if "all" not in self.params.studies.simulators:
            return pd.DataFrame()
        expected = simulating.read_everywhere(self.of("all").folder).astype(np.float64)
        true = self.true_everywhere("calibrate")[: len(expected)]
        return judging.by_place(true, expected, **self._drawn)

    @property
    def _drawn(self) -> dict[str, int]:
        return {"seed": self.params.seed, "resamples": min(500, self.params.rewrite.bootstrap)}


def ways_cost(*, params: Params, settings: Site, name: str, model: ModelShape) -> Cost | None:
    """The same on fewer windows, for each of ``studies.simulators``."""
    asked = {way: asked_as(params.simulate, way) for way in params.studies.simulators}
    windows = way_windows(params, settings)
    what = f"{', '.join(asked)}: {windows:,} windows × {latent_count(settings):,} latents"
    return ratings_cost("05_way", name, what, params, settings, asked, windows) if asked else None


WAYS_COST = dataclasses.replace(way_declared(PLAIN), name="05_way", cost=ways_cost)
"""All ways in one line of the plan."""

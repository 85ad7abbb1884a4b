"""How the simulation's stage is made: whole, in part, or with a cheap first pass before it.

In: a site with its sentences. Out: the ratings of its calibrate and evaluate windows, in the
stage's folder. What the stage hashes is said in told.py.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from rewrite_utils import simulate as simulating
from rewrite_utils.simulate import screening
from rewrite_utils.stages import builders
from rewrite_utils.stages.builders import SIMULATED

if TYPE_CHECKING:
    from rewrite_utils.stages.site import SiteStages


def make_simulation(
    site: "SiteStages", folder: Path, *, part: simulating.Part | None = None
) -> dict[str, Any]:
    """The simulator's ratings of the calibrate and the evaluate windows, or part of them.

    Raises Unfinished when the part is done and the whole is not.
    """
    texts = {split: builders.window_texts(site, split) for split in SIMULATED}
    asked, llm = site.params.simulate, site.params.simulator
    simulator = simulating.open_simulator(asked, builders.engine(simulating.reading(asked, llm)))
    before = simulator.usage
    for split, windows in texts.items():
        (folder / split).mkdir(exist_ok=True)
        simulating.simulate(
            windows,
            site.descriptions,
            simulator,
            folder=folder / split,
            name=f"{site.name}, {split}",
            sent=sent(site, windows),
            part=part,
        )
    missing = [split for split in SIMULATED if not simulating.finished(folder / split)]
    if missing:
        raise simulating.Unfinished(f"{site.name}: {' and '.join(missing)} windows in part")
    usage = simulator.usage.since(before)
    pairs = len(site.descriptions) * sum(len(windows) for windows in texts.values())
    engines = {split: simulating.read_engines(folder / split) for split in SIMULATED}
    facts = {"latents": site.simulated, "units": pairs, "blocks by engine": engines}
    return facts | {"usage": usage._asdict()}


def sent(
    site: "SiteStages", windows: Sequence[simulating.Window]
) -> Bool[np.ndarray, "window latent"] | None:
    """The pairs that screening lets through; None where it is off."""
    asked = site.params.simulate
    if asked.screen == 1:
        return None
    scores = screening.plausibility(windows, list(site.sentences.values()), by=asked.screen_by)
    return screening.most_plausible(scores, share=asked.screen)

"""The edit loop: another sentence for one latent, simulated again on the windows of the run.

In: a Shelf, a latent, a sentence, a Simulator. Out: a Reading that stands beside the old one: same
windows, same truth, same calibrator, refitted with this latent's new ratings. Only the last tokens
of the run's simulated windows are rated, never new text.
"""

import dataclasses

import numpy as np
import pandas as pd
from numpy import ndarray

from rewrite_utils.explorer import alone
from rewrite_utils.explorer.asking import Progress, Simulator, Step, silent
from rewrite_utils.explorer.shelf import Reading, Shelf
from rewrite_utils.simulate import Ratings
from rewrite_utils.stages import SIMULATED, builders

RATING = 0.8
"""Share of the progress bar for the simulator; the rest is the subject's."""


def windows(shelf: Shelf) -> int:
    """Predictions that one edit costs: the run's calibrate and evaluate windows."""
    return sum(len(part.expected) for part in shelf.ratings.values())


def price(shelf: Shelf, simulator: Simulator) -> str:
    """What trying a sentence costs, in words."""
    return simulator.price(windows(shelf), more=_subject_seconds(shelf))


def resimulate(
    shelf: Shelf, latent: int, sentence: str, simulator: Simulator, *, step: Step = silent
) -> Reading:
    """What would have come of ``sentence``.

    Raises ExplanationError on an empty sentence, NoSimulator without an engine, Cancelled.
    """
    site, place = shelf.site, shelf.place(latent)
    description = builders.description(site, latent, sentence)
    texts = {split: builders.window_texts(site, split) for split in SIMULATED}
    together = [window for split in SIMULATED for window in texts[split]]
    found = simulator.rate(together, [description], step=Progress(step, 0.0, RATING))
    parts = _split(found, [len(texts[split]) for split in SIMULATED])
    ratings = {
        split: _replaced(shelf.ratings[split], place, part)
        for split, part in zip(SIMULATED, parts, strict=True)
    }
    evidence = dataclasses.replace(site.evidence, ratings=ratings["calibrate"])
    name = site.params.rewrite.headline
    columns = {
        split: (
            ratings[split].expected[:, place],
            evidence.calibrated(name, ratings[split])[:, place],
        )
        for split in SIMULATED
    }
    source = {(latent, "sentence"): columns["evaluate"][1]}
    rest = Progress(step, RATING, 1 - RATING)
    again = alone.measure(site, source, name="your sentence", progress=rest)
    losses = _with_sentence(shelf.losses, latent, again)
    return shelf.read(latent, sentence.strip(), "yours", columns=columns, losses=losses)


def _split(ratings: Ratings, sizes: list[int]) -> list[Ratings]:
    ends = np.cumsum(sizes)[:-1]
    return [Ratings(*fields) for fields in zip(*(np.split(f, ends) for f in ratings), strict=True)]


def _replaced(ratings: Ratings, place: int, column: Ratings) -> Ratings:
    """The run's ratings with one latent's column exchanged."""

    def put(old: ndarray, new: ndarray) -> ndarray:
        whole = old.copy()
        whole[:, place] = new[:, 0]
        return whole

    return Ratings(*(put(old, new) for old, new in zip(ratings, column, strict=True)))


def _with_sentence(losses: pd.DataFrame, latent: int, again: pd.DataFrame) -> pd.DataFrame:
    """The latent's losses with the sentence's arm exchanged."""
    mine = losses[losses["latent"] == latent]
    return pd.concat([mine[mine["arm"] != "sentence"], again[again["arm"] == "sentence"]])


def _subject_seconds(shelf: Shelf) -> float:
    """About what the subject's passes cost: not more than the run's own pass over all latents."""
    return float(shelf.alone_stage.manifest["seconds"])

"""Scores of sentences: detection, fuzzing, and how both are read. (Paper §4.)

In: sentences and the windows they are tried on (``trials``). Out: a judgement a (latent, window)
with the probability of "yes" read from the answer's token, and scores a latent with intervals over
its windows. A latent that cannot be scored is missing, never 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from sklearn.metrics import average_precision_score

from rewrite_utils.llm.batches import in_batches
from rewrite_utils.llm.engine import Engine
from rewrite_utils.score import rates
from rewrite_utils.score.detection import Asked, judged
from rewrite_utils.score.trials import Draw, Trial

JUDGEMENTS = "judgements.parquet"
MISSING = float("nan")


class Cut(NamedTuple):
    """Where a judge's probabilities part into yes and no."""

    limit: float
    """Probability above which it said yes."""
    tied: float = 0.0
    """How far each probability exactly at the limit counts as a yes, 0 … 1."""

    def yes(self, probability: Float[ndarray, " window"]) -> Float[ndarray, " window"]:
        """How far the judge said yes to each window: 1, 0, or what a tie counts."""
        return (probability > self.limit) + self.tied * (probability == self.limit)


class DetectionScore(NamedTuple):
    """How well one sentence tells activating windows from the others."""

    latent: int
    """Index in the coder."""
    auroc: float
    """Area under the ROC curve of the probability; chance is ½, also for always yes."""
    auprc: float
    """Average precision of the probability; chance is the share of activating windows."""
    f1: float
    """F1 at the cut (the paper's text ranks by it); NaN without an activating window. Always yes
    has .67 where half of the windows are active."""
    balanced_accuracy: float
    """Mean of sensitivity and specificity at the cut (the authors' code ranks by it)."""
    n_active: int
    """Activating windows."""
    n_random: int
    """The others."""


class WindowIntervals(NamedTuple):
    """How much the windows of one latent leave open; 95 % intervals over windows."""

    latent: int
    """Index in the coder."""
    auroc_low: float
    """Bootstrap within activating and within other windows, lower end."""
    auroc_high: float
    """Upper end."""
    sensitivity: float
    """Share of activating windows judged yes."""
    sensitivity_low: float
    """Wilson interval, lower end."""
    sensitivity_high: float
    """Upper end."""
    specificity: float
    """Share of the other windows judged no."""
    specificity_low: float
    """Wilson interval, lower end."""
    specificity_high: float
    """Upper end."""


def judge(
    sentences: Mapping[int, str],
    engine: Engine,
    *,
    draw: Draw,
    per_prompt: int,
    seed: int,
    folder: Path,
    task: str = "detect",
    name: str = "detection scores",
    batch: int = 16,
) -> pd.DataFrame:
    """One row a (latent, window) in ``folder``: the probability of "yes"; a kill loses little."""

    def ask_about(part: Sequence[int]) -> pd.DataFrame:
        trials = [_drawn(draw, latent, seed) for latent in part]
        asked = [Asked(sentences[n], trial.texts) for n, trial in zip(part, trials, strict=True)]
        said = judged(engine, asked, task=task, per_prompt=per_prompt)
        return pd.concat(map(_rows, part, trials, said), ignore_index=True)

    file = folder / JUDGEMENTS
    return in_batches(list(sentences), ask_about, file=file, name=name, batch=batch)


def cut(judgements: pd.DataFrame, threshold: str) -> Cut:
    """Where the judge's yes begins.

    "half": above ½. "prior": where over all latents it says yes exactly as often as windows are
    active; how many are is known by design, so no latent's own truth is used. bfloat16 leaves few
    different probabilities, so many windows stand exactly there: they share the yeses that are left
    in equal parts.
    """
    if threshold == "half" or not judgements["active"].any():
        return Cut(0.5)
    probability, active = judgements["probability"].to_numpy(), int(judgements["active"].sum())
    limit = np.sort(probability)[-active]
    above, at = int((probability > limit).sum()), int((probability == limit).sum())
    return Cut(float(limit), (active - above) / at)


def scores(judgements: pd.DataFrame, *, threshold: str = "half") -> pd.DataFrame:
    """One DetectionScore a latent."""
    where = cut(judgements, threshold)
    rows = [_score(latent, *both, where) for latent, *both in _by_latent(judgements)]
    return pd.DataFrame(rows, columns=list(DetectionScore._fields))


def intervals(judgements: pd.DataFrame, *, threshold: str = "half", seed: int) -> pd.DataFrame:
    """One WindowIntervals a latent."""
    where = cut(judgements, threshold)
    rows = [_intervals(latent, *both, where, seed) for latent, *both in _by_latent(judgements)]
    return pd.DataFrame(rows, columns=list(WindowIntervals._fields))


def _by_latent(judgements: pd.DataFrame) -> Iterator[tuple[int, ndarray, ndarray]]:
    """Each latent with which of its windows are active, and their probabilities."""
    for latent, table in judgements.groupby("latent", sort=True):
        yield int(latent), table["active"].to_numpy(bool), table["probability"].to_numpy()


def _drawn(draw: Draw, latent: int, seed: int) -> Trial:
    generator = np.random.default_rng([seed, latent])
    trial = draw(latent, generator)
    return trial.shuffled(generator.permutation(len(trial.active)))


def _rows(latent: int, trial: Trial, probability: Float[ndarray, " window"]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "latent": latent,
            "row": trial.windows.rows,
            "end": trial.windows.ends,
            "active": trial.active,
            "probability": probability,
        }
    )


def _score(latent: int, active: ndarray, probability: ndarray, where: Cut) -> DetectionScore:
    yes = where.yes(probability)
    hits, alarms = yes[active].sum(), yes[~active].sum()
    n_active, n_other = int(active.sum()), int((~active).sum())
    both = n_active > 0 and n_other > 0
    return DetectionScore(
        latent,
        auroc=rates.auroc_value(active, probability),
        auprc=float(average_precision_score(active, probability)) if both else MISSING,
        f1=float(2 * hits / (yes.sum() + n_active)) if n_active else MISSING,
        balanced_accuracy=float(hits / n_active + 1 - alarms / n_other) / 2 if both else MISSING,
        n_active=n_active,
        n_random=n_other,
    )


def _intervals(
    latent: int, active: ndarray, probability: ndarray, where: Cut, seed: int
) -> WindowIntervals:
    yes = where.yes(probability)
    return WindowIntervals(
        latent,
        *rates.auroc(active, probability, seed=seed)[1:],
        *rates.wilson(float(yes[active].sum()), int(active.sum())),
        *rates.wilson(float((1 - yes[~active]).sum()), int((~active).sum())),
    )

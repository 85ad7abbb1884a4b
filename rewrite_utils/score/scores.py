"""Scores of sentences: detection, fuzzing, and how both are read. (Paper §4.)

In: sentences and the windows they are tried on (``trials``). Out: a judgement a (latent, window)
with the probability of "yes" read from the answer's token, and scores a latent with intervals over
its windows. A latent that cannot be scored is missing, never 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score
from tqdm.auto import tqdm

from rewrite_utils import stats
from rewrite_utils.llm.engine import Engine
from rewrite_utils.score.detection import Asked, judged
from rewrite_utils.score.trials import Draw, Trial

MISSING = float("nan")


class DetectionScore(NamedTuple):
    """How well one sentence tells activating windows from the others."""

    latent: int
    """Index in the coder."""
    f1: float
    """F1 at the threshold (the paper's text ranks by it); NaN without an activating window."""
    balanced_accuracy: float
    """Mean of sensitivity and specificity at the threshold (the authors' code ranks by it)."""
    auroc: float
    """Area under the ROC curve of the probability."""
    auprc: float
    """Average precision of the probability; chance is the share of activating windows."""
    n_active: int
    """Activating windows."""
    n_random: int
    """The others."""


class WindowIntervals(NamedTuple):
    """How much the windows of one latent leave open; 95 % intervals over windows."""

    latent: int
    """Index in the coder."""
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
    auroc_low: float
    """Bootstrap within activating and within other windows, lower end."""
    auroc_high: float
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
    """One row a (latent, window): the probability of "yes"; finished batches survive a kill."""
    latents, tables = list(sentences), []
    bar = tqdm(total=len(latents), desc=name, unit="latent")
    for start in range(0, len(latents), batch):
        part = latents[start : start + batch]
        file = folder / f"batch-{start:06d}.parquet"
        if not file.exists():
            trials = [_drawn(draw, latent, seed) for latent in part]
            asked = [
                Asked(sentences[n], trial.texts) for n, trial in zip(part, trials, strict=True)
            ]
            said = judged(engine, asked, task=task, per_prompt=per_prompt)
            temporary = file.with_suffix(".tmp")
            _table(part, trials, said).to_parquet(temporary)
            temporary.replace(file)
        tables.append(pd.read_parquet(file))
        bar.update(len(part))
    bar.close()
    for file in folder.glob("batch-*.parquet"):
        file.unlink()
    return pd.concat(tables, ignore_index=True)


def cut(judgements: pd.DataFrame, threshold: str) -> float:
    """The probability above which the judge said yes.

    "half": ½. "prior": where over all latents it says yes as often as windows are active; how many
    are is known by design, so no latent's own truth is used.
    """
    if threshold == "half" or judgements.empty:
        return 0.5
    share = float(judgements["active"].mean())
    return float(np.quantile(judgements["probability"], 1 - share, method="lower"))


def scores(judgements: pd.DataFrame, *, threshold: str = "half") -> pd.DataFrame:
    """One DetectionScore a latent."""
    limit = cut(judgements, threshold)
    rows = [_score(latent, table, limit) for latent, table in _by_latent(judgements)]
    return pd.DataFrame(rows, columns=list(DetectionScore._fields))


def intervals(judgements: pd.DataFrame, *, threshold: str = "half", seed: int) -> pd.DataFrame:
    """One WindowIntervals a latent."""
    limit = cut(judgements, threshold)
    rows = [_intervals(latent, table, limit, seed) for latent, table in _by_latent(judgements)]
    return pd.DataFrame(rows, columns=list(WindowIntervals._fields))


def _by_latent(judgements: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    return [(int(latent), table) for latent, table in judgements.groupby("latent", sort=True)]


def _drawn(draw: Draw, latent: int, seed: int) -> Trial:
    generator = np.random.default_rng([seed, latent])
    trial = draw(latent, generator)
    return trial.shuffled(generator.permutation(len(trial.active)))


def _table(latents: Sequence[int], trials: Sequence[Trial], said: Sequence) -> pd.DataFrame:
    tables = [
        pd.DataFrame(
            {
                "latent": latent,
                "row": trial.windows.rows,
                "end": trial.windows.ends,
                "active": trial.active,
                "probability": probability,
            }
        )
        for latent, trial, probability in zip(latents, trials, said, strict=True)
    ]
    return pd.concat(tables, ignore_index=True)


def _score(latent: int, table: pd.DataFrame, limit: float) -> DetectionScore:
    active, probability = table["active"].to_numpy(bool), table["probability"].to_numpy()
    said = probability > limit
    hits, alarms = (said & active).sum(), (said & ~active).sum()
    n_active, n_other = int(active.sum()), int((~active).sum())
    both = n_active > 0 and n_other > 0
    return DetectionScore(
        latent,
        f1=float(2 * hits / (said.sum() + n_active)) if n_active else MISSING,
        balanced_accuracy=float(hits / n_active + 1 - alarms / n_other) / 2 if both else MISSING,
        auroc=stats.auroc_value(active, probability),
        auprc=float(average_precision_score(active, probability)) if both else MISSING,
        n_active=n_active,
        n_random=n_other,
    )


def _intervals(latent: int, table: pd.DataFrame, limit: float, seed: int) -> WindowIntervals:
    active, probability = table["active"].to_numpy(bool), table["probability"].to_numpy()
    said = probability > limit
    area = stats.auroc(active, probability, seed=seed)
    return WindowIntervals(
        latent,
        *stats.wilson(int((said & active).sum()), int(active.sum())),
        *stats.wilson(int((~said & ~active).sum()), int((~active).sum())),
        *area[1:],
    )

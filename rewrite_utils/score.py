"""Detection: shown five windows at a time, which contain what the sentence describes? (Paper §4.)

In: sentences and a LatentCache of the *score* rows. Out: a judgement a (latent, window) with the
probability of "yes" read from the answer's token, and scores a latent. Random windows come from
rows in which the latent fires nowhere.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy import ndarray
from sklearn.metrics import average_precision_score, roc_auc_score
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from rewrite_utils import prompts
from rewrite_utils.activations import LatentCache, Windows
from rewrite_utils.llm import Engine, Prompt, digit_tokens
from rewrite_utils.params import Score
from rewrite_utils.windows import by_deciles, firing_windows, silent_windows, window_tokens


class Examples(NamedTuple):
    """The windows one latent is scored on."""

    windows: Windows
    """Activating windows first, then random ones, before shuffling."""
    active: ndarray
    """Whether the latent fires in it, bool [window]."""


class DetectionScore(NamedTuple):
    """How well one sentence tells activating windows from random ones."""

    latent: int
    """Index in the coder."""
    f1: float
    """F1 at probability ½ (the paper's text ranks by it)."""
    balanced_accuracy: float
    """Mean of sensitivity and specificity at ½ (the authors' code ranks by it)."""
    auroc: float
    """Area under the ROC curve of the probability."""
    auprc: float
    """Average precision of the probability."""
    n_active: int
    """Activating windows."""
    n_random: int
    """Random windows."""


def examples(
    cache: LatentCache, latent: int, settings: Score, generator: np.random.Generator
) -> Examples:
    """Activating windows from all deciles of the latent, random ones from rows where it is
    silent."""
    length = settings.window_tokens
    windows, peaks = firing_windows(cache, latent, window_tokens=length)
    chosen = by_deciles(peaks, settings.activating, generator)
    silent = silent_windows(
        cache, latent, window_tokens=length, count=settings.random, generator=generator
    )
    both = Windows(
        np.concatenate([windows.rows[chosen], silent.rows]),
        np.concatenate([windows.ends[chosen], silent.ends]),
    )
    return Examples(both, np.arange(len(both.rows)) < len(chosen))


def judge(
    cache: LatentCache,
    sentences: Mapping[int, str],
    engine: Engine,
    settings: Score,
    *,
    token_texts: Callable[[ndarray], list[str]],
    seed: int,
    folder: Path,
    batch: int = 16,
) -> pd.DataFrame:
    """One row a (latent, window): the probability of "yes"; finished batches survive a kill."""
    latents, tables = list(sentences), []
    bar = tqdm(total=len(latents), desc="detection scores", unit="latent")
    for start in range(0, len(latents), batch):
        part = {latent: sentences[latent] for latent in latents[start : start + batch]}
        file = folder / f"batch-{start:06d}.parquet"
        if not file.exists():
            table = _judge(cache, part, engine, settings, token_texts=token_texts, seed=seed)
            temporary = file.with_suffix(".tmp")
            table.to_parquet(temporary)
            temporary.replace(file)
        tables.append(pd.read_parquet(file))
        bar.update(len(part))
    bar.close()
    for file in folder.glob("batch-*.parquet"):
        file.unlink()
    return pd.concat(tables, ignore_index=True)


def scores(judgements: pd.DataFrame) -> pd.DataFrame:
    """One DetectionScore a latent."""
    rows = [_score(int(latent), table) for latent, table in judgements.groupby("latent", sort=True)]
    return pd.DataFrame(rows, columns=list(DetectionScore._fields))


def _judge(
    cache: LatentCache,
    sentences: Mapping[int, str],
    engine: Engine,
    settings: Score,
    *,
    token_texts: Callable[[ndarray], list[str]],
    seed: int,
) -> pd.DataFrame:
    tables, asked = [], []
    for latent, sentence in sentences.items():
        generator = np.random.default_rng([seed, latent])
        chosen = examples(cache, latent, settings, generator)
        order = generator.permutation(len(chosen.active))
        ids = window_tokens(cache, chosen.windows, settings.window_tokens)[order]
        texts = ["".join(token_texts(row)) for row in ids]
        asked += detection_prompts(engine.tokenizer, sentence, texts, settings.per_prompt)
        tables.append(
            pd.DataFrame(
                {
                    "latent": latent,
                    "row": chosen.windows.rows[order],
                    "end": chosen.windows.ends[order],
                    "active": chosen.active[order],
                }
            )
        )
    table = pd.concat(tables, ignore_index=True)
    return table.assign(probability=_yes(engine, asked, settings.per_prompt, tables))


def _yes(
    engine: Engine, asked: Sequence[Prompt], per_prompt: int, tables: Sequence[pd.DataFrame]
) -> ndarray:
    """Probability of "1" for every window, in the order of the tables."""
    zero_one = digit_tokens(engine.tokenizer)[:2]
    answers = engine.choices(asked, options=zero_one, answers=per_prompt).probabilities[..., 1]
    per_latent = [-(-len(table) // per_prompt) for table in tables]
    parts = np.split(answers, np.cumsum(per_latent)[:-1])
    return np.concatenate(
        [part.reshape(-1)[: len(table)] for part, table in zip(parts, tables, strict=True)]
    )


def detection_prompts(
    tokenizer: PreTrainedTokenizerBase, sentence: str, texts: Sequence[str], per_prompt: int
) -> list[Prompt]:
    """``per_prompt`` windows a prompt; instructions and few-shots are shared by all of them."""
    before, _, rest = prompts.rendered(tokenizer, "detect").partition(" {explanation}")
    between, _, after = rest.partition("{windows}")
    shared = tuple(tokenizer.encode(before, add_special_tokens=False))
    asked = []
    for start in range(0, len(texts), per_prompt):
        lines = [t.replace("\n", "⏎").strip() for t in texts[start : start + per_prompt]]
        numbered = "\n".join(f"{n}. {line}" for n, line in enumerate(lines, 1))
        text = f" {sentence}{between}{numbered}{after}"
        own = tokenizer.encode(text, add_special_tokens=False)
        asked.append(Prompt(shared, tuple(own)))
    return asked


def _score(latent: int, table: pd.DataFrame) -> DetectionScore:
    active, probability = table["active"].to_numpy(), table["probability"].to_numpy()
    said = probability > 0.5
    hits, alarms = (said & active).sum(), (said & ~active).sum()
    both = active.any() and not active.all()
    return DetectionScore(
        latent,
        f1=2 * hits / max(said.sum() + active.sum(), 1),
        balanced_accuracy=(hits / max(active.sum(), 1) + 1 - alarms / max((~active).sum(), 1)) / 2,
        auroc=float(roc_auc_score(active, probability)) if both else float("nan"),
        auprc=float(average_precision_score(active, probability)) if both else float("nan"),
        n_active=int(active.sum()),
        n_random=int((~active).sum()),
    )

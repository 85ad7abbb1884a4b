"""How each stage of a site is made: reads what is there, computes, writes into the stage's folder.

One function a stage, called by ``Run.stage`` with the folder; what it returns are facts for the
manifest. What a stage hashes and reads is said in site.py.
"""

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from rewrite_utils import simulate as simulating
from rewrite_utils.coder import quality
from rewrite_utils.explain.contrast import contrast_texts
from rewrite_utils.latents import cache as activations
from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.windows import window_tokens
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.opening import open_engine
from rewrite_utils.params import LLM, SPLITS, Simulate
from rewrite_utils.rewrite import arms as rewrite
from rewrite_utils.rewrite import usefulness
from rewrite_utils.rewrite.equivalence import next_token_losses
from rewrite_utils.runs.run import require_space
from rewrite_utils.subject.corpus import load_corpus
from rewrite_utils.subject.model import load_subject

if TYPE_CHECKING:
    from rewrite_utils.stages.site import SiteStages

CACHED_SPLITS = tuple(split for split in SPLITS if split != "train")
SIMULATED = ("calibrate", "evaluate")
VERSIONS = {"01_quality": 2, "02_latents": 2, "03_explanations": 3, "04_scores": 3}
VERSIONS |= {"03_refined": 2, "05_simulation": 3}
"""Raised when a builder would give other content from the same parameters; 1 for the others."""


@functools.cache
def engine(llm: LLM) -> Engine:
    """The engine of one LLM section, opened once a process: all sites of a notebook share it."""
    return open_engine(
        llm.model,
        engine=llm.engine,
        dtype=llm.dtype,
        max_tokens=llm.context,
        threads=llm.threads or None,
        memory_gb=llm.memory_gb,
        address=llm.address,
        workers=llm.workers,
        worker_engine=llm.worker_engine,
    )


def make_corpus(site: "SiteStages", folder: Path) -> dict[str, Any]:
    """Tokenise, split and cut the text."""
    asked = site.params.corpus
    kept = dict.fromkeys(CACHED_SPLITS, asked.max_rows) if asked.max_rows else None
    corpus = load_corpus(
        asked.sources,
        site.subject.tokenizer,
        row_tokens=asked.row_tokens,
        shares=asked.shares,
        seed=site.params.seed,
        bos=site.subject.bos,
        max_rows=kept,
        faithful=asked.faithful,
    )
    corpus.write(folder)
    return {split: len(corpus.rows(split)) for split in corpus.splits}


def make_quality(site: "SiteStages", folder: Path) -> dict[str, Any]:
    """Loss and FVU of the coder and of the ablations."""
    table = quality.measure(
        site.subject,
        site.hookpoint,
        site.coder,
        site.cache("evaluate").tokens,
        latent_means=site.cache("calibrate").mean,
        output_mean=torch.from_numpy(site.output_moments.mean),
        variance=float(site.output_moments.variance),
        seed=site.params.seed,
    )
    table.to_parquet(folder / "quality.parquet")
    return {}


def make_latents(site: "SiteStages", folder: Path) -> dict[str, Any]:
    """Cache the sparse activations of all rows that are not training rows."""
    tokens = {split: site.corpus.rows(split) for split in CACHED_SPLITS}
    if site.coder.k is not None:  # of a coder with thresholds nobody knows how many will fire
        entries = sum(rows.numel() for rows in tokens.values()) * site.coder.k
        require_space(folder, needed=24 * entries)
    for split, rows in tokens.items():
        if not (folder / f"{split}.safetensors").exists():
            cache, moments = activations.cache_latents(
                site.collector,
                site.hookpoint,
                site.coder,
                rows,
                folder=folder / f"batches-{split}",
                name=f"{site.name}, {split}",
            )
            if split == "calibrate":
                moments.write(folder / "moments.safetensors")
            cache.write(folder / f"{split}.safetensors")
        shutil.rmtree(folder / f"batches-{split}", ignore_errors=True)
    return {split: list(rows.shape) for split, rows in tokens.items()}


def description(
    site: "SiteStages", latent: int, sentence: str, asked: Simulate | None = None
) -> str:
    """What the simulator reads about one latent, if this were its sentence."""
    asked = asked or site.params.simulate
    return simulating.described(
        sentence,
        latent=latent,
        rate=float(site.cache("explain").rate[latent]) if asked.show_rate else None,
        score=site.f1_of(latent) if asked.show_score else None,
        contrast=contrast_texts(
            site.cache("explain"), latent, count=asked.show_contrast, token_texts=site.quoted
        ),
    )


def window_texts(site: "SiteStages", split: str) -> list[simulating.Window]:
    """The windows of a split as the simulator reads them."""
    length = site.params.simulate.window_tokens
    ids = window_tokens(site.cache(split), site.simulated_windows(split), length)
    return [simulating.Window.of(site.quoted(row)) for row in ids]


def make_rewrite(site: "SiteStages", folder: Path) -> dict[str, Any]:
    """Losses of every arm: controls at all evaluate windows, sentences at the simulated."""
    estimates = site.estimates
    n_simulated = site.settings.evaluate_windows
    free = {key: e for key, e in estimates.items() if len(e.values) > n_simulated}
    told = {key: e for key, e in estimates.items() if len(e.values) == n_simulated}
    everywhere, rated = site.windows("evaluate"), site.simulated_windows("evaluate")
    table = pd.concat(
        [_measure(site, free, everywhere, "controls"), _measure(site, told, rated, "sentences")]
    ).drop_duplicates(["window", "source", "count", "order"])
    table.reset_index(drop=True).to_parquet(folder / "losses.parquet")
    return {}


def _measure(
    site: "SiteStages", estimates: Mapping[str, rewrite.Estimate], windows: Windows, what: str
) -> pd.DataFrame:
    asked = site.params.rewrite
    mean = torch.from_numpy(site.output_moments.mean)
    return rewrite.measure(
        site.subject,
        site.hookpoint,
        site.coder,
        site.cache("evaluate").tokens,
        windows,
        described=np.array(site.simulated),
        estimates=estimates,
        fractions=asked.fractions,
        rankings=site.rankings,
        constants={"output zero": torch.zeros_like(mean), "output mean": mean},
        seed=site.params.seed,
        name=f"{site.name}, {what}",
    )


def make_usefulness(site: "SiteStages", folder: Path) -> dict[str, Any]:
    """Losses at the calibrate windows with one latent predicted or at its mean, all others true.

    Each window is predicted by a calibration fitted on the other rows of text.
    """
    windows, name = site.simulated_windows("calibrate"), site.params.rewrite.headline
    told = site.evidence.held_out(name, windows.rows, seed=site.params.seed).astype(np.float32)
    mean = np.tile(site.evidence.target.mean.astype(np.float32), (len(told), 1))
    arms = {usefulness.PREDICTED: told, usefulness.MEAN: mean}
    table = usefulness.measure(
        site.subject,
        site.hookpoint,
        site.coder,
        site.cache("calibrate").tokens,
        windows,
        {(j, arm): v[:, i] for arm, v in arms.items() for i, j in enumerate(site.simulated)},
        name=f"{site.name}, one latent at a time",
    )
    table.to_parquet(folder / "losses.parquet")
    return {"units": len(table), "windows": len(windows.rows)}


def make_checkpoints(site: "SiteStages", folder: Path) -> dict[str, Any]:
    """Losses of every checkpoint at the evaluate windows, one checkpoint in memory at a time."""
    asked, windows = site.params.subject, site.windows("evaluate")
    tokens = site.corpus.rows("evaluate").numpy()
    for name in tqdm(asked.checkpoints, desc=f"checkpoints, {site.name}", unit="checkpoint"):
        file = folder / f"{name}.npy"
        if not file.exists():
            checkpoint = load_subject(
                asked.model, dtype=asked.measured_in, device=asked.device, revision=name
            )
            np.save(folder / "part.npy", next_token_losses(checkpoint, tokens, windows))
            (folder / "part.npy").replace(file)
    files = {name: folder / f"{name}.npy" for name in asked.checkpoints}
    table = pd.DataFrame({name: np.load(file) for name, file in files.items()})
    table.to_parquet(folder / "losses.parquet")
    for file in files.values():
        file.unlink()
    return {"checkpoints": len(files), "windows": len(table)}

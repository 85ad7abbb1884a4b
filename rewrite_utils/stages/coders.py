"""How a site gets its coder: trained on the train rows, loaded, or drawn at random.

In: a site. Out: the coder in the stage's folder, with its training curve (empty if not trained).
A loaded coder must be the one the run describes, and must explain the module it is put on.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from rewrite_utils.coder.formats import load_coder
from rewrite_utils.coder.harvest import Harvest, Streamed, pairs
from rewrite_utils.coder.quality import check_coder
from rewrite_utils.coder.sparse import CoderConfig, SparseCoder, random_coder
from rewrite_utils.coder.training import Batches, Pair, TrainingSettings, train
from rewrite_utils.subject.model import Subject

if TYPE_CHECKING:
    from rewrite_utils.stages.site import SiteStages

RANDOM = "random"
CHECKED_TOKENS = 4096
"""Tokens of the train rows that a loaded coder is checked on, and a random one centred on."""
FIXED = ("hookpoint", "coder", "latents", "k", "skip", "tokens", "epochs", "batch", "lr")
"""Settings of a site that its coder depends on."""
OPTIONAL = ("bias_convention", "optimizer", "warmup_steps", "auxk_alpha", "dead_after")
OPTIONAL += ("normalize_decoder", "stream")
"""The same, hashed only where they are not the default, so that older runs keep their coders."""


def content(site: "SiteStages") -> dict[str, Any]:
    """What of the site's settings determines its coder."""
    asked = site.settings
    changed = asked.model_dump(mode="json", include=set(OPTIONAL), exclude_defaults=True)
    return asked.model_dump(mode="json", include=set(FIXED)) | changed


def make_coder(site: "SiteStages", folder: Path) -> dict[str, Any]:
    """Train the site's coder, load the one it names, or draw one."""
    if site.settings.coder == RANDOM:
        coder, facts = _random(site), {"random": True}
    elif site.settings.coder:
        coder, facts = _load(site)
    else:
        return _train(site, folder)
    coder.save(folder)
    pd.DataFrame().to_parquet(folder / "training.parquet")
    return facts


def configuration(site: "SiteStages") -> CoderConfig:
    """The coder that the site's settings describe."""
    asked = site.settings
    return CoderConfig(
        d_in=site.subject.d_model,
        num_latents=asked.latents,
        k=asked.k,
        transcode=site.hookpoint.kind == "mlp",
        skip_connection=asked.skip,
        hookpoint=asked.hookpoint,
        normalize_decoder=asked.normalize_decoder,
    )


def settings(site: "SiteStages", steps: int) -> TrainingSettings:
    """How the site's coder is trained."""
    asked = site.settings
    return TrainingSettings(
        optimizer=asked.optimizer,
        lr=asked.lr or None,
        warmup_steps=min(asked.warmup_steps, steps // 10),
        auxk_alpha=asked.auxk_alpha,
        dead_after=asked.dead_after,
        seed=site.params.seed,
    )


def streamed(
    site: "SiteStages", subject: Subject | None = None, *, share: tuple[int, int] = (0, 1)
) -> Streamed:
    """The site's activations, computed while it trains; ``share``: this process, of how many."""
    asked, rows = site.settings, site.corpus.rows("train")
    return Streamed(
        subject or site.collector,
        site.hookpoint,
        rows[: max(1, asked.tokens // (rows.shape[1] - 1))],
        batch=asked.batch,
        epochs=asked.epochs,
        seed=site.params.seed,
        share=share,
    )


def _train(site: "SiteStages", folder: Path) -> dict[str, Any]:
    """Train on harvested (or streamed) activations; the curve stays as training.parquet."""
    asked = site.settings
    batches = streamed(site) if asked.stream else _harvested(site, folder / "harvest")
    how = settings(site, len(batches))
    result = train(configuration(site), batches, settings=how, folder=folder / "checkpoints")
    pd.DataFrame(result.records).to_parquet(folder / "training.parquet")
    result.coder.save(folder)
    shutil.rmtree(folder / "harvest", ignore_errors=True)
    shutil.rmtree(folder / "checkpoints")
    return {"tokens": result.records[-1].tokens // asked.epochs, "steps": len(batches)}


def _harvested(site: "SiteStages", folder: Path) -> Batches:
    """Activations of the train rows, on disk until the coder is trained."""
    asked, rows = site.settings, site.corpus.rows("train")
    harvest = Harvest.collect(
        site.collector, site.hookpoint, rows, tokens=asked.tokens, folder=folder
    )
    return harvest.batches(
        batch=asked.batch,
        epochs=asked.epochs,
        seed=site.params.seed,
        device=site.collector.device,
    )


def _load(site: "SiteStages") -> tuple[SparseCoder, dict[str, Any]]:
    """The coder that the site names.

    Raises ValueError if it is another one than the run says, or explains nothing of the module.
    """
    asked = site.settings
    coder = load_coder(
        asked.coder, hookpoint=asked.hookpoint, bias_convention=asked.bias_convention
    )
    found = coder.config
    for what, has, wanted in (
        ("latents", found.num_latents, asked.latents),
        ("k", found.k or asked.k, asked.k),  # one with thresholds has no k
        ("skip", found.skip_connection, asked.skip),
    ):
        if has != wanted:
            raise ValueError(
                f"sites.{site.name}: the coder {asked.coder} has {what} = {has}, the run says "
                f"{wanted}; set sites.{site.name}.{what} to {has}"
            )
    check = check_coder(coder.to(site.collector.device), _pairs(site), hookpoint=asked.hookpoint)
    measured = {
        "hookpoint": check.hookpoint,
        "fvu": check.fvu,
        "l0": check.l0,
        "tokens": check.tokens,
    }
    return coder, {"loaded": asked.coder, **measured}


def _random(site: "SiteStages") -> SparseCoder:
    """Random weights, centred on the data as a trained coder is."""
    generator = torch.Generator().manual_seed(site.params.seed)
    coder = random_coder(configuration(site), generator)
    sides = zip(*_pairs(site), strict=True)
    x_mean, y_mean = (torch.cat(side).mean(0) for side in sides)
    return coder.to(x_mean.device).centre(x_mean, y_mean)


def _pairs(site: "SiteStages") -> Iterator[Pair]:
    """Activations of the first train rows, a few rows at a time."""
    rows = site.corpus.rows("train")
    rows = rows[: max(1, CHECKED_TOKENS // (rows.shape[1] - 1))]
    return pairs(site.collector, site.hookpoint, rows)

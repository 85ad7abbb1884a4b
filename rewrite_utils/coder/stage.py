"""A stage of notebook 01: the coder, trained, loaded or drawn at random.

A loaded coder must be the one the run describes, and must explain the module it is put on.
"""

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import ValidationError

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.coder.formats import keeps_k, load_coder
from rewrite_utils.coder.harvest import Harvest, Streamed, pairs
from rewrite_utils.coder.quality import check_coder
from rewrite_utils.coder.sparse import CoderConfig, SparseCoder, random_coder
from rewrite_utils.coder.training import Batches, Pair, TrainingSettings, train
from rewrite_utils.params import Params, Site, placed
from rewrite_utils.runs.cost import Cost, PlanError
from rewrite_utils.runs.run import Stage
from rewrite_utils.runs.stage import Declared
from rewrite_utils.subject.corpus import Corpus
from rewrite_utils.subject.model import Hookpoint, Subject, parse_hookpoint
from rewrite_utils.subject.stage import flops_to, split_rows

RANDOM = "random"
CHECKED_TOKENS = 4096
"""Tokens of the train rows that a loaded coder is checked on, and a random one centred on."""
FIXED = ("hookpoint", "coder", "latents", "k", "skip", "tokens", "epochs", "batch", "lr")
"""Settings of a site that its coder depends on."""
OPTIONAL = ("bias_convention", "optimizer", "warmup_steps", "auxk_alpha", "dead_after")
OPTIONAL += ("normalize_decoder", "stream")
"""The same, hashed only where they are not the default, so that older runs keep their coders."""


def coder_hashes(*, settings: Site, params: Params) -> dict[str, Any]:
    """What of the settings determines the coder."""
    changed = settings.model_dump(mode="json", include=set(OPTIONAL), exclude_defaults=True)
    fixed = settings.model_dump(mode="json", include=set(FIXED))
    return fixed | changed | {"subject": params.subject.content(), "seed": params.seed}


def make_coder(
    folder: Path,
    *,
    settings: Site,
    params: Params,
    collector: Subject,
    hookpoint: Hookpoint,
    corpus: Corpus,
    name: str,
) -> dict[str, Any]:
    """Train the site's coder, load the one it names, or draw one."""
    rows = corpus.rows("train")
    if not settings.coder:
        return _train(folder, settings, params.seed, collector, hookpoint, corpus)
    few = rows[: max(1, CHECKED_TOKENS // (rows.shape[1] - 1))]
    some = pairs(collector, hookpoint, few, masked=corpus.masked)
    if settings.coder == RANDOM:
        coder = _random(configuration(settings, collector.d_model), some, params.seed)
        facts: dict[str, Any] = {"random": True}
    else:
        coder, facts = _load(params, some, collector.device, name)
    coder.save(folder)
    pd.DataFrame().to_parquet(folder / "training.parquet")
    return facts


def configuration(settings: Site, d_model: int) -> CoderConfig:
    """The coder that a site's settings describe."""
    return CoderConfig(
        d_in=d_model,
        num_latents=settings.latents,
        k=settings.k,
        transcode=settings.hookpoint.endswith(".mlp"),
        skip_connection=settings.skip,
        hookpoint=settings.hookpoint,
        normalize_decoder=settings.normalize_decoder,
    )


def how_trained(settings: Site, steps: int, seed: int) -> TrainingSettings:
    """How a site's coder is trained in so many steps."""
    return TrainingSettings(
        optimizer=settings.optimizer,
        lr=settings.lr or None,
        warmup_steps=min(settings.warmup_steps, steps // 10),
        auxk_alpha=settings.auxk_alpha,
        dead_after=settings.dead_after,
        seed=seed,
    )


def streamed(
    settings: Site,
    seed: int,
    subject: Subject,
    hookpoint: Hookpoint,
    corpus: Corpus,
    *,
    share: tuple[int, int] = (0, 1),
) -> Streamed:
    """Activations computed while a coder trains; ``share``: this process, of how many."""
    rows = corpus.rows("train")
    return Streamed(
        subject,
        hookpoint,
        rows[: max(1, settings.tokens // (rows.shape[1] - 1))],
        batch=settings.batch,
        epochs=settings.epochs,
        seed=seed,
        share=share,
        masked=corpus.masked,
    )


def _train(
    folder: Path, asked: Site, seed: int, subject: Subject, hookpoint: Hookpoint, corpus: Corpus
) -> dict[str, Any]:
    """Train on harvested (or streamed) activations; the curve stays as training.parquet."""
    batches: Batches = (
        streamed(asked, seed, subject, hookpoint, corpus)
        if asked.stream
        else Harvest.collect(
            subject,
            hookpoint,
            corpus.rows("train"),
            tokens=asked.tokens,
            folder=folder / "harvest",
            masked=corpus.masked,
        ).batches(batch=asked.batch, epochs=asked.epochs, seed=seed, device=subject.device)
    )
    how, config = how_trained(asked, len(batches), seed), configuration(asked, subject.d_model)
    result = train(config, batches, settings=how, folder=folder / "checkpoints")
    pd.DataFrame(result.records).to_parquet(folder / "training.parquet")
    result.coder.save(folder)
    shutil.rmtree(folder / "harvest", ignore_errors=True)
    shutil.rmtree(folder / "checkpoints")
    return {"tokens": result.records[-1].tokens // asked.epochs, "steps": len(batches)}


def without_k(name: str, params: Params) -> str:
    """What cannot be done with a site's coder that has thresholds instead of a k; empty: nothing
    that was asked for."""
    named = [f"{key} ({', '.join(names)})" for key, names in params.after_topk.items()]
    if not named:
        return ""
    return (
        f"sites.{name}: the coder {params.sites[name].coder} has thresholds and no k, so the "
        "paper's top k after the overwrite cannot be done: take what ends in +topk out of "
        + "; ".join(named)
    )


def _load(
    params: Params, some: Iterator[Pair], device: torch.device, name: str
) -> tuple[SparseCoder, dict[str, Any]]:
    """The coder that the site names.

    Raises ValueError if it is another one than the run says, or explains nothing of the module.
    """
    asked = params.sites[name]
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
                f"sites.{name}: the coder {asked.coder} has {what} = {has}, the run says "
                f"{wanted}; set sites.{name}.{what} to {has}"
            )
    if found.k is None and (told := without_k(name, params)):
        warnings.warn(told, stacklevel=2)
    check = check_coder(coder.to(device), some, hookpoint=asked.hookpoint)
    measured = {key: getattr(check, key) for key in ("hookpoint", "fvu", "l0", "tokens")}
    return coder, {"loaded": asked.coder, **measured}


def _random(config: CoderConfig, some: Iterator[Pair], seed: int) -> SparseCoder:
    """Random weights, centred on the data as a trained coder is."""
    coder = random_coder(config, torch.Generator().manual_seed(seed))
    x_mean, y_mean = (torch.cat(side).mean(0) for side in zip(*some, strict=True))
    return coder.to(x_mean.device).centre(x_mean, y_mean)


def read_coder(folder: Path, *, subject: Subject) -> SparseCoder:
    """The coder, on the subject's device."""
    return SparseCoder.load(folder).to(subject.device)


def training(*, coder_stage: Stage) -> pd.DataFrame:
    """The training curve: step, FVU, dead latents; empty for a loaded coder."""
    return pd.read_parquet(coder_stage / "training.parquet")


def coder_cost(*, params: Params, settings: Site, name: str, model: ModelShape) -> Cost:
    """Activations of the training tokens, and training; or a coder loaded.

    Raises PlanError where the coder does not fit the subject.
    """
    _require_coder(name, settings, model)
    d, k = model.d_model, settings.k
    weights = 4 * (2 * settings.latents * d + settings.latents + d + settings.skip * d * d)
    if settings.coder:
        told = tuple(_remarks(name, settings))
        return Cost("01_coder", name, f"loads {settings.coder}", storage=weights, remarks=told)
    a_row = params.corpus.row_tokens - 1
    rows = min(split_rows(params)["train"], max(1, settings.tokens // a_row))
    tokens, seen = rows * a_row, rows * a_row * settings.epochs
    steps, passes = -(-seen // settings.batch), settings.epochs if settings.stream else 1
    sides = 0 if settings.stream else 1 + settings.hookpoint.endswith(".mlp")  # kept on disk
    step_flops = 2 * d * settings.latents + 10 * k * d + 6 * d * d * settings.skip
    return Cost(
        "01_coder",
        name,
        f"{settings.latents:,} latents, k {k}, {steps:,} steps",
        tokens=tokens,
        storage=4 * sides * d * tokens + 3 * weights,
        flops=rows * (a_row + 1) * passes * flops_to(model, settings) + seen * step_flops,
        dtype=params.subject.collected_in,
        traffic=seen * 20 * k * d + steps * 7 * weights,
        remarks=tuple(_remarks(name, settings)),
    )


def _remarks(name: str, asked: Site) -> Iterator[str]:
    if not asked.described:
        yield f"sites.{name}: every live latent is described; counted are all {asked.latents:,}."
    if asked.coder not in ("", RANDOM) and keeps_k(asked.coder, asked.hookpoint) is False:
        yield (
            f"sites.{name}: {asked.coder} has thresholds: how many latents fire is not known "
            f"before it runs, and k = {asked.k} of the run stands for it here."
        )
    if asked.coder not in ("", RANDOM) and not placed(asked.coder).is_dir():
        yield (
            f"sites.{name}: {asked.coder} is not on this disk; its width and k are taken from "
            "the run."
        )


def _require_coder(name: str, asked: Site, model: ModelShape) -> None:
    """The hookpoint is in the model, the settings make a coder, one on this disk is that coder."""
    try:
        parse_hookpoint(asked.hookpoint, n_layers=model.n_layers)
        configuration(asked, model.d_model)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise PlanError(f"sites.{name}: {reason}") from None
    except ValueError as error:
        raise PlanError(f"sites.{name}: {error}") from None
    folder = placed(asked.coder)
    places = [folder / "cfg.json", folder / asked.hookpoint / "cfg.json"] if asked.coder else []
    for file in [place for place in places if place.is_file()][:1]:
        found = json.loads(file.read_text(encoding="utf-8"))
        width = found.get("num_latents") or found.get("expansion_factor", 0) * found.get("d_in", 0)
        for what, has, wanted in (
            ("latents", width, asked.latents),
            ("k", found.get("k"), asked.k),
            ("d_in", found.get("d_in"), model.d_model),
        ):
            if has and has != wanted:
                raise PlanError(f"sites.{name}: {file} has {what} {has}, the run says {wanted}")


CODER = Declared(
    name="01_coder",
    make=make_coder,
    read=read_coder,
    on=("corpus_stage",),
    hashes=coder_hashes,
    cost=coder_cost,
)

"""Stages of notebook 07: the losses of every arm and of every checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from rewrite_utils.assets.shapes import ModelShape
from rewrite_utils.explain.floor import derangement
from rewrite_utils.latents.stage import Caches, Drawn
from rewrite_utils.latents.windows import shared_rows
from rewrite_utils.params import Params, Site
from rewrite_utils.rewrite import arms, measure
from rewrite_utils.rewrite.arms import Estimate
from rewrite_utils.rewrite.equivalence import next_token_losses
from rewrite_utils.rewrite.estimates import Evidence, shuffled, target_of, without_llm
from rewrite_utils.rewrite.splicer import FILE, Splicer, n_arms, read_losses, splice_cost
from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.stage import Declared
from rewrite_utils.simulate.ratings import Ratings
from rewrite_utils.simulate.stage import Rated
from rewrite_utils.subject.corpus import Corpus
from rewrite_utils.subject.stage import checkpoint

FREE = ("zero", "mean", "token table", "word list")
"""Sources of latents that need no LLM, measured on all control windows."""
FLOOR = "shuffled explanations"
"""A source beside the calibrators: the headline one, given another latent's sentence."""
CONSTANTS = ("output zero", "output mean")
"""Arms that replace the whole output, and need no latents."""


def evidence(
    *, ratings: Rated, cache: Caches, windows: Drawn, simulated: list[int], params: Params
) -> Evidence:
    """Ratings beside the truth at the calibrate windows: what calibrators are fitted on."""
    true = cache("calibrate").dense(windows.simulated("calibrate"))[:, simulated]
    target = target_of(cache("calibrate"), np.array(simulated))
    return Evidence(ratings("calibrate"), true, target, params.simulate.screen < 1)


def estimates(
    *,
    evidence: Evidence,
    ratings: Rated,
    cache: Caches,
    windows: Drawn,
    simulated: list[int],
    params: Params,
) -> dict[str, Estimate]:
    """Every source of the rewrite: ablations and controls at all evaluate windows, the calibrated
    ratings at the simulated ones, which come first."""
    asked, rated = params.rewrite, ratings("evaluate")
    evaluate = windows("evaluate")
    free = without_llm(
        cache("explain"), cache("calibrate"), evaluate, cache("evaluate"), np.array(simulated)
    )
    told = {name: evidence.calibrated(name, rated) for name in asked.calibrators}
    found = {name: Estimate(values, asked.orders) for name, values in (free | told).items()}
    if len(simulated) > 1:
        found[FLOOR] = _floor(evidence, rated, params)
    return found


def _floor(evidence: Evidence, ratings: Ratings, params: Params) -> Estimate:
    """Ratings of other latents' sentences, calibrated and spliced as the headline."""
    headline = params.rewrite.headline
    order = derangement(evidence.true.shape[1], params.seed)
    values = evidence.shuffled(order).calibrated(headline, shuffled(ratings, order))
    return Estimate(values, params.rewrite.orders, topk=headline.endswith(arms.TOPK))


def rankings(
    *, scores: pd.DataFrame, simulated: list[int], useful: Any, params: Params
) -> dict[str, Float[ndarray, " simulated"]]:
    """What puts the simulated latents in order: detection F1; if asked for, usefulness."""
    tables = {"top": scores["f1"].set_axis(scores["latent"])}
    if "useful" in params.rewrite.orders:
        table = useful()
        tables["useful"] = table["usefulness"].set_axis(table["latent"])
    return {
        order: values.reindex(simulated).to_numpy(np.float64) for order, values in tables.items()
    }


def rewrite_hashes(*, params: Params, settings: Site) -> dict[str, Any]:
    """The arms, and what puts latents in order."""
    content = {"rewrite": params.rewrite.content(), "control_windows": settings.control_windows}
    content |= {"seed": params.seed} | params.score.reading()
    if params.rewrite.headline.endswith(arms.TOPK):
        content["floor"] = "top k as the headline"
    return content


def rewrite_on(*, params: Params) -> tuple[str, ...]:
    """Scores and ratings; usefulness where latents are taken by it."""
    useful = ["usefulness_stage"] if "useful" in params.rewrite.orders else []
    return ("scores_stage", "simulation_stage", *useful)


def make_rewrite(
    folder: Path,
    *,
    splicer: Splicer,
    estimates: dict[str, Estimate],
    rankings: dict[str, Float[ndarray, " simulated"]],
    windows: Drawn,
    simulated: list[int],
    output_mean: Float[Tensor, " d_out"],
    params: Params,
) -> dict[str, Any]:
    """Losses of every arm: controls at all evaluate windows, sentences at the simulated."""
    count = windows.simulated_count("evaluate")
    constants = dict(zip(CONSTANTS, (torch.zeros_like(output_mean), output_mean), strict=True))
    given = {"seed": params.seed, "fractions": params.rewrite.fractions}
    given |= {"rankings": rankings, "constants": constants}
    parts = []
    for drawn, what, kept in (
        (windows("evaluate"), "controls", lambda n: n > count),
        (windows.simulated("evaluate"), "sentences", lambda n: n == count),
    ):
        some = {name: one for name, one in estimates.items() if kept(len(one.values))}
        parts.append(splicer.losses(drawn, some, np.array(simulated), what, **given))
    table = pd.concat(parts).drop_duplicates(["window", "source", "count", "order"])
    table.reset_index(drop=True).to_parquet(folder / FILE)
    return {}


Judge = Callable[..., pd.DataFrame]
"""What `judged` gives."""


def judged(*, output_variance: float, windows: Drawn, params: Params) -> Judge:
    """Turns losses into verdicts: paired differences to the ablations, with intervals over windows,
    or over their rows where several windows come from one."""

    def judge(losses: pd.DataFrame, *, split: str = "evaluate") -> pd.DataFrame:
        """One row an arm; ``split``: whose windows the losses are of."""
        rows = windows(split).rows
        shared = shared_rows(rows[losses["window"].unique()])
        given = {"variance": output_variance, "seed": params.seed}
        given |= {"resamples": params.rewrite.bootstrap}
        return measure.verdict(losses, units=None if shared is None else rows, **given)

    return judge


def verdict(*, losses: pd.DataFrame, judged: Judge, settings: Site) -> pd.DataFrame:
    """One row an arm: what it costs, paired against ablation of the same latents.

    On the simulated windows only, the controls too: all arms have seen the same text.
    """
    return judged(losses[losses["window"] < settings.evaluate_windows])


def control_verdict(*, losses: pd.DataFrame, judged: Judge) -> pd.DataFrame:
    """The same for the arms that need no LLM, on all evaluate windows."""
    return judged(losses[losses["source"].isin(["coder", *FREE, *CONSTANTS])])


# ── checkpoints ───────────────────────────────────────────────────────────────────────────────────


def checkpoint_hashes(*, params: Params, windows: Drawn) -> dict[str, Any]:
    """The checkpoints, and where they are measured."""
    return {
        "subject": params.subject.content() | {"revision": "", "collect_dtype": ""},
        "checkpoints": list(params.subject.checkpoints),
        "windows": len(windows("evaluate").rows),
        "positions": list(params.rated_positions),
        "seed": params.seed,
    }


def make_checkpoints(
    folder: Path, *, corpus: Corpus, windows: Drawn, params: Params, name: str
) -> dict[str, Any]:
    """Losses of every checkpoint at the evaluate windows, one checkpoint in memory at a time."""
    tokens, drawn = corpus.rows("evaluate").numpy(), windows("evaluate")
    names = params.subject.checkpoints
    files = {one: folder / f"{one}.npy" for one in names}
    for one in tqdm(names, desc=f"checkpoints, {name}", unit="checkpoint"):
        if not files[one].exists():
            found = next_token_losses(checkpoint(params.subject, one), tokens, drawn)
            np.save(folder / "part.npy", found)
            (folder / "part.npy").replace(files[one])
    table = pd.DataFrame({one: np.load(file) for one, file in files.items()})
    table.to_parquet(folder / FILE)
    for file in files.values():
        file.unlink()
    return {"checkpoints": len(files), "windows": len(table)}


def rewrite_cost(*, params: Params, settings: Site, name: str, model: ModelShape) -> Cost:
    """Every arm at every window."""
    controls = max(settings.control_windows, settings.evaluate_windows)
    free = n_arms(params, settings, FREE) + len(CONSTANTS) + 1
    told = n_arms(params, settings, (*params.rewrite.calibrators, FLOOR))
    losses = controls * free + settings.evaluate_windows * told
    what = f"{controls:,} windows × {free} arms + {settings.evaluate_windows:,} × {told} simulated "
    what, sizes = f"{what}= {losses:,} losses", {"windows": controls, "losses": losses}
    return splice_cost("07_rewrite", name, what, params, settings, model, **sizes)


def checkpoints_cost(
    *, params: Params, settings: Site, name: str, model: ModelShape
) -> Cost | None:
    """Every checkpoint of the subject once over the evaluate windows."""
    count = len(params.subject.checkpoints)
    if not count:
        return None
    windows = max(settings.control_windows, settings.evaluate_windows)
    tokens = count * windows * params.corpus.row_tokens
    output = count * windows * 2 * model.vocab * model.d_model
    return Cost(
        "07_checkpoints",
        name,
        f"{count} checkpoints × {windows:,} windows",
        tokens=tokens,
        storage=8 * count * windows,
        flops=tokens * model.flops() + output,
        dtype=params.subject.measured_in,
    )


REWRITE = Declared(
    name="07_rewrite",
    make=make_rewrite,
    read=read_losses,
    on=rewrite_on,
    hashes=rewrite_hashes,
    cost=rewrite_cost,
)
CHECKPOINTS = Declared(
    name="07_checkpoints",
    make=make_checkpoints,
    read=read_losses,
    on=("corpus_stage",),
    hashes=checkpoint_hashes,
    cost=checkpoints_cost,
)

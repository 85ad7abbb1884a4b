"""Does what the stages need fit together? Errors for what cannot run, remarks for the rest.

In: parameters, the subject's shape, the costs, the machine. Out: PlanError, or a list of
sentences. Nothing is run and nothing is fetched. (Paper: the settings of method §1–§7.)
"""

import json

from pydantic import ValidationError

from rewrite_utils.calibrate import calibrator
from rewrite_utils.coder.sparse import CoderConfig
from rewrite_utils.subject.model import parse_hookpoint
from rewrite_utils.params import LLM, Params, Site, placed
from rewrite_utils.runs.plan.costs import CACHED, CORPUS_TOKENS, Cost, split_rows
from rewrite_utils.runs.plan.lengths import (
    FRAME,
    SENTENCE,
    detect_prompt,
    explain_prompt,
    explain_wording,
    prompt_tokens,
)
from rewrite_utils.runs.machine import BYTES, Machine
from rewrite_utils.runs.plan.ratings import SLOTTED
from rewrite_utils.runs.plan.shapes import ModelShape, PlanError, shape
from rewrite_utils.rewrite.arms import TOPK
from rewrite_utils.simulate import wording

SORTING_BYTES = 52
"""Bytes of memory an activation needs while one split's cache is sorted by latent: batches 16,
joined 16, order 8, sorted 12."""


def require_consistent(params: Params, model: ModelShape) -> None:
    """Raise PlanError at the first thing that a stage could not do."""
    for name, site in params.sites.items():
        _require_site(name, site, model)
        _require_windows(name, params)
    _require_row(params, model)
    _require_prompts(params)
    require_calibrators(params)


def remarks(params: Params, model: ModelShape, costs: list[Cost], machine: Machine) -> list[str]:
    """What the numbers of a plan rest on, and where this machine is too small."""
    return [
        *_corpus_remarks(params),
        *_site_remarks(params),
        *_memory_remarks(params, model, machine),
        *_disk_remarks(costs, machine),
    ]


def _require_site(name: str, site: Site, model: ModelShape) -> None:
    try:
        hookpoint = parse_hookpoint(site.hookpoint, n_layers=model.n_layers)
        CoderConfig(
            d_in=model.d_model,
            d_out=model.d_model,
            num_latents=site.latents,
            k=site.k,
            transcode=hookpoint.kind == "mlp",
            skip_connection=site.skip,
            hookpoint=site.hookpoint,
        )
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise PlanError(f"sites.{name}: {reason}") from None
    except ValueError as error:
        raise PlanError(f"sites.{name}: {error}") from None
    _require_coder(name, site, model)


def _require_coder(name: str, site: Site, model: ModelShape) -> None:
    """A coder on this disk must have the width, k and input that the parameters say."""
    coder = placed(site.coder)
    folders = [coder, coder / site.hookpoint] if site.coder else []
    file = next((f / "cfg.json" for f in folders if (f / "cfg.json").is_file()), None)
    if file is None:
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    width = found.get("num_latents") or found.get("expansion_factor", 0) * found.get("d_in", 0)
    for what, has, asked in (
        ("latents", width, site.latents),
        ("k", found.get("k"), site.k),
        ("d_in", found.get("d_in"), model.d_model),
    ):
        if has and has != asked:
            raise PlanError(f"sites.{name}: {file} has {what} {has}, the run says {asked}")


def _require_row(params: Params, model: ModelShape) -> None:
    row = params.corpus.row_tokens
    if row > model.context:
        raise PlanError(
            f"corpus.row_tokens = {row} is more than the subject's context of {model.context}"
        )


def _require_windows(name: str, params: Params) -> None:
    """Enough different (row, position) pairs for the windows that are drawn."""
    site, rows = params.sites[name], split_rows(params)
    first, last = params.rated_positions
    study = params.studies
    evaluate = max(site.evaluate_windows, site.control_windows, study.held_windows)
    fitted = max(site.calibrate_windows, *study.sizes)
    for split, windows in (("calibrate", fitted), ("evaluate", evaluate)):
        places = rows[split] * (last - first + 1)
        if windows > places:
            raise PlanError(
                f"sites.{name}: {windows:,} {split} windows, but its {rows[split]:,} rows have "
                f"only {places:,} positions {first} … {last}: lower the site's windows or "
                "studies.sizes and studies.held_windows, or raise "
                f"corpus.{split} or corpus.max_rows"
            )


def _require_prompts(params: Params) -> None:
    simulate = params.simulate
    for section, llm, needed in (
        (
            "explainer",
            params.explainer,
            explain_wording(params) + explain_prompt(params) + params.explain.max_tokens,
        ),
        ("explainer", params.explainer, prompt_tokens("detect") + detect_prompt(params)),
        (
            "simulator",
            params.simulator,
            prompt_tokens(wording(simulate))
            + simulate.window_tokens * (SLOTTED if simulate.mode == "all" else 1)
            + (simulate.align + FRAME + SENTENCE),
        ),
    ):
        longest = min(llm.context, shape(llm.model).context)
        if needed > longest:
            raise PlanError(
                f"{section}: prompts of about {needed:,} tokens do not fit a context of "
                f"{longest:,}: raise {section}.context or show fewer or shorter windows"
            )


def require_calibrators(params: Params) -> None:
    """Raise PlanError at a calibration whose name says nothing, before hours of ratings."""
    asked = {"rewrite": params.rewrite.calibrators, "studies": params.studies.calibrators}
    for name, section in [(name, key) for key, names in asked.items() for name in names]:
        try:
            calibrator(name.removesuffix(TOPK))
        except (KeyError, ValueError) as error:
            raise PlanError(f"{section}.calibrators: {error.args[0]}") from None


def _corpus_remarks(params: Params) -> list[str]:
    unknown = [source for source in params.corpus.sources if source not in CORPUS_TOKENS]
    found = []
    if unknown:
        found.append(
            f"The size of {', '.join(unknown)} is not known without the hub: train rows are "
            "what the coders trained here ask for, the other splits have corpus.max_rows each; "
            "reading and tokenising the rest of the train split comes on top."
        )
    if params.corpus.faithful:
        found.append(
            "corpus.faithful: explain, score, calibrate and evaluate are the same rows, cached "
            "once for each of them."
        )
    return found


def _site_remarks(params: Params) -> list[str]:
    found = [
        f"sites.{name}: every live latent is described; counted are all {site.latents:,}."
        for name, site in params.sites.items()
        if not site.described
    ]
    return found + [
        f"sites.{name}: {site.coder} is not on this disk; its width and k are taken from the run."
        for name, site in params.sites.items()
        if site.coder not in ("", "random") and not placed(site.coder).is_dir()
    ]


def _memory_remarks(params: Params, model: ModelShape, machine: Machine) -> list[str]:
    subject = model.parameters * BYTES[params.subject.measured_in]
    needs = {"subject": subject, "explainer": _llm_bytes(params.explainer, machine)}
    needs["simulator"] = _llm_bytes(params.simulator, machine)
    rows = max(split_rows(params)[split] for split in CACHED)
    for name, site in params.sites.items():
        entries = rows * params.corpus.row_tokens * site.k
        needs[f"latent cache of sites.{name}"] = SORTING_BYTES * entries
    return [
        f"The {role} needs {needed / 1e9:,.1f} GB of memory, this machine has "
        f"{machine.memory / 1e9:,.0f} GB: it cannot run here."
        for role, needed in needs.items()
        if needed > machine.memory
    ]


def _llm_bytes(llm: LLM, machine: Machine) -> int:
    weights = shape(llm.model).parameters
    dtype = machine.precision(llm.dtype, weights=weights)
    return int(weights * BYTES[dtype] + llm.memory_gb * 2**30)


def _disk_remarks(costs: list[Cost], machine: Machine) -> list[str]:
    return [
        f"{cost.stage}.{cost.site} needs {cost.storage / 1e9:,.0f} GB of disk, "
        f"{machine.disk / 1e9:,.0f} GB are free: it will stop before it starts."
        for cost in costs
        if cost.storage > machine.disk
    ]

"""Each claim of the paper with its number, ours with an interval, and whether they agree.

In: the stages of a site. Out: Claims. A claim agrees, disagrees, or is not resolved: the interval
holds both answers. Paper §2, §5–7; its numbers as method.md lists them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils import calibrate, stats
from rewrite_utils.report.around import PAPER_SILENT_TO_ACTIVE, break_even
from rewrite_utils.report.checkpoints import equivalence_of
from rewrite_utils.report.tables import sensitivity_specificity
from rewrite_utils.rewrite.arms import ALL, before_topk
from rewrite_utils.rewrite.measure import losses_of
from rewrite_utils.runs.run import Run
from rewrite_utils.stages import SiteStages, studies
from rewrite_utils.stats import Estimate

COSTS = {"mlp": "+10 %", "resid": "+33 %"}
CHECKPOINT = {"mlp": "≈ 25 % of training", "resid": "< 10 % of training"}
"""What the paper says of its transcoder and of its SAE."""
OURS = {
    "mean": "beats mean ablation",
    "token table": "beats the token table, so the sentences carry context",
}
"""The claim that the README puts to the test, by what it is compared with."""


class Claim(NamedTuple):
    """One row of the report."""

    site: str
    """Where it was measured."""
    claim: str
    """What is said."""
    paper: str
    """The paper's number or finding."""
    ours: str
    """This run's number with interval, n and unit."""
    verdict: str
    """agrees, disagrees, not resolved, not measured, not compared, or beyond the paper; of our own
    claim whether this run agrees with it."""


def claimed(run: Run, site: SiteStages) -> list[Claim]:
    """Every claim at one site, in the order of the paper."""
    return [
        *_of_the_coder(run, site),
        _of_checkpoints(run, site),
        *_of_distributions(run, site),
        *_of_the_rewrites(run, site),
        *_of_fewer(run, site),
        *_of_rates(run, site),
        _of_specificity_needed(site),
        *_ours(run, site),
        *_beyond(run, site),
    ]


def _of_the_coder(run: Run, site: SiteStages) -> Iterator[Claim]:
    """Without an LLM, so on all control windows."""
    losses, every = site.losses, len(site.simulated)
    base = losses_of(losses, "coder", 0, column="base_loss")
    coder = losses_of(losses, "coder", 0)
    ablated = losses_of(losses, "mean", every)
    settings = {"seed": run.params.seed, "resamples": run.params.rewrite.bootstrap}
    own = stats.bootstrap(base, unit="window", **settings)
    yield Claim(site.name, "loss of the untouched model", "3.19 ± 0.09 nat (Pythia)",
                f"{own} nat", "not compared")  # fmt: skip
    costs = _difference(run, coder, base)
    share = stats.ratio(coder - base, base, unit="window", **settings)
    yield Claim(site.name, "the coder costs cross-entropy", COSTS[site.hookpoint.kind],
                f"{costs} nat: {_percent(share)}", _sign(costs, +1))  # fmt: skip
    range_ = _difference(run, ablated, coder)
    yield Claim(site.name, "ablating the latents costs more than the coder", "≈ +0.29 nat",
                f"{range_} nat", _sign(range_, +1))  # fmt: skip


def _of_checkpoints(run: Run, site: SiteStages) -> Claim:
    """The coder as good as an unfinished model: surely before the last step, or surely not."""
    said = CHECKPOINT[site.hookpoint.kind]
    claim = "the coder is as good as an unfinished checkpoint"
    if not run.params.subject.checkpoints:
        return Claim(site.name, claim, said, "this subject has no checkpoints", "not measured")
    found = equivalence_of(site, "coder")
    ours = f"{found.answer} (n = {found.windows} windows)"
    verdict = "not resolved"
    if found.high < found.final:
        verdict = "agrees"
    elif found.low >= found.final:
        verdict = "disagrees"
    return Claim(site.name, claim, said, ours, verdict)


def _of_distributions(run: Run, site: SiteStages) -> Iterator[Claim]:
    """Figure 1: distances of predicted and true distributions, in means of each latent; of the
    estimates themselves, before any TopK."""
    raw, matched = _named(run, "raw"), _named(run, "quantile")
    if not (raw and matched):
        return
    true, target = site.true("evaluate"), site.evidence.target
    alive = target.mean > 0
    before, after = (
        calibrate.mismatch(true, site.estimates[source].values, target.maximum).wasserstein[alive]
        / target.mean[alive]
        for source in (raw, matched)
    )
    found = _over_latents(run, after - before)
    claim = f"{matched} brings the distributions together (Wasserstein / mean activation)"
    ours = f"{found}, from {before.mean():.1f}{_untruncated(matched)}"
    yield Claim(site.name, claim, "figure 1, no number", ours, _sign(found, -1))


def _of_the_rewrites(run: Run, site: SiteStages) -> Iterator[Claim]:
    """Every described latent replaced, on the simulated windows."""
    for source in run.params.rewrite.calibrators:
        cost = _against(run, site, source, "mean")
        claim = f"rewriting with {source} is no better than mean ablation"
        yield Claim(site.name, claim, "no better", f"{cost} nat", _no_better(cost))
    raw, matched = _named(run, "raw"), _named(run, "quantile")
    if raw:
        cost = _against(run, site, raw, "zero")
        claim = "without normalisation the rewrite is worse than zeroing the latents"
        yield Claim(site.name, claim, "+3.4 against +0.31 nat", f"{cost} nat", _sign(cost, +1))
    if raw and matched:
        gain = _against(run, site, matched, raw)
        claim = "normalisation makes the rewrite cheaper"
        yield Claim(site.name, claim, "≈ ablation against +3.4 nat", f"{gain} nat", _sign(gain, -1))


def _of_fewer(run: Run, site: SiteStages) -> Iterator[Claim]:
    """Figure A2: few calibrate windows against all of them."""
    matched = _named(run, "quantile")
    if not matched:
        return
    table, every = studies.fewer(site), len(site.simulated)
    few, most = studies.few_windows(site), site.settings.calibrate_windows
    names = (f"{count} windows: {matched}" for count in (few, most))
    cost = _difference(run, *(losses_of(table, name, every, ALL) for name in names))
    claim = f"{matched} fitted on fewer windows costs more"
    ours = f"{cost} nat, {few} against {most} calibrate windows"
    yield Claim(site.name, claim, "1K clearly worse than 10K", ours, _sign(cost, +1))


def _of_rates(run: Run, site: SiteStages) -> Iterator[Claim]:
    """Figure 4, over the simulated latents; of the estimates themselves, before any TopK."""
    table = sensitivity_specificity({site.name: site}).set_index("source")
    raw, matched = _named(run, "raw"), _named(run, "quantile")
    if raw:
        before = _over_latents(run, table.loc[raw, "specificity"].dropna().to_numpy())
        agrees = "agrees" if before.high < 0.999 else "not resolved"
        yield Claim(site.name, "specificity before normalisation is too low",
                    "≈ 80 %; 99.9 % needed", _percent(before),
                    agrees if before.low < 0.999 else "disagrees")  # fmt: skip
        alarms = _alarms(run, site, raw)
        yield Claim(site.name, "false alarms a true activation before normalisation",
                    "≈ 200 (6,000 of 32,768 latents, 32 true)", str(alarms),
                    "not compared")  # fmt: skip
    if raw and matched:
        for rate, sign in (("specificity", +1), ("sensitivity", -1)):
            wide = table.reset_index().pivot(index="latent", columns="source", values=rate)
            change = (wide[matched] - wide[raw]).to_numpy()
            if np.isfinite(change).sum() > 1:
                found = _over_latents(run, change[np.isfinite(change)])
                claim = f"{rate} {'rises' if sign > 0 else 'drops'} with {matched}"
                said = "high afterwards" if sign > 0 else "drops"
                ours = _percent(found) + _untruncated(matched)
                yield Claim(site.name, claim, said, ours, _sign(found, sign))
    if matched:
        yield from _of_scores(run, site, table.loc[[matched]], matched)


def _of_scores(run: Run, site: SiteStages, table: pd.DataFrame, source: str) -> Iterator[Claim]:
    """Are better-scored latents better in both rates?"""
    for rate in ("specificity", "sensitivity"):
        kept = table.dropna(subset=["f1", rate])
        if len(kept) < 3:
            continue
        found = stats.rank_correlation(
            kept["f1"].to_numpy(), kept[rate].to_numpy(), unit="latent", seed=run.params.seed
        )
        claim = f"better-scored latents have higher {rate} ({source}; rank correlation with F1)"
        verdict = _sign(found, +1) if np.isfinite(found.value) else "not resolved"
        ours = f"{found}{_untruncated(source)}"
        yield Claim(site.name, claim, "figure 4: both rise", ours, verdict)


def _of_specificity_needed(site: SiteStages) -> Claim:
    """Break-even of true activations with synthetic alarms, TopK afterwards as in the paper."""
    found = break_even(site, topk=True)
    at = [1 - alarms / PAPER_SILENT_TO_ACTIVE for alarms in found[:3]]
    ours = (
        f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}] alarms a true activation, at 32 of "
        f"32,768 latents {at[0]:.2%} [{at[2]:.2%}, {at[1]:.2%}] (n = {found.n} windows)"
    )
    ten = 0.01 * PAPER_SILENT_TO_ACTIVE
    verdict = "agrees" if found.high < ten else "disagrees" if found.low > ten else "not resolved"
    claim = "a specificity of 99 % is not enough to beat ablation"
    return Claim(site.name, claim, "99.9 % needed", ours, verdict)


def _ours(run: Run, site: SiteStages) -> Iterator[Claim]:
    """What this repository sets out to show, of the calibration declared before the run."""
    headline = run.params.rewrite.headline
    for other, said in OURS.items():
        cost = _against(run, site, headline, other)
        claim = f"our claim: {headline} {said}"
        yield Claim(site.name, claim, "not measured", f"{cost} nat", _sign(cost, -1))


def _beyond(run: Run, site: SiteStages) -> Iterator[Claim]:
    """What the paper did not measure: the two rewrites without an LLM, and the floor."""
    headline = run.params.rewrite.headline
    pairs = [("token table", "mean"), ("word list", "mean")]
    floor = "shuffled explanations"
    pairs += [(headline, floor)] if floor in site.estimates else []
    for source, other in pairs:
        named = f"{source}, no LLM," if other == "mean" else source
        claim = f"{named} against " + ("mean ablation" if other == "mean" else f"the {other}")
        cost = f"{_against(run, site, source, other)} nat"
        yield Claim(site.name, claim, "not measured", cost, "beyond the paper")


def _against(run: Run, site: SiteStages, source: str, other: str) -> Estimate:
    """CE of one source minus another's, every described latent replaced."""
    both = (losses_of(site.losses, name, len(site.simulated)) for name in (source, other))
    one, two = (losses[: site.settings.evaluate_windows] for losses in both)
    return _difference(run, one, two)


def _named(run: Run, kind: str) -> str | None:
    """The first calibrator of a kind: the paper's, as the parameters list it."""
    return next((name for name in run.params.rewrite.calibrators if name.startswith(kind)), None)


def _untruncated(source: str) -> str:
    """Said of what is read off the estimates of a calibration whose splice keeps the k largest."""
    return "" if before_topk(source) == source else ", before the top k"


def _alarms(run: Run, site: SiteStages, source: str) -> Estimate:
    """False alarms a true activation, over the simulated latents and the evaluate windows."""
    active = site.true("evaluate") > 0
    table = sensitivity_specificity({site.name: site}, [source]).set_index("latent")
    silent = (~active).sum(0) * (1 - table.loc[site.simulated, "specificity"].fillna(0))
    return stats.ratio(
        silent.to_numpy(), active.sum(0).astype(float), unit="latent", seed=run.params.seed
    )


def _difference(
    run: Run, one: Float[ndarray, " window"], other: Float[ndarray, " window"]
) -> Estimate:
    """Mean of the paired differences, with its interval over windows."""
    asked = run.params
    return stats.bootstrap(
        one - other, unit="window", seed=asked.seed, resamples=asked.rewrite.bootstrap
    )


def _over_latents(run: Run, values: Float[ndarray, " latent"]) -> Estimate:
    return stats.bootstrap(values, unit="latent", seed=run.params.seed)


def _percent(found: Estimate) -> str:
    ends = f"[{found.low:+.1%}, {found.high:+.1%}]"
    return f"{found.value:+.1%} {ends} ({found.counted})"


def _sign(found: Estimate, sign: int) -> str:
    if not found.excludes_zero:
        return "not resolved"
    return "agrees" if found.value * sign > 0 else "disagrees"


def _no_better(found: Estimate) -> str:
    if found.high < 0:
        return "disagrees"
    return "agrees" if found.low > 0 else "not resolved"

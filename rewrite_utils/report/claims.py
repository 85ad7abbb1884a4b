"""Each claim of the paper with its number, ours with an interval, and what comparing them says.

In: one record of tables and arrays a site. Out: one row a claim: ours goes in the same direction,
in the opposite one, or is not resolved (the interval holds both). Numbers from another subject and
another size are compared by direction, never by value. Paper §2, §5–7; its numbers as method.md
lists them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from rewrite_utils import calibrate, stats
from rewrite_utils.calibrate import Target
from rewrite_utils.latents.windows import shared_rows
from rewrite_utils.report.studies import PAPER_SILENT_TO_ACTIVE, read_windows
from rewrite_utils.report.tables import interval
from rewrite_utils.rewrite.arms import before_topk
from rewrite_utils.rewrite.equivalence import Equivalence
from rewrite_utils.rewrite.measure import losses_of
from rewrite_utils.stats import Estimate

COSTS = {"mlp": "+10 %", "resid": "+33 %"}
CHECKPOINT = {"mlp": "≈ 25 % of training", "resid": "< 10 % of training"}
"""What the paper says of its transcoder and of its SAE."""
OURS = {"mean": "beats mean ablation", "token table": "beats the token table"}
"""The claim that the README puts to the test, by what it is compared with."""
FLOOR = "shuffled explanations"
SAME, OPPOSITE = "same direction", "opposite direction"
"""Verdicts on a claim of the paper."""
SHOWN = {SAME: "shown", OPPOSITE: "refuted"}
"""The same of a claim of ours, which no paper has a number for."""


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
    """same direction, opposite direction, not resolved, not measured, not compared, or beyond the
    paper; of our own claim: shown, refuted, or not resolved."""


@dataclass(frozen=True)
class Found:
    """What the claims about one site are judged on."""

    site: str
    """Its name."""
    kind: str
    """Of its hookpoint: mlp (the paper's transcoder) or resid (its SAE)."""
    calibrators: Sequence[str]
    """As the parameters list them; the first raw and the first quantile are the paper's."""
    headline: str
    """The calibration declared before the run."""
    losses: pd.DataFrame
    """One row a (window, arm)."""
    true: Float[ndarray, "window latent"]
    """True activations at the simulated evaluate windows, which are the first of all."""
    estimates: Mapping[str, Float[ndarray, "window latent"]]
    """Of each calibration there, before any TopK."""
    target: Target
    """True activations at every token of the calibrate rows."""
    rates: pd.DataFrame
    """Sensitivity and specificity of each (latent, calibration)."""
    fewer: pd.DataFrame
    """Losses of calibrations fitted on few and on all calibrate windows, as their names say."""
    even: Estimate
    """False alarms a true activation at which a rewrite with TopK costs what mean ablation does."""
    checkpoint: Equivalence | None
    """Where on the training curve the coder stands; None without checkpoints."""
    seed: int
    """Of the intervals."""
    resamples: int
    """Bootstrap resamples of an interval over windows."""
    rows: Int[ndarray, " window"] | None = None
    """The row of each evaluate window where some rows have several, to be resampled instead."""

    def drawn(self, count: int) -> dict[str, Any]:
        """What an interval over the first so many windows resamples."""
        units = None if self.rows is None else shared_rows(self.rows[:count])
        unit = "window" if units is None else "row"
        return {"unit": unit, "units": units, "seed": self.seed, "resamples": self.resamples}

    def loss(self, source: str, *, column: str = "loss") -> Float[ndarray, " window"]:
        """One source with every described latent replaced, at all windows it was measured on."""
        whole = self.losses[(self.losses["source"] == source) & (self.losses["order"] == "all")]
        return losses_of(self.losses, source, int(whole["count"].max()), column=column)

    def difference(
        self, one: Float[ndarray, " window"], other: Float[ndarray, " window"]
    ) -> Estimate:
        """Mean of the paired differences, with its interval over windows."""
        return stats.bootstrap(one - other, **self.drawn(len(one)))

    def against(self, source: str, other: str) -> Estimate:
        """CE of one source minus another's, on the simulated windows."""
        return self.difference(*(self.loss(name)[: len(self.true)] for name in (source, other)))

    def over_latents(self, values: Float[ndarray, " latent"]) -> Estimate:
        """Mean with its interval over latents."""
        return stats.bootstrap(values, unit="latent", seed=self.seed)

    def first(self, kind: str) -> str | None:
        """The first calibrator of a kind: the paper's."""
        return next((name for name in self.calibrators if name.startswith(kind)), None)


def claimed(found: Found) -> list[Claim]:
    """Every claim at one site, in the order of the paper."""
    parts = [_coder, _checkpoint, _distributions, _rewrites, _fewer, _rates]
    parts += [_needed, _ours, _beyond]
    return [Claim(found.site, *told) for part in parts for told in part(found)]


def table(found: Sequence[Found]) -> pd.DataFrame:
    """Every claim at every site."""
    rows = [claim for one in found for claim in claimed(one)]
    return pd.DataFrame(rows, columns=list(Claim._fields))


def headline(table: pd.DataFrame) -> str:
    """How many claims came out which way."""
    counts = table["verdict"].value_counts()
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


Told = Iterator[tuple[str, str, str, str]]  # claim, the paper's number, ours, verdict


def _coder(found: Found) -> Told:
    """Without an LLM, so on all control windows."""
    base, coder = found.loss("coder", column="base_loss"), found.loss("coder")
    settings = found.drawn(len(base))
    own = stats.bootstrap(base, **settings)
    yield "loss of the untouched model", "3.19 ± 0.09 nat (Pythia)", f"{own} nat", "not compared"
    costs, share = found.difference(coder, base), stats.ratio(coder - base, base, **settings)
    ours = f"{costs} nat: {_percent(share)}"
    yield "the coder costs cross-entropy", COSTS[found.kind], ours, _sign(costs, +1)
    room, claim = found.difference(found.loss("mean"), coder), "ablating the latents costs more"
    yield f"{claim} than the coder", "≈ +0.29 nat", f"{room} nat", _sign(room, +1)


def _checkpoint(found: Found) -> Told:
    """The coder as good as an unfinished model: surely before the last step, or surely not."""
    claim, at = "the coder is as good as an unfinished checkpoint", found.checkpoint
    ours, verdict = "this subject has no checkpoints", "not measured"
    if at is not None:
        ours = f"{at.answer} (n = {at.windows} windows)"
        verdict = _which(at.high < at.final, at.low >= at.final)
    yield claim, CHECKPOINT[found.kind], ours, verdict


def _distributions(found: Found) -> Told:
    """Figure 1: distances of predicted and true distributions, in means of each latent; of the
    estimates themselves, before any TopK."""
    raw, matched, target = found.first("raw"), found.first("quantile"), found.target
    if not (raw and matched):
        return
    alive = target.mean > 0
    distances = (
        calibrate.mismatch(found.true, found.estimates[source], target.maximum).wasserstein
        for source in (raw, matched)
    )
    before, after = (distance[alive] / target.mean[alive] for distance in distances)
    change = found.over_latents(after - before)
    claim = f"{matched} brings the distributions together (Wasserstein / mean activation)"
    ours = f"{change}, from {before.mean():.1f}{_untruncated(matched)}"
    yield claim, "figure 1, no number", ours, _sign(change, -1)


def _rewrites(found: Found) -> Told:
    """Every described latent replaced, on the simulated windows."""
    for source in found.calibrators:
        cost = found.against(source, "mean")
        claim = f"rewriting with {source} is no better than mean ablation"
        yield claim, "no better", f"{cost} nat", _which(cost.low > 0, cost.high < 0)
    raw, matched = found.first("raw"), found.first("quantile")
    if raw:
        cost = found.against(raw, "zero")
        claim = "without normalisation the rewrite is worse than zeroing the latents"
        yield claim, "+3.4 against +0.31 nat", f"{cost} nat", _sign(cost, +1)
    if raw and matched:
        gain, claim = found.against(matched, raw), "normalisation makes the rewrite cheaper"
        yield claim, "≈ ablation against +3.4 nat", f"{gain} nat", _sign(gain, -1)


def _fewer(found: Found) -> Told:
    """Figure A2: few calibrate windows against all of them."""
    matched, every = found.first("quantile"), int(found.fewer["count"].max())
    counts = {read_windows(name).get("n") for name in found.fewer["source"]} - {None}
    few, most = min(counts), max(counts)
    if not matched:
        return
    names = (f"{count} windows: {matched}" for count in (few, most))
    cost = found.difference(*(losses_of(found.fewer, name, every) for name in names))
    ours = f"{cost} nat, {few} against {most} calibrate windows"
    claim = f"{matched} fitted on fewer windows costs more"
    yield claim, "1K clearly worse than 10K", ours, _sign(cost, +1)


def _rates(found: Found) -> Told:
    """Figure 4, over the simulated latents; of the estimates themselves, before any TopK."""
    raw, matched = found.first("raw"), found.first("quantile")
    if raw:
        own = found.rates[found.rates["source"] == raw]
        before = found.over_latents(own["specificity"].dropna().to_numpy())
        claim, said = "specificity before normalisation is too low", "≈ 80 %; 99.9 % needed"
        yield claim, said, _percent(before), _which(before.high < 0.999, before.low >= 0.999)
        claim = "false alarms a true activation before normalisation"
        said = "≈ 200 (6,000 of 32,768 latents, 32 true)"
        active = found.true > 0
        silent = (~active).sum(0) * (1 - own["specificity"].fillna(0).to_numpy())
        each = stats.ratio(silent, active.sum(0) * 1.0, unit="latent", seed=found.seed)
        yield claim, said, str(each), "not compared"
    for rate, sign in (("specificity", +1), ("sensitivity", -1)) if raw and matched else ():
        wide = found.rates.pivot(index="latent", columns="source", values=rate)
        change = (wide[matched] - wide[raw]).dropna().to_numpy()
        if len(change) > 1:
            mean = found.over_latents(change)
            claim = f"{rate} {'rises' if sign > 0 else 'drops'} with {matched}"
            ours = _percent(mean) + _untruncated(matched)
            yield claim, "high afterwards" if sign > 0 else "drops", ours, _sign(mean, sign)
    if matched:
        yield from _better_scored(found, matched)


def _better_scored(found: Found, source: str) -> Told:
    """Are better-scored latents better in both rates?"""
    for rate in ("specificity", "sensitivity"):
        kept = found.rates[found.rates["source"] == source].dropna(subset=["f1", rate])
        if len(kept) < 3:
            continue
        pair = kept[["f1", rate]].to_numpy().T
        rank = stats.rank_correlation(*pair, unit="latent", seed=found.seed)
        claim = f"better-scored latents have higher {rate} ({source}; rank correlation with F1)"
        verdict = _sign(rank, +1) if np.isfinite(rank.value) else "not resolved"
        yield claim, "figure 4: both rise", f"{rank}{_untruncated(source)}", verdict


def _needed(found: Found) -> Told:
    """Break-even of true activations with synthetic alarms, TopK afterwards as in the paper."""
    even, ten = found.even, 0.01 * PAPER_SILENT_TO_ACTIVE
    value, high, low = (1 - alarms / PAPER_SILENT_TO_ACTIVE for alarms in even[:3])
    ours = (
        f"{interval(even, '.2f')} alarms a true activation, extrapolated to 32 of 32,768 latents "
        f"{interval((value, low, high), '.2%')} (n = {even.n} {even.unit}s)"
    )
    verdict = _which(even.high < ten, even.low > ten)
    yield "a specificity of 99 % is not enough to beat ablation", "99.9 % needed", ours, verdict


def _ours(found: Found) -> Told:
    """What this repository sets out to show, of the calibration declared before the run."""
    for other, said in OURS.items():
        cost, claim = found.against(found.headline, other), f"our claim: {found.headline} {said}"
        verdict = _sign(cost, -1)
        yield claim, "not measured", f"{cost} nat", SHOWN.get(verdict, verdict)


def _beyond(found: Found) -> Told:
    """What the paper did not measure: the two rewrites without an LLM, and the floor."""
    free = "token table", "word list"
    pairs = {f"{name}, no LLM, against mean ablation": (name, "mean") for name in free}
    if FLOOR in found.losses["source"].unique():
        pairs[f"{found.headline} against the {FLOOR}"] = (found.headline, FLOOR)
    for claim, pair in pairs.items():
        yield claim, "not measured", f"{found.against(*pair)} nat", "beyond the paper"


def _untruncated(source: str) -> str:
    """Said of what is read off the estimates of a calibration whose splice keeps the k largest."""
    return "" if before_topk(source) == source else ", before the top k"


def _percent(found: Estimate) -> str:
    return f"{interval(found, '+.1%')} ({found.counted})"


def _sign(found: Estimate, sign: int) -> str:
    same = found.value * sign > 0
    return _which(found.excludes_zero and same, found.excludes_zero)


def _which(same: bool, opposite: bool) -> str:
    """The verdict of an interval that lies wholly on one side, or on neither."""
    return SAME if same else OPPOSITE if opposite else "not resolved"

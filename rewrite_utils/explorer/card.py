"""One latent on one card: what it does, what is said of it, and how far the two agree.

In: records of one latent. Out: Html whose every activation is on one scale. A comparison shows the
old sentence beside the new one.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from rewrite_utils.explain.logits import Promoted, caveat
from rewrite_utils.explorer import marks, scatter
from rewrite_utils.explorer.scores import Scored
from rewrite_utils.explorer.windows import Kind
from rewrite_utils.report.display import SMALL, Html, token, visible
from rewrite_utils.stats import Estimate

ARM_NAMES = {
    "truth": "truth (coder as it is)",
    "sentence": "this sentence",
    "another's sentence": "another latent's sentence (floor)",
    "token table": "token table (no LLM)",
    "mean": "mean",
    "zero": "zero",
}
LEAD = 160
"""Characters of a description that are shown unfolded."""
FEW = 5
"""Firing windows below which an AUROC's interval is known to be too narrow (rates.auroc)."""


class Reading(NamedTuple):
    """One sentence of one latent, and what came of it."""

    latent: int
    """Index in the coder."""
    sentence: str
    """What the simulator read."""
    origin: str
    """Who wrote it: explainer or curated."""
    rated: pd.DataFrame
    """One row a rated window: split (the calibrator was fitted on "calibrate"), row and end there,
    true activation, the simulator's E (expected, 0 … 9), and predicted in the unit of the truth."""
    scores: list[Scored]
    """How good that is."""
    errors: dict[str, Kind]
    """The worst windows of each kind of error (``windows.errors``)."""
    alone: pd.DataFrame
    """What each arm costs the model (``stage.verdict``)."""


class Known(NamedTuple):
    """What a latent does, whatever is said of it; all on the explain rows."""

    title: str
    """Site, hookpoint, latent, and of how many."""
    tokens: int
    """Tokens of the explain rows."""
    firings: Float[ndarray, " firing"]
    """Activation at each token where it fires."""
    maximum: float
    """The largest of them, the scale of everything that is drawn; 0 if there is none."""
    share: float
    """Of the variance that all latents write, each counted alone."""
    windows: dict[str, Kind]
    """Top, quantile and random windows (``windows.of_text``)."""
    promoted: Promoted
    """What its direction does to the logits."""
    above: int
    """Layers above the hookpoint, which the logits leave out."""
    near: dict[str, list[tuple[int, float, str]]]
    """Nearest latents by two measures: index, value, sentence."""


def card(known: Known, reading: Reading | None, described: str, missing: str) -> Html:
    """The whole card; ``reading`` is what came of a simulated sentence, if there is one, and
    ``described`` what is said of the latent besides."""
    head = [f'<div style="font-size: 115%"><b>{visible(known.title)}</b></div>']
    if reading:
        head.append(_said(reading))
    if described and not (reading and described == reading.sentence):
        head.append(_described(described))
    if missing:
        head.append(marks.note(missing))
    if not reading:
        head.append(marks.note("its sentence was not simulated"))
    judged = _judged(reading) if reading else []
    errors = marks.kinds(reading.errors, maximum=known.maximum, nothing="none") if reading else ""
    parts = [
        *head,
        marks.columns([*judged[:1], _firing(known), *judged[1:]]),
        marks.section("Windows", marks.legend(known.maximum)),
        errors,
        marks.kinds(known.windows, maximum=known.maximum, nothing="none: it never fires"),
        marks.columns([_logits(known), _near(known)], even=True),
    ]
    return Html(marks.whole(parts), line(known, reading, described))


def line(known: Known, reading: Reading | None, described: str) -> str:
    """The card as one line of text."""
    if reading is None:
        return f"{known.title}: {described or 'nothing is said of it'!r}; not simulated"
    rating, arms = reading.scores[0], reading.alone.set_index("arm")["over_truth"]
    return (
        f"{known.title}: {reading.sentence!r}; rating AUROC "
        f"{marks.within(rating.found, 2)} (windows {rating.n}); "
        f"CE over truth {arms.get('sentence', 'not measured')}, nats"
    )


def _judged(reading: Reading) -> list[str]:
    return [_scores(reading), _curve(reading, scatter.end(reading.rated)), _alone(reading)]


def _described(text: str) -> str:
    """What a reader reads: long, so it is folded."""
    said = visible(text)
    if len(text) > LEAD:
        head = f"<summary>{visible(text[:LEAD])} …</summary>"
        said = f"<details>{head}{said}</details>"
    return f'<div style="max-width: 90em; overflow-wrap: anywhere">described: {said}</div>'


def _said(reading: Reading) -> str:
    return (
        f'<div style="max-width: 90em; margin: 2px 0">“{visible(reading.sentence)}” '
        f'<span style="{SMALL}">({visible(reading.origin)})</span></div>'
    )


def _scores(reading: Reading) -> str:
    header = ["score, windows", "value", "0 … 1, right is better, grey: floor", "floor"]
    table = marks.rows(header, map(_score, reading.scores))
    if few := dict.fromkeys(str(one.n) for one in reading.scores if one.firing < FEW):
        warning = marks.note(
            f"fewer than {FEW} firing windows ({', '.join(few)}): such an interval is "
            "too narrow, it cannot know the windows that were not drawn"
        )
        table += marks.slim(warning, width=560)
    return marks.section("Scores", table, remark="95 % over windows, firing + silent ones")


def _score(one: Scored) -> list[str]:
    drawn = marks.interval(one.found, ends=(0.0, 1.0), floor=one.floor)
    why = f"<span style='{SMALL}; white-space: normal'>{visible(one.floor_name)}</span>"
    floor = f"{marks.number(one.floor, 2)} {why}"
    name = f"{visible(one.name)} <span style='{SMALL}'>{one.n}</span>"
    return [name, marks.within(one.found, 2), drawn, floor]


def _firing(known: Known) -> str:
    firings, rate = known.firings, len(known.firings) / known.tokens
    said = f"1 token in {1 / rate:,.0f}" if rate else "never"
    mean = marks.number(float(firings.mean()) if rate else float("nan"), 2)
    text = (
        f"fires on {said} ({rate:.2%} of {known.tokens:,}), then {mean} on average; carries "
        f"{known.share:.1%} of the variance that the latents write, each counted alone"
    )
    body = marks.note(text) + marks.histogram(firings, maximum=known.maximum)
    return marks.slim(marks.section("Firing", body, remark="explain rows"), width=230)


def _curve(reading: Reading, end: float) -> str:
    held = int((reading.rated["split"] == "evaluate").sum())
    words = f"→ predicted, ↑ true, both 0 … {end:.2f}, the largest here; dots: the diagonal"
    remark = (
        f"blue: {held} evaluate windows, orange: means of {scatter.BINS} bins of them, grey: "
        f"{len(reading.rated) - held} it was fitted on"
    )
    body = scatter.calibration(reading.rated, end=end) + marks.note(words)
    return marks.slim(marks.section("Predicted and true", body, remark=remark), width=320)


def _alone(reading: Reading) -> str:
    lines = [
        (name, over)
        for arm, name in ARM_NAMES.items()
        for over in reading.alone.loc[reading.alone["arm"] == arm, "over_truth"]
    ]
    reach = max(np.nanmax(np.abs(over[:3])) for _, over in lines) or 1.0
    body = [_arm(name, over, reach) for name, over in lines]
    truth = reading.alone["delta"].iloc[0]
    header = ["in its place", "CE − CE with the truth", f"±{reach:.3f}, left is better, grey: 0"]
    remark = f"nats, {truth.n} evaluate windows, 95 % over windows; all other latents true"
    costs = marks.within(truth, sign=True)
    base = marks.note(f"the coder as it is costs {costs} nats over the untouched model")
    return marks.section("This latent alone", marks.rows(header, body) + base, remark=remark)


def _arm(name: str, over: Estimate, reach: float) -> list[str]:
    drawn = marks.interval(over, ends=(-reach, reach), floor=0.0)
    said = marks.within(over, sign=True)
    return [visible(name), "0 by definition" if name == ARM_NAMES["truth"] else said, drawn]


def _logits(known: Known) -> str:
    body = "".join(
        f"<div>{name}: "
        + ", ".join(f'<code title="{value:+.2f}">{token(text)}</code>' for text, value in tokens)
        + "</div>"
        for name, tokens in zip(("raises", "lowers"), known.promoted, strict=True)
    )
    said = f"hover: standard deviations over the vocabulary; {caveat(known.above)}"
    return marks.section("Logits", body + marks.note(said))


def _near(known: Known) -> str:
    body = ""
    for name, near in known.near.items():
        body += f"<div>{name}</div>"
        for latent, value, sentence in near:
            short = sentence if len(sentence) < 60 else sentence[:58] + "…"
            said = f"<span style='{SMALL}'>{visible(short)}</span>"
            body += f'<div style="margin: 0 0 0 12px"><b>{latent}</b> {value:.2f} {said}</div>'
    return marks.section("Nearest latents", body)

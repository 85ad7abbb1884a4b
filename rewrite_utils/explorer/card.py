"""One latent on one card: what it does, what is said of it, and how far the two agree.

In: a Shelf and a Reading of one latent. Out: Html whose every activation is on one scale. A card of
two readings shows the old sentence beside the new one.
"""

from collections.abc import Sequence

import numpy as np

from rewrite_utils import stats
from rewrite_utils.explain import logits
from rewrite_utils.explorer import curve, marks, peaks, scores, windows
from rewrite_utils.explorer.peaks import Kinds
from rewrite_utils.explorer.scores import Scored
from rewrite_utils.explorer.shelf import Reading, Shelf
from rewrite_utils.latents import neighbours
from rewrite_utils.report.display import Html, token
from rewrite_utils.stats import Estimate

ARM_NAMES = {
    "truth": "truth (coder as it is)",
    "sentence": "this sentence",
    "another's sentence": "another latent's sentence (floor)",
    "token table": "token table (no LLM)",
    "mean": "mean",
    "zero": "zero",
}
FEW = 5
"""Firing windows below which an AUROC's interval is known to be too narrow (stats.auroc)."""


def card(shelf: Shelf, reading: Reading, shown: Kinds | None = None) -> Html:
    """The whole card; ``shown``: its windows of text, if something was predicted in them."""
    scale, found = maximum(shelf, reading.latent), scores.scored(shelf, reading)
    measured = [
        _scores([reading], [found]),
        _firing(shelf, reading.latent),
        _curve(reading, curve.end(reading.rated)),
        _alone([reading]),
    ]
    parts = [
        _head(shelf, reading),
        marks.columns(measured),
        marks.section("Windows", marks.legend(scale)),
        _rated(shelf, reading),
        _text(shelf, reading.latent, shown or peaks.of(shelf, reading.latent)),
        marks.columns([_logits(shelf, reading.latent), _near(shelf, reading.latent)], even=True),
    ]
    return Html(
        f'<div style="line-height: 1.4">{"".join(parts)}</div>', line(shelf, reading, found[0])
    )


def comparison(shelf: Shelf, old: Reading, new: Reading) -> Html:
    """The old sentence beside the new one, on the same windows."""
    scale, end = maximum(shelf, old.latent), curve.end(old.rated, new.rated)
    both = [old, new]
    found = [scores.scored(shelf, reading) for reading in both]
    named = marks.columns([_said(reading) for reading in both], even=True)
    curves = marks.columns([_curve(one, end, name=one.origin) for one in both])
    rated = marks.columns([_rated(shelf, one, each=2) for one in both], even=True)
    costs = _alone(both) + marks.note(gain(shelf, old, new))
    parts = [named, _scores(both, found), costs, curves, marks.legend(scale), rated]
    pairs = zip(both, found, strict=True)
    text = "\n".join(line(shelf, reading, scored[0]) for reading, scored in pairs)
    return Html(f'<div style="line-height: 1.4">{"".join(parts)}</div>', text)


def gain(shelf: Shelf, old: Reading, new: Reading) -> str:
    """What the new sentence costs more than the old one, window by window."""
    options = {"seed": shelf.site.params.seed, "resamples": shelf.site.params.rewrite.bootstrap}
    found = stats.bootstrap(new.losses - old.losses, unit="evaluate window", **options)
    return f"CE {new.origin} − {old.origin}: {found}, nats, paired"


def line(shelf: Shelf, reading: Reading, rating: Scored) -> str:
    """The card as one line of text."""
    value, low, high = (marks.number(x, 2) for x in (rating.value, rating.low, rating.high))
    return (
        f"{shelf.site.name}, latent {reading.latent}: {reading.sentence!r}; rating AUROC "
        f"{value} [{low}, {high}] (windows {rating.n}); "
        f"CE over truth {_over(reading, 'sentence')}, nats"
    )


def maximum(shelf: Shelf, latent: int) -> float:
    """The scale of a latent's card: its largest activation on the explain rows."""
    return float(shelf.cache.maximum[latent])


def _head(shelf: Shelf, reading: Reading) -> str:
    site = shelf.site
    what = (
        f"{site.name} · {site.hookpoint.name} · latent {reading.latent} of {shelf.cache.n_latents}"
    )
    return f'<div style="font-size: 115%"><b>{marks.visible(what)}</b></div>{_said(reading)}'


def _said(reading: Reading) -> str:
    return (
        f'<div style="max-width: 90em; margin: 2px 0">“{marks.visible(reading.sentence)}” '
        f'<span style="{marks.SMALL}">({marks.visible(reading.origin)})</span></div>'
    )


def _scores(readings: Sequence[Reading], found: Sequence[list[Scored]]) -> str:
    pairs = [(one, who) for who, scored in zip(readings, found, strict=True) for one in scored]
    names = [one.name for one, _ in pairs]
    pairs.sort(key=lambda pair: names.index(pair[0].name))  # the old beside the new
    body = [_score(one, who.origin if len(readings) > 1 else "") for one, who in pairs]
    header = ["score", "value", "0 … 1, grey: floor", "floor", "firing + silent"]
    few = [str(one.n) for one, _ in pairs if one.firing < FEW]
    warning = marks.note(
        f"fewer than {FEW} firing windows ({', '.join(dict.fromkeys(few))}): such an interval is "
        "too narrow, it cannot know the windows that were not drawn"
    )
    parts = marks.rows(header, body) + (marks.slim(warning, width=560) if few else "")
    return marks.section("Scores", parts, remark="95 % over windows, of which so many fire")


def _score(one: Scored, origin: str) -> list[str]:
    value, low, high = (marks.number(x, 2) for x in (one.value, one.low, one.high))
    drawn = marks.interval(one.value, one.low, one.high, ends=(0.0, 1.0), floor=one.floor)
    why = f"<span style='{marks.SMALL}; white-space: normal'>{marks.visible(one.floor_name)}</span>"
    name = f"{one.name}, {origin}" if origin else one.name
    floor = f"{marks.number(one.floor, 2)} {why}"
    return [marks.visible(name), f"{value} [{low}, {high}]", drawn, floor, one.n]


def _firing(shelf: Shelf, latent: int) -> str:
    cache = shelf.cache
    rate, firings = float(cache.rate[latent]), cache.of(latent).values
    mean = float(firings.mean()) if len(firings) else float("nan")
    said = f"1 token in {1 / rate:,.0f}" if rate else "never"
    share = f"{rate:.2%} of {cache.n_tokens:,}"
    energy = shelf.site.energy
    carried = f"{energy[latent] / max(float(energy.sum()), 1e-12):.1%}"
    text = (
        f"fires on {said} ({share}), then {marks.number(mean, 2)} on average; carries {carried} of "
        "the variance that the latents write, each counted alone"
    )
    body = marks.note(text) + marks.histogram(firings, maximum=maximum(shelf, latent))
    return marks.slim(marks.section("Firing", body, remark="explain rows"), width=230)


def _alone(readings: Sequence[Reading]) -> str:
    arms = zip(*(reading.alone.itertuples() for reading in readings), strict=True)
    lines = [
        (arm.arm, name, arm.over_truth)
        for same in arms
        for arm, reading in zip(same, readings, strict=True)
        if (name := _arm_name(arm.arm, reading, readings))
    ]
    reach = max((abs(x) for *_, over in lines for x in over[1:3]), default=0.0) or 1.0
    body = [_arm(arm, name, over, reach) for arm, name, over in lines]
    truth = readings[0].alone.iloc[0]["delta"]
    header = ["in its place", "CE − CE with the truth", f"±{reach:.3f}, grey: 0"]
    remark = f"nats, {truth.n} evaluate windows, 95 % over windows; all other latents true"
    base = marks.note(f"the coder as it is costs {_interval(truth)} nats over the untouched model")
    return marks.section("This latent alone", marks.rows(header, body) + base, remark=remark)


def _arm_name(arm: str, reading: Reading, readings: Sequence[Reading]) -> str:
    """The arm's label; in a comparison only the sentence's arm belongs to the second reading."""
    if len(readings) == 1:
        return ARM_NAMES[arm]
    if arm == "sentence":
        return f"sentence, {reading.origin}"
    return ARM_NAMES[arm] if reading is readings[0] else ""


def _arm(arm: str, name: str, over: Estimate, reach: float) -> list[str]:
    said = "0 by definition" if arm == "truth" else _interval(over)
    drawn = marks.interval(over.value, over.low, over.high, ends=(-reach, reach), floor=0.0)
    return [marks.visible(name), said, drawn]


def _curve(reading: Reading, end: float, *, name: str = "") -> str:
    held = int((reading.rated.split == "evaluate").sum())
    fitted = len(reading.rated.split) - held
    words = f"→ predicted, ↑ true, both 0 … {end:.2f}, the largest here; dots: the diagonal"
    body = curve.calibration(reading.rated, end=end) + marks.note(words)
    remark = (
        f"blue: {held} evaluate windows, orange: means of {curve.BINS} bins of them, grey: "
        f"{fitted} it was fitted on"
    )
    title = f"Predicted and true, {name}" if name else "Predicted and true"
    return marks.slim(marks.section(title, body, remark=remark), width=320)


def _rated(shelf: Shelf, reading: Reading, *, each: int = windows.EACH) -> str:
    scale, parts = maximum(shelf, reading.latent), []
    for kind, chosen in windows.errors(reading.rated).items():
        shown = windows.of_ratings(shelf, reading.latent, reading.rated, chosen[:each])
        body = marks.strips(shown, maximum=scale, nothing="none")
        remark = f"{len(shown)} of {len(chosen)} windows" if shown else ""
        parts.append(marks.section(kind.capitalize(), body, remark=remark))
    return "".join(parts)


def _text(shelf: Shelf, latent: int, kinds: Kinds) -> str:
    scale, parts = maximum(shelf, latent), []
    firing = f"of {windows.firing(shelf, latent):,} windows in which it fires"
    for kind, shown in kinds.items():
        body = marks.strips(shown, maximum=scale, nothing="none: it never fires")
        drawn = "anywhere" if kind == "random" else firing
        remark = f"explain rows, {len(shown)} {drawn}"
        parts.append(marks.section(kind.capitalize(), body, remark=remark))
    return "".join(parts)


def _logits(shelf: Shelf, latent: int) -> str:
    found = logits.promoted(shelf.site.subject, shelf.site.coder, latent)
    body = "".join(
        f"<div>{name}: {', '.join(_token(text, value) for text, value in tokens)}</div>"
        for name, tokens in (("raises", found.raised), ("lowers", found.lowered))
    )
    above = shelf.site.subject.n_layers - 1 - shelf.site.hookpoint.layer
    caveat = marks.note(f"hover: standard deviations over the vocabulary; {logits.caveat(above)}")
    return marks.section("Logits", body + caveat)


def _token(text: str, value: float) -> str:
    return f'<code title="{value:+.2f}">{token(text)}</code>'


def _near(shelf: Shelf, latent: int) -> str:
    body = "".join(
        f"<div>{name}</div>" + "".join(_neighbour(shelf, *one) for one in near)
        for name, near in (
            ("by decoder cosine", _nearest(neighbours.cosines(shelf.site.coder, latent), latent)),
            ("by firing on the same tokens (Jaccard)",
             _nearest(neighbours.cofiring(shelf.cache, latent), latent)),
        )
    )  # fmt: skip
    return marks.section("Nearest latents", body)


def _nearest(values: np.ndarray, latent: int) -> list[tuple[int, float]]:
    return neighbours.nearest(values, latent, count=4)


def _neighbour(shelf: Shelf, latent: int, value: float) -> str:
    sentence = shelf.site.sentences.get(latent, "no sentence")
    short = sentence if len(sentence) < 60 else sentence[:58] + "…"
    said = f"<span style='{marks.SMALL}'>{marks.visible(short)}</span>"
    return f'<div style="margin: 0 0 0 12px"><b>{latent}</b> {value:.2f} {said}</div>'


def _over(reading: Reading, arm: str) -> str:
    rows = reading.alone[reading.alone["arm"] == arm]
    return str(rows["over_truth"].iloc[0]) if len(rows) else "not measured"


def _interval(found: Estimate) -> str:
    value, low, high = (marks.number(x, sign=True) for x in found[:3])
    return f"{value} [{low}, {high}]"

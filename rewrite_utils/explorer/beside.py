"""An edited description beside the run's own: the same windows, the same tokens, one table.

In: what a latent does and one or two judged descriptions of it. Out: Html in which every number
says which side is better, with its interval.
"""

from collections.abc import Mapping, Sequence

from rewrite_utils.explorer import marks, scatter
from rewrite_utils.explorer.card import Known
from rewrite_utils.explorer.prediction import Judged, Spell
from rewrite_utils.report.display import SMALL, Html, token
from rewrite_utils.stats import Estimate

CARRIED = 12
"""Words that are shown with what they carry."""


def beside(known: Known, judged: Sequence[Judged], *, spell: Spell) -> Html:
    """The run's description, and the edited one if there is one."""
    names = ["the run's", "yours"][: len(judged)]
    end = scatter.end(*(one.tokens for one in judged))
    pairs = list(zip(names, judged, strict=True))
    cells = [_read(known, name, one, end, spell) for name, one in pairs]
    parts = [_numbers(pairs), marks.columns(cells, even=True)]
    text = "; ".join(f"{name}: R² {one.r2}, AUROC {one.auroc}" for name, one in pairs)
    return Html(marks.whole(parts), text)


def _read(known: Known, name: str, judged: Judged, end: float, spell: Spell) -> str:
    """The calibration curve of a description, and its latent's windows as it reads them."""
    read = {
        kind: one._replace(shown=[window.read(judged.said, spell) for window in one.shown])
        for kind, one in known.windows.items()
    }
    curve = marks.slim(_curve(judged, end), width=320)
    strips = marks.kinds(read, maximum=known.maximum, nothing="none: it never fires")
    title = f"Read from {'your' if name == 'yours' else name} description"
    return marks.section(title, curve + strips)


def _numbers(pairs: Sequence[tuple[str, Judged]]) -> str:
    body = []
    for label, better, field, ends in (
        ("R²", "right is better", "r2", (0.0, 1.0)),
        ("AUROC", "right is better", "auroc", (0.5, 1.0)),
        ("CE over its truth, estimated", "left is better", "cost", None),
    ):
        found = [getattr(one, field) for _, one in pairs]
        reach = ends or (0.0, max([0.001, *(one.high for one in found if one.high == one.high)]))
        body += [
            [
                f"{label}, {name} ({better})",
                marks.within(one),
                marks.interval(one, ends=reach, floor=reach[0]),
            ]
            for (name, _), one in zip(pairs, found, strict=True)
        ]
    rows = pairs[0][1].r2.n
    remark = f"all tokens of {rows} evaluate rows, 95 % over rows; CE: nats, (1 − R²) × its mean’s"
    table = marks.rows(["", "value", ""], body)
    return marks.section("What the description alone predicts", table, remark=remark)


def words(carried: Sequence[tuple[str, float]]) -> Html:
    """The words of a description, by what each carries."""
    if not carried:
        return Html("", "")
    said = ", ".join(
        f'<code>{token(word[:40])}</code> <span style="{SMALL}">{lost:+.3f}</span>'
        for word, lost in carried[:CARRIED]
    )
    more = len(carried) - CARRIED
    idle = sum(abs(lost) < 0.0005 for _, lost in carried)
    remark = f"R² lost without the word; {idle} of {len(carried)} words carry less than 0.0005"
    body = f"<div>{said}{f' … {more} more' * (more > 0)}</div>"
    text = ", ".join(f"{word!r} {lost:+.3f}" for word, lost in carried[:CARRIED])
    return Html(marks.section("Words that carry it", body, remark=remark), text)


def _curve(judged: Judged, end: float) -> str:
    if judged.tokens.empty:
        return marks.note("no token fires and none is said to")
    words = marks.note(f"→ predicted, ↑ true, both 0 … {end:.2f}; {len(judged.tokens)} tokens")
    return scatter.calibration(judged.tokens, end=end) + words


def exact(over: Mapping[str, Estimate], gain: Estimate) -> Html:
    """The measured losses behind the estimate."""
    body = [[name, marks.within(found, sign=True)] for name, found in over.items()]
    title = f"CE measured: {gain.n} evaluate windows, nats, this latent alone; less is better"
    cost = marks.note(f"yours − the run’s, paired: {gain}")
    table = marks.rows(["in its place", "CE − CE with the truth"], body)
    return Html(f"<div>{marks.note(title)}{table}{cost}</div>", str(gain))

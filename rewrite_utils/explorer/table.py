"""All latents of a site as a table that can be sorted and filtered.

In: one row a latent with a sentence (``Shelf.rows``). Out: rows of it, as a frame for code, as text
for a list box, as HTML for a page without a kernel.
"""

import re

import pandas as pd

from rewrite_utils.explorer import marks
from rewrite_utils.report.display import Html, visible

SORTS = {
    "latent": True,
    "rating AUROC": False,
    "detection AUROC": False,
    "firing rate": False,
    "CE sentence − mean": True,
    "share of output": False,
    "sentence": True,
}
"""What can be sorted by, and whether small comes first."""
BOUNDS = {
    "rating": "rating AUROC",
    "detect": "detection AUROC",
    "fires": "firing rate",
    "ce": "CE sentence − mean",
    "share": "share of output",
}
"""What a filter calls the columns of numbers."""
BOUND = re.compile(rf"\b({'|'.join(BOUNDS)})\s*([<>])\s*(-?(?:\d+\.?\d*|\.\d+))(%?),?")
"""One bound in a filter: ``rating > .7``, ``fires<5%``."""
HEADER = "latent  rating  detect  fires on  CE−mean  sentence"


def chosen(table: pd.DataFrame, *, sort: str = "latent", text: str = "") -> pd.DataFrame:
    """The rows inside all bounds in ``text`` whose sentence holds (or number is) the rest of it,
    sorted; a missing number is inside no bound and comes last.

    Raises KeyError naming the columns when there is no column ``sort``.
    """
    if sort not in SORTS:
        raise KeyError(f"cannot sort by {sort!r}; columns: {', '.join(SORTS)}")
    for name, sign, number, percent in BOUND.findall(text.lower()):
        column, limit = table[BOUNDS[name]], float(number) / (100 if percent else 1)
        table = table[column > limit if sign == ">" else column < limit]
    words = BOUND.sub("", text.lower()).strip()
    sentence, number = table["sentence"].str.lower(), table["latent"].astype(str)
    kept = table[sentence.str.contains(words, regex=False) | (number == words)]
    return kept.sort_values([sort, "latent"], ascending=[SORTS[sort], True], na_position="last")


def lines(table: pd.DataFrame) -> list[tuple[str, int]]:
    """(text, latent) of each row, columns aligned, for a list box."""
    return [
        (
            f"{latent:>6}  {_two(rating)}  {_two(detection)}  {rate:>7.2%}  {cost:+.4f}  {said}",
            latent,
        )
        for latent, rating, detection, rate, cost, _, said in table.itertuples(index=False)
    ]


def html(table: pd.DataFrame, *, most: int = 200) -> Html:
    """The table for readers without a kernel, at most so many rows."""
    body = [
        [str(latent), _two(rating), _two(detection), f"{rate:.2%}", f"{cost:+.4f}", f"{share:.1%}",
         f'<span style="white-space: normal">{visible(said)}</span>']
        for latent, rating, detection, rate, cost, share, said
        in table.head(most).itertuples(index=False)
    ]  # fmt: skip
    units = marks.note("CE in nats, this latent alone replaced; share: of what the latents write")
    drawn = marks.rows([visible(name) for name in table.columns], body) + units
    text = "\n".join(line for line, _ in lines(table.head(most)))
    return Html(f'<div style="overflow-x: auto">{drawn}</div>', text)


def _two(value: float) -> str:
    return marks.number(value, 2).rjust(6)

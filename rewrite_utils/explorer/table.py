"""All latents of a site as a table that can be sorted and filtered.

In: one row a latent (``Shelf.rows``). Out: rows of it, as a frame for code, as text for a list box,
as HTML for a page without a kernel.
"""

import re

import pandas as pd

from rewrite_utils.explorer import marks
from rewrite_utils.report.display import Html, visible

BOUNDS = {
    "lost": "lost",
    "won": "won back",
    "stake": "at stake",
    "r2": "R²",
    "fires": "firing rate",
    "share": "share of output",
    "rating": "rating AUROC",
    "detect": "detection AUROC",
    "ce": "CE sentence − mean",
}
"""What a filter calls the columns of numbers."""
SORTS = ("latent", *BOUNDS.values(), "sentence")
"""What can be sorted by; "lost" is the work list."""
SMALL_FIRST = ("latent", "CE sentence − mean", "sentence")
BOUND = re.compile(rf"\b({'|'.join(BOUNDS)})\s*([<>])\s*(-?(?:\d+\.?\d*|\.\d+))(%?),?")
"""One bound in a filter: ``rating > .7``, ``fires<5%``."""
SHOWN = {"R²": 2, "at stake": 4, "won back": 4, "rating AUROC": 2, "CE sentence − mean": 4}
"""The numbers of a line, with their digits, between the firing rate and the description."""
HEADER = "latent  fires on      R²  at stake  won back  rating  CE−mean  description"
LONG = 110
"""Characters of a description in a line."""


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
    if words:
        sentence, number = table["sentence"].str.lower(), table["latent"].astype(str)
        table = table[sentence.str.contains(words, regex=False) | (number == words)]
    return table.sort_values(
        [sort, "latent"], ascending=[sort in SMALL_FIRST, True], na_position="last"
    )


def lines(table: pd.DataFrame) -> list[tuple[str, int]]:
    """(text, latent) of each row, columns aligned, for a list box."""
    widths = [len(name) for name in re.findall(r"\S+(?: \S+)*\s*", HEADER)]
    numbers = [table[name].tolist() for name in ("latent", "firing rate", *SHOWN)]
    found = []
    for said, latent, rate, *rest in zip(table["sentence"], *numbers, strict=True):
        cells = (
            marks.number(one, digits) for one, digits in zip(rest, SHOWN.values(), strict=True)
        )
        texts = [str(latent), f"{rate:.2%}", *cells]
        line = "".join(text.rjust(width - 2) + "  " for text, width in
                       zip(texts, widths, strict=False))  # fmt: skip
        found.append((line + (marks.plain(said, LONG) or "–"), latent))
    return found


def html(table: pd.DataFrame, *, most: int = 200) -> Html:
    """The table for readers without a kernel, at most so many rows."""
    shown = table.head(most)
    columns = {"latent": 0, "firing rate": 4, **SHOWN}
    body = [
        [*(marks.number(float(row[name]), digits) for name, digits in columns.items()),
         f'<span style="white-space: normal">{visible(row["sentence"])}</span>']
        for row in shown.to_dict("records")
    ]  # fmt: skip
    units = marks.note(
        "at stake: CE that this latent’s mean costs alone, nats; won back: R² × that, or as "
        "measured where nothing is read; CE sentence "
        f"− mean: measured, less is better; {len(shown)} of {len(table)} latents"
    )
    drawn = marks.rows([*columns, "description"], body) + units
    text = "\n".join(line for line, _ in lines(shown))
    return Html(f'<div style="overflow-x: auto">{drawn}</div>', text)

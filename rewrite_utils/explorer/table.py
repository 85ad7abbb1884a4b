"""All latents of a site as a table that can be sorted and filtered.

In: a Shelf. Out: one row a latent with a sentence; the frame for code, text rows for a list box,
HTML for a page without a kernel.
"""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from rewrite_utils import stats
from rewrite_utils.explorer import marks
from rewrite_utils.explorer.shelf import Shelf
from rewrite_utils.report.display import Html

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


def frame(shelf: Shelf) -> pd.DataFrame:
    """One row a latent: scores, firing rate, what its sentence costs against its mean, sentence."""
    latents = shelf.latents
    means = shelf.losses.pivot_table(index="latent", columns="arm", values="loss").loc[latents]
    ratings = [_rating(shelf, latent) for latent in latents]
    energy = shelf.site.energy
    return pd.DataFrame(
        {
            "latent": latents,
            "rating AUROC": ratings,
            "detection AUROC": shelf.scores["auroc"].reindex(latents).to_numpy(),
            "firing rate": shelf.cache.rate[latents],
            "CE sentence − mean": (means["sentence"] - means["mean"]).to_numpy(),
            "share of output": energy[latents] / max(float(energy.sum()), 1e-12),
            "sentence": [shelf.site.sentences[latent] for latent in latents],
        }
    )


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
            f"{row[0]:>6}  {_two(row[1])}  {_two(row[2])}  {row[3]:>7.2%}  {row[4]:+.4f}  {row[6]}",
            row[0],
        )
        for row in table.itertuples(index=False, name=None)
    ]


HEADER = "latent  rating  detect  fires on  CE−mean  sentence"


def html(table: pd.DataFrame, *, most: int = 200) -> Html:
    """The table for readers without a kernel, at most so many rows."""
    header = [marks.visible(name) for name in table.columns]
    body = [
        [str(latent), _two(rating), _two(detection), f"{rate:.2%}", f"{cost:+.4f}", f"{share:.1%}",
         f'<span style="white-space: normal">{marks.visible(sentence)}</span>']
        for latent, rating, detection, rate, cost, share, sentence
        in table.head(most).itertuples(index=False, name=None)
    ]  # fmt: skip
    units = marks.note("CE in nats, this latent alone replaced; share: of what the latents write")
    drawn = f'<div style="overflow-x: auto">{marks.rows(header, body)}{units}</div>'
    return Html(drawn, "\n".join(text for text, _ in lines(table.head(most))))


def headline(shelves: Mapping[str, Shelf]) -> str:
    """Sentence against mean with one latent replaced at a time, mean over latents."""
    parts = []
    for name, shelf in shelves.items():
        cost = frame(shelf)["CE sentence − mean"].to_numpy()
        found = stats.bootstrap(cost, unit="latent", seed=shelf.site.params.seed)
        windows = shelf.site.settings.evaluate_windows
        said = f"CE sentence − mean {found} nats, {windows} windows"
        parts.append(f"{name}: one latent alone, {said}")
    return "; ".join(parts)


def _rating(shelf: Shelf, latent: int) -> float:
    place = shelf.place(latent)
    active = np.concatenate([shelf.true[split][:, place] > 0 for split in shelf.ratings])
    expected = np.concatenate([part.expected[:, place] for part in shelf.ratings.values()])
    return stats.auroc_value(active, expected.astype(np.float64))


def _two(value: float) -> str:
    return marks.number(value, 2).rjust(6)

"""Predictions for the windows that the run never rated: the strongest token of each shown window.

In: the top, quantile and random windows of a card, a Simulator. Out: the same windows with the
prediction at that token (at the last one, where the latent is silent), calibrated without centring.
"""

import numpy as np

from rewrite_utils.explorer import windows
from rewrite_utils.explorer.asking import Simulator, Step, calibrated_alone, silent
from rewrite_utils.explorer.shelf import Reading, Shelf
from rewrite_utils.explorer.windows import Shown
from rewrite_utils.simulate import Window
from rewrite_utils.stages import builders

Kinds = dict[str, list[Shown]]
"""Windows by kind: top, quantiles, random."""


def price(simulator: Simulator) -> str:
    """What asking about them costs at most, in words."""
    return simulator.price(3 * windows.EACH)


def predict(
    shelf: Shelf, reading: Reading, shown: Kinds, simulator: Simulator, *, step: Step = silent
) -> Kinds:
    """The same windows, each with one prediction."""
    flat = [(kind, one, _strongest(one)) for kind, some in shown.items() for one in some]
    read_as = [_read_as(shelf, one, at) for _, one, at in flat]
    told = builders.description(shelf.site, reading.latent, reading.sentence)
    ratings = simulator.rate(read_as, [told], step=step)
    predicted = calibrated_alone(shelf.site, [reading.latent], ratings)[:, 0]
    found: Kinds = {kind: [] for kind in shown}
    for (kind, one, at), value in zip(flat, predicted, strict=True):
        guess = np.full(len(one.texts), np.nan)
        guess[at] = value
        note = f"{one.note}, predicted {value:.2f} there"
        found[kind].append(one._replace(predicted=guess, note=note))
    return found


def _strongest(one: Shown) -> int:
    """Where the latent fires most, or the last token where it does not."""
    return int(one.true.argmax()) if one.true.any() else len(one.texts) - 1


def _read_as(shelf: Shelf, one: Shown, at: int) -> Window:
    """The window that ends at that token as the simulator reads it, never with the BOS."""
    length = shelf.site.params.simulate.window_tokens
    end = one.end - len(one.texts) + 1 + at
    ids = shelf.cache.tokens[one.row, max(1, end - length + 1) : end + 1]
    return Window.of(shelf.site.texts(ids))


def of(shelf: Shelf, latent: int) -> Kinds:
    """The windows of a card, nothing predicted yet."""
    return windows.of_text(shelf, latent, each=windows.EACH)

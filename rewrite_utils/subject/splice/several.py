"""Several places spliced at once: a later one reads what the earlier ones have left.

In: spots (hookpoint, coder, one source an arm). Out: a context manager over all of them, or losses
with one position patched at every spot. Beyond the paper, which rewrites one layer.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxtyping import Bool, Int
from torch import Tensor

from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice.context import (
    Hook,
    Positions,
    replacing,
    require_fit,
    splice_hooks,
)
from rewrite_utils.subject.splice.patching import PatchedLosses, arm_losses
from rewrite_utils.subject.splice.sources import Coder, Site, Source


class Spot(NamedTuple):
    """One of the places that are spliced together."""

    hookpoint: Hookpoint
    """Where in the model."""
    coder: Coder | None
    """Its coder; None where only whole outputs are replaced."""
    sources: Sequence[Source]
    """What stands there, one an arm; ``Untouched`` in the arms that leave this place alone."""


@contextlib.contextmanager
def spliced_at_once(
    subject: Subject, spots: Sequence[Spot], *, arm: int = 0, positions: Positions = "all"
) -> Iterator[None]:
    """``spliced`` at every spot in the same passes, with the sources of one ``arm``.

    ValueError as there, and where two spots share a layer.
    """
    hooks: list[Hook] = []
    for spot in ascending(subject, spots):
        source = spot.sources[arm]
        hooks += splice_hooks(spot.coder, spot.hookpoint, source, positions=positions)
    with subject.bridge.hooks(fwd_hooks=hooks):
        yield


def losses_at_once(
    subject: Subject,
    spots: Sequence[Spot],
    rows: Int[Tensor, "batch pos"],
    positions: Bool[Tensor, "batch pos"],
    *,
    tokens: int | None = None,
) -> PatchedLosses:
    """Every arm at every True position, each position patched alone but at all spots: [site arm].

    Tokens in row-major order. The layers below the first spot are run once. Equal to
    ``spliced_at_once`` on one row a position. Raises as that and ``arm_losses`` do.
    """
    first, *rest = ascending(subject, spots)

    def later(these: Tensor, at: Tensor, arm: Tensor) -> list[Hook]:
        return [hook for spot in rest for hook in _arm_hooks(spot, these, at, arm, len(rows))]

    return arm_losses(
        subject,
        first.coder,
        first.hookpoint,
        first.sources,
        rows,
        positions,
        tokens=tokens,
        later=later,
    ).losses


def ascending(subject: Subject, spots: Sequence[Spot]) -> list[Spot]:
    """The spots by layer; ValueError where they do not fit the model or one another."""
    ordered = sorted(spots, key=lambda spot: spot.hookpoint.layer)
    layers = [spot.hookpoint.layer for spot in ordered]
    if not spots or len(set(layers)) < len(layers):
        names = ", ".join(spot.hookpoint.name for spot in ordered)
        raise ValueError(f"spots must lie at different layers, and one at least: {names or 'none'}")
    if len({len(spot.sources) for spot in spots}) > 1:
        counts = ", ".join(str(len(spot.sources)) for spot in ordered)
        raise ValueError(f"every spot needs a source for each arm, but they have {counts}")
    for spot in ordered:
        require_fit(subject, spot.coder, spot.hookpoint)
    return ordered


def _arm_hooks(
    spot: Spot,
    these: Int[Tensor, " batch"],
    at: Int[Tensor, "batch query"],
    arm: Int[Tensor, " query"],
    n_rows: int,
) -> list[Hook]:
    """Hooks that let each query's arm have its source's output at this spot."""

    def splice(inputs: Tensor, outputs: Tensor) -> Tensor:
        new = outputs.clone()
        for place in arm.unique().tolist():
            mine = arm == place
            queries = int(mine.sum())
            site = Site(
                spot.coder,
                inputs[:, mine].flatten(0, 1).float(),
                outputs[:, mine].flatten(0, 1).float(),
                these.repeat_interleave(queries),
                at[:, mine].flatten().cpu(),
                n_rows,
            )
            output = spot.sources[place].output(site)
            new[:, mine] = output.unflatten(0, (len(outputs), queries)).to(outputs.dtype)
        return new

    return replacing(spot.hookpoint, splice)

"""Reading a hookpoint, and the splice itself as a context manager.

In: a subject, a hookpoint, token rows; a coder and a source. Out: the hookpoint's activations, or a
subject that computes with replaced ones until the context closes. Paper §6.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice.sources import Coder, Site, Source

Positions = Literal["last", "all"] | Bool[Tensor, "batch pos"]
"""Where to splice: each row's last token, every token but the BOS, or exactly the True ones."""

Hook = tuple[str, Callable[..., Tensor | None]]
"""A TransformerLens hook: the name of its place, and what is called with (value, hook) there."""


class HookedActivations(NamedTuple):
    """What goes into the hooked module and what comes out."""

    inputs: Float[Tensor, "batch pos d_model"]
    """Coder input, float32: after the layer norm for an MLP."""
    outputs: Float[Tensor, "batch pos d_model"]
    """Module output, float32; for the residual stream the same as the inputs."""


@torch.no_grad()
def hooked(
    subject: Subject, rows: Int[Tensor, "batch pos"], hookpoint: Hookpoint
) -> HookedActivations:
    """The hookpoint's activations on ``rows``; the layers above it are not run."""
    subject.hookpoint(hookpoint.name)
    kept: dict[str, Tensor] = {}
    names = dict.fromkeys([hookpoint.input_hook, hookpoint.output_hook])  # once, if they are one
    hooks: list[Hook] = [(name, keep(kept, name)) for name in names]
    # Behind the last layer the unembedding is run in any case, and copies its matrix for each row.
    hooks.append(("unembed.hook_in", lambda hidden, hook: hidden[:1, :1]))
    with subject.bridge.hooks(fwd_hooks=hooks):
        subject.bridge(rows.to(subject.device), stop_at_layer=hookpoint.layer + 1)
    inputs, outputs = kept[hookpoint.input_hook], kept[hookpoint.output_hook]
    return HookedActivations(inputs.float(), outputs.float())


@contextlib.contextmanager
def spliced(
    subject: Subject,
    coder: Coder | None,
    hookpoint: Hookpoint,
    source: Source,
    *,
    positions: Positions = "all",
) -> Iterator[None]:
    """While open, every forward pass of ``subject.bridge`` has the source's output spliced in.

    Values of the source belong to the rows of that pass, in order. ValueError if the coder, a mask
    or the values do not fit. The model is as before afterwards, whatever happens inside.
    """
    require_fit(subject, coder, hookpoint)
    hooks = splice_hooks(coder, hookpoint, source, positions=positions)
    with subject.bridge.hooks(fwd_hooks=hooks):
        yield


def splice_hooks(
    coder: Coder | None, hookpoint: Hookpoint, source: Source, *, positions: Positions
) -> list[Hook]:
    """The hooks of one splice; they belong to one model and hold nothing between passes."""

    def splice(inputs: Tensor, outputs: Tensor) -> Tensor:
        mask = _mask(positions, outputs)
        rows, where = mask.nonzero(as_tuple=True)
        site = Site(coder, inputs[mask].float(), outputs[mask].float(), rows, where, len(outputs))
        new = outputs.clone()
        new[mask] = source.output(site).to(outputs.dtype)
        return new

    return replacing(hookpoint, splice)


def replacing(hookpoint: Hookpoint, new: Callable[[Tensor, Tensor], Tensor]) -> list[Hook]:
    """Hooks that put ``new(inputs, outputs)`` of the hookpoint in the place of its outputs."""
    kept: dict[str, Tensor] = {}

    @torch.no_grad()
    def replace(value: Tensor, hook: object) -> Tensor:
        inputs = value if hookpoint.kind == "resid" else kept.pop(hookpoint.input_hook)
        return new(inputs, value)

    hooks: list[Hook] = [(hookpoint.output_hook, replace)]
    if hookpoint.kind == "mlp":
        hooks.append((hookpoint.input_hook, keep(kept, hookpoint.input_hook)))
    return hooks


def require_fit(subject: Subject, coder: Coder | None, hookpoint: Hookpoint) -> None:
    """ValueError if the hookpoint is not in the model, or the coder not of this hookpoint."""
    subject.hookpoint(hookpoint.name)
    if coder is not None:
        coder.require_fit(hookpoint.name, subject.d_model)


def keep(kept: dict[str, Tensor], name: str) -> Callable[[Tensor, object], None]:
    """A hook that stores what it sees under ``name`` and changes nothing."""

    def store(value: Tensor, hook: object) -> None:
        kept[name] = value

    return store


def _mask(positions: Positions, value: Tensor) -> Tensor:
    batch, length = value.shape[:2]
    if isinstance(positions, Tensor):
        if positions.shape != (batch, length):
            raise ValueError(
                f"positions {tuple(positions.shape)} do not fit rows {(batch, length)}: give a "
                "mask [batch pos]"
            )
        return positions.to(value.device)
    mask = torch.zeros(batch, length, dtype=torch.bool, device=value.device)
    mask[:, -1 if positions == "last" else slice(1, None)] = True
    return mask

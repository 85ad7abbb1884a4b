"""Next-token losses with one position replaced at a time, many positions and arms in one pass.

In: rows, positions, the sources of what is put there. Out: loss and KL of each (position, arm). The
clean row is run once; each patched token then passes the layers above the splice only, reading the
clean keys and values of its past and its own patched ones. Equal to one row a position. Paper §6.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache

from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice.context import Hook, keep, require_fit
from rewrite_utils.subject.splice.resuming import continued
from rewrite_utils.subject.splice.sources import Coder, Site, Source
from rewrite_utils.subject.splice.whole_rows import Grids, whole_row_losses

TOKENS = 256  # patched tokens passed at once on a CPU: 50 MB of logits at 50,000 words


class PatchedLosses(NamedTuple):
    """Losses in nats at single patched positions, on the CPU."""

    loss: Float[Tensor, "*site arm"]
    """−log p(next token) with only this position's output replaced."""
    base_loss: Float[Tensor, "*site"]
    """The same in the untouched model."""
    kl: Float[Tensor, "*site arm"]
    """KL(untouched ‖ patched) of the next-token distributions."""


class ArmLosses(NamedTuple):
    """Losses of sources at every scored token, tokens in row-major order, on the CPU."""

    losses: PatchedLosses
    """[site arm], arms in the order of the sources."""
    squared_error: Float[Tensor, "site arm"]
    """‖y − ŷ‖² between the module's own output and what replaced it."""
    rows: Int[Tensor, " site"]
    """Row of each token: the unit to resample."""
    positions: Int[Tensor, " site"]
    """Its position in the row."""


class Clean(NamedTuple):
    """The untouched pass over some rows, at their scored positions."""

    cache: Cache
    """Keys and values of every layer."""
    inputs: Float[Tensor, "batch s d_model"]
    """Coder input."""
    outputs: Float[Tensor, "batch s d_model"]
    """Output of the hooked module."""
    after: Float[Tensor, "batch s d_model"]
    """Residual stream behind the hooked block."""
    log_p: Float[Tensor, "batch s vocab"]
    """Next-token log-probabilities."""


Later = Callable[[Tensor, Tensor, Tensor], Sequence[Hook]]
"""(indices of rows [batch], positions [batch query], arms [query]) → hooks on the layers above."""


def at_positions(
    rows: Int[Tensor, "batch pos"], positions: Int[Tensor, " batch"]
) -> Bool[Tensor, "batch pos"]:
    """The mask of one position a row."""
    mask = torch.zeros(rows.shape, dtype=torch.bool)
    return mask.scatter(1, positions.cpu()[:, None], True)


@torch.no_grad()
def arm_losses(
    subject: Subject,
    coder: Coder | None,
    hookpoint: Hookpoint,
    sources: Sequence[Source],
    rows: Int[Tensor, "batch pos"],
    positions: Bool[Tensor, "batch pos"],
    *,
    tokens: int | None = None,
    later: Later | None = None,
) -> ArmLosses:
    """Every source at every True position, each patched alone; the coder is run on the way.

    The sources' values belong to ``rows``. ``tokens``: patched tokens passed at once (None: by the
    device). ``later`` changes what happens above the splice. Raises as ``spliced`` does, and
    ValueError at the BOS or where no token follows.
    """
    require_fit(subject, coder, hookpoint)
    tokens, mask = tokens or subject.tokens_at_once(on_cpu=TOKENS), positions.cpu()
    _require_scorable(mask)
    if not subject.resumes or not subject.sees_all(rows.shape[1]):
        _require_one_layer(subject, later)
        return _scored(whole_row_losses(subject, coder, hookpoint, sources, rows, mask), mask)
    loss, base, kl, error = grids = Grids.empty(rows, len(sources))
    for these, where in _rectangles(mask, len(sources), tokens):
        part = rows[these].to(subject.device)
        clean = _clean_pass(subject, hookpoint, part, where.to(subject.device))
        site = _site(coder, clean, these, where, n_rows=len(rows))
        arms = torch.stack([source.output(site) for source in sources], dim=1)
        squares = (arms - site.outputs[:, None]).square().sum(-1)
        outputs = arms.unflatten(0, where.shape).to(clean.after)
        above = functools.partial(later, these) if later else None
        patched = _patched_pass(subject, hookpoint, clean, part, where, outputs, tokens, above)
        at = these[:, None], where
        loss[at], base[at], kl[at] = (x.cpu() for x in patched)
        error[at] = squares.unflatten(0, where.shape).cpu()
    return _scored(grids, mask)


def _scored(found: Grids, mask: Bool[Tensor, "batch pos"]) -> ArmLosses:
    losses = PatchedLosses(found.loss[mask], found.base[mask], found.kl[mask])
    return ArmLosses(losses, found.error[mask], *mask.nonzero(as_tuple=True))


def _site(
    coder: Coder | None,
    clean: Clean,
    these: Int[Tensor, " batch"],
    where: Int[Tensor, "batch s"],
    *,
    n_rows: int,
) -> Site:
    """The scored positions of the rows ``these``, as the sources see them."""
    inputs, outputs = clean.inputs.flatten(0, 1), clean.outputs.flatten(0, 1)
    row = these.repeat_interleave(where.shape[1])
    return Site(coder, inputs, outputs, row, where.flatten(), n_rows)


def _require_one_layer(subject: Subject, later: Later | None) -> None:
    if later:
        raise NotImplementedError(
            f"{subject.name!r} cannot be spliced at several layers at once: its tokens are not "
            "passed through the layers above alone (sliding attention, or another architecture); "
            "rewrite one layer at a time, or shorten corpus.row_tokens"
        )


def _require_scorable(mask: Bool[Tensor, "batch pos"]) -> None:
    if mask[:, 0].any():
        raise ValueError("position 0 is the BOS: it is never patched or scored")
    if mask[:, -1].any():
        raise ValueError(
            f"position {mask.shape[1] - 1} is the last of its row: no token follows that could be "
            "scored; pass longer rows"
        )


def _rectangles(
    mask: Bool[Tensor, "batch pos"], n_arms: int, tokens: int
) -> Iterator[tuple[Int[Tensor, " rows"], Int[Tensor, "rows s"]]]:
    """Rows to run together (as many scored positions each, which makes no padding) and where."""
    counts = mask.sum(1)
    for count in counts.unique().tolist():
        same = (counts == count).nonzero()[:, 0]
        step = min(count * n_arms, mask.shape[1], tokens)
        at_once = max(1, min(tokens // max(step, 1), 8 * tokens // mask.shape[1]))
        for these in same.split(at_once) if step else ():
            yield these, mask[these].nonzero()[:, 1].view(len(these), count)


def _clean_pass(
    subject: Subject,
    hookpoint: Hookpoint,
    rows: Int[Tensor, "batch pos"],
    where: Int[Tensor, "batch s"],
) -> Clean:
    """Run the untouched model up to the last scored position; logits at scored positions only."""
    kept: dict[str, Tensor] = {}
    batch = torch.arange(len(rows), device=rows.device)[:, None]
    after = f"blocks.{hookpoint.layer}.hook_resid_post"
    names = hookpoint.input_hook, hookpoint.output_hook, after
    hooks: list[Hook] = [(name, keep(kept, name)) for name in dict.fromkeys(names)]
    # As one row: a batch would make the unembedding copy its matrix for each row.
    hooks.append(("unembed.hook_in", lambda hidden, hook: hidden[batch, where].flatten(0, 1)[None]))
    with subject.bridge.hooks(fwd_hooks=hooks):
        logits, cache = subject.bridge(
            rows[:, : int(where.max()) + 1], return_type="logits_and_cache", use_cache=True
        )
    inputs, outputs, stream = (kept[name][batch, where].float() for name in names)
    log_p = logits[0].unflatten(0, where.shape).float().log_softmax(-1)
    return Clean(cache, inputs, outputs, stream, log_p)


def _patched_pass(
    subject: Subject,
    hookpoint: Hookpoint,
    clean: Clean,
    rows: Int[Tensor, "batch pos"],
    where: Int[Tensor, "batch s"],
    outputs: Float[Tensor, "batch s arm d_model"],
    tokens: int,
    above: Callable[[Tensor, Tensor], Sequence[Hook]] | None,
) -> PatchedLosses:
    """Pass every (position, arm) through the layers above the splice, some at a time."""
    n_sites, n_arms = outputs.shape[1:3]
    residual = clean.after[:, :, None] + (outputs - clean.outputs[:, :, None])
    residual, where = residual.flatten(1, 2), where.to(rows.device)
    site = torch.arange(n_sites, device=rows.device).repeat_interleave(n_arms)
    arm = torch.arange(n_arms, device=rows.device).repeat(n_sites)
    target = rows.gather(1, where + 1)[..., None]
    step = max(1, min(len(site), rows.shape[1], tokens // len(rows)))
    loss, kl = [], []
    for start in range(0, len(site), step):
        part = slice(start, start + step)
        at = where[:, site[part]]
        hooks = above(at, arm[part]) if above else ()
        log_q = continued(subject, hookpoint.layer, clean.cache, residual[:, part], at, hooks=hooks)
        log_p = clean.log_p[:, site[part]]
        loss.append(-log_q.gather(2, target[:, site[part]])[..., 0])
        kl.append((log_p.exp() * (log_p - log_q)).sum(-1))
    shape = (n_sites, n_arms)
    loss, kl = (torch.cat(parts, dim=1).unflatten(1, shape) for parts in (loss, kl))
    return PatchedLosses(loss, -clean.log_p.gather(2, target)[..., 0], kl)

"""The rewritten model: the subject with one or more of its MLPs replaced at every position.

In: a subject and, a place, what says its latents. Out: losses and perplexity of whole rows, and
generated text. The same object is the rewrite, the coder as it is, and mean ablation; without a
place it is the subject itself. Beyond the paper, which patches one position.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.subject.masking import counted, measured
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.splice import Source, Spot, TrueLatents, spliced_at_once

Says = Callable[[Int[Tensor, "batch pos"]], Source]
"""What stands in the place of the MLP, for the tokens of one pass."""


class Place(NamedTuple):
    """One MLP and what replaces it."""

    hookpoint: Hookpoint
    """Where it is."""
    coder: SparseCoder | None
    """Decodes the latents; None where the whole output is given."""
    says: Says
    """Gives the source, pass by pass."""


def coded(tokens: Int[Tensor, "batch pos"]) -> Source:
    """The coder as it is."""
    return TrueLatents()


def constant(source: Source) -> Says:
    """The same whatever the tokens are: mean ablation, a mean output."""
    return lambda tokens: source


@dataclass(frozen=True)
class Rewritten:
    """A model whose MLPs at ``places`` are not its own."""

    subject: Subject
    """The model; it is as before after every call."""
    places: tuple[Place, ...] = ()
    """What is replaced, at every position but the BOS."""
    masked: tuple[int, ...] = ()
    """Control tokens inside rows, at which nothing is replaced and no loss is measured."""

    @torch.no_grad()
    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        """Next-token logits of rows, BOS first."""
        with self._spliced(tokens):
            return self.subject.bridge(tokens.to(self.subject.device))

    @torch.no_grad()
    def losses(
        self, rows: Int[Tensor, "row pos"], *, batch: int = 4
    ) -> Float[ndarray, "row pos_but_one"]:
        """−log p(next token) in nats, from the first token behind the BOS on; NaN where it or the
        next is masked."""
        found, where = [], measured(rows, self.masked)[:, 1:-1].numpy()
        for part in rows.split(batch):
            log_p = self.logits(part)[:, 1:-1].float().log_softmax(-1)
            target = part[:, 2:, None].to(log_p.device)
            found.append(-log_p.gather(2, target)[..., 0].cpu().numpy())
        return np.where(where, np.concatenate(found), np.nan)

    @torch.no_grad()
    def generate(self, prompt: str, tokens: int = 40) -> str:
        """The likeliest text that follows ``prompt``; ValueError for an empty one."""
        ids = self.subject.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError("the prompt is empty: give the text a beginning")
        row = torch.tensor([[self.subject.bos, *ids]])
        for _ in range(tokens):
            chosen = int(self.logits(row)[0, -1].float().cpu().argmax())
            if chosen == self.subject.tokenizer.eos_token_id:
                break
            row = torch.cat([row, torch.tensor([[chosen]])], dim=1)
        return self.subject.tokenizer.decode(row[0, 1 + len(ids) :].tolist())

    def _spliced(self, tokens: Int[Tensor, "batch pos"]) -> contextlib.AbstractContextManager:
        if not self.places:
            return contextlib.nullcontext()
        spots = [Spot(p.hookpoint, p.coder, [p.says(tokens)]) for p in self.places]
        where = counted(tokens, self.masked)
        return spliced_at_once(self.subject, spots, positions=where)

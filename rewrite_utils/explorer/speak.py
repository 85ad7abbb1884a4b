"""The rewritten model speaks: one prompt continued by model, coder, rewrite and mean ablation.

In: a subject, a coder and what its descriptions predict token by token. Out: what each says, how
likely it finds every token against the model itself, and which latents made that difference.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from rewrite_utils.assets.splits import plain_ids
from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.explorer import marks
from rewrite_utils.report.display import (
    BLUE,
    DEEPEST,
    NO_TEXT,
    ORANGE,
    SMALL,
    Html,
    in_a_line,
    visible,
)
from rewrite_utils.rewrite.layer_stage import TokenReader
from rewrite_utils.rewrite.rewritten import Place, Rewritten, Says, coded, constant
from rewrite_utils.subject.model import Hookpoint, Subject
from rewrite_utils.subject.pieces import token_texts
from rewrite_utils.subject.splice import GivenLatents, hooked, mean_latents

TOKENS = 24
"""Tokens that follow the prompt."""
CANDIDATES, NAMED = 24, 5
"""Latents that are exchanged one by one to explain a token, and those that are named."""
LEAD = 160
"""Characters of a description that are shown."""
FULL = 3.0
"""Change of log p (nats) that is drawn in the strongest colour."""


class Spoken(NamedTuple):
    """What one arm says."""

    arm: str
    """Who speaks."""
    row: Int[Tensor, " pos"]
    """BOS, prompt and continuation."""
    texts: list[str]
    """Each token's exact text, the BOS left out."""
    change: Float[ndarray, " token"]
    """log p of each token by this arm minus the model's own (nats); 0 for the first."""


@dataclass(frozen=True)
class Speaker:
    """The model, three ways to compute one layer of it, and the layer itself."""

    subject: Subject
    """The model."""
    hookpoint: Hookpoint
    """What is rewritten."""
    coder: SparseCoder
    """Its coder."""
    means: Float[ndarray, " latent"]
    """What mean ablation puts there."""
    read: TokenReader | None
    """The descriptions; None where the site has no reader: then the rewrite is silent."""

    @property
    def arms(self) -> Mapping[str, Rewritten]:
        """Who speaks, by name."""
        ablated = constant(mean_latents(torch.from_numpy(self.means).float()))
        says: dict[str, Says] = {"coder": coded}
        says |= {"rewrite": self.read} if self.read else {}
        says |= {"mean ablation": ablated}
        return {"model": Rewritten(self.subject)} | {
            arm: self._one(say) for arm, say in says.items()
        }

    def _one(self, says: Says) -> Rewritten:
        return Rewritten(self.subject, (Place(self.hookpoint, self.coder, says),))

    def speak(self, prompt: str, *, step: Callable[[float], None]) -> list[Spoken]:
        """Each arm's likeliest continuation; ValueError for an empty prompt."""
        arms, found = self.arms, []
        ids = own_ids(self.subject, prompt, "the prompt is empty: give the text a beginning")
        known = len(self.subject.tokenizer)  # logits may be wider: padding, which has no text
        for done, (arm, model) in enumerate(arms.items()):
            step(done / len(arms))
            row = torch.tensor([[self.subject.bos, *ids]])
            for _ in range(TOKENS):
                chosen = int(model.logits(row)[0, -1, :known].argmax())
                if chosen == self.subject.tokenizer.eos_token_id:
                    break
                row = torch.cat([row, torch.tensor([[chosen]])], dim=1)
                step((done + (row.shape[1] - len(ids)) / (TOKENS + 1)) / len(arms))
            change = np.zeros(row.shape[1] - 1)
            if arm != "model" and row.shape[1] > 2:
                change[1:] = (arms["model"].losses(row) - model.losses(row))[0]
            texts = token_texts(self.subject.tokenizer, row[0, 1:].tolist())
            found.append(Spoken(arm, row[0], texts, change))
        return found

    @torch.no_grad()
    def why(self, row: Int[Tensor, " pos"], at: int) -> list[tuple[int, float]]:
        """The latents whose descriptions alone, in place of their truth, change the logit of the
        token at ``at`` most: latent, Δ logit. ValueError at the BOS and the first token."""
        if self.read is None:
            raise ValueError("there are no descriptions to look for: this site has no reader")
        if not 1 < at < len(row):
            raise ValueError(f"token {at} has no text before it: choose 2 … {len(row) - 1}")
        before = row[None, :at]
        inputs = hooked(self.subject, before, self.hookpoint).inputs[0].float()
        true = self.coder.dense(self.coder.encode(inputs)).cpu()
        said = self.read.values(before)
        moved = (said[0] - true)[1:].abs().sum(0) * self.coder.W_dec.detach().float().norm(
            dim=1
        ).cpu()
        chosen = moved.argsort(descending=True)[:CANDIDATES]
        chosen = chosen[moved[chosen] > 0]
        only = torch.zeros(len(chosen) + 1, true.shape[1], dtype=torch.bool)
        only[torch.arange(len(chosen)) + 1, chosen] = True  # the first row is the coder as it is
        several = self._one(constant(GivenLatents(said.expand(len(only), -1, -1), only)))
        logit = several.logits(before.expand(len(only), -1))[:, -1, int(row[at])].float().cpu()
        change = (logit[1:] - logit[0]).tolist()
        ranked = sorted(zip(chosen.tolist(), change, strict=True), key=lambda pair: -abs(pair[1]))
        return ranked[:NAMED]


def own_ids(subject: Subject, text: str, empty: str) -> list[int]:
    """Token ids of a text of one's own, control tokens as text; ValueError(empty) for none."""
    ids = plain_ids(subject.tokenizer, [text])[0]
    if not ids:
        raise ValueError(empty)
    return ids


def drawn(spoken: Sequence[Spoken], prompt: str) -> Html:
    """What each arm says, side by side, coloured by what changed."""
    cells = [marks.section(one.arm, _line(one)) for one in spoken]
    key = (
        f'<span style="background: rgba({BLUE}, {DEEPEST})">blue</span>: likelier than the model '
        f'itself finds it, <span style="background: rgba({ORANGE}, {DEEPEST})">orange</span>: less '
        f"likely; strongest at {FULL:g} nats"
    )
    line = " | ".join(f"{one.arm}: {''.join(one.texts)}" for one in spoken)
    head = f'<div style="{SMALL}">{key}</div>'
    return Html(marks.whole([marks.columns(cells, even=True), head]), f"{prompt!r}: {line}")


def explained(latents: Sequence[tuple[int, float]], said: Mapping[int, str], token: str) -> Html:
    """The latents that made the difference at a token."""
    body = [
        [visible(said.get(one, "")[:LEAD]), str(one), f"{change:+.2f}"] for one, change in latents
    ]
    title = f"Δ logit of “{token or NO_TEXT}”, one description at a time in its latent’s place"
    header = ["description", "latent", "Δ logit"]
    return Html(f"<div>{marks.note(title)}{marks.rows(header, body)}</div>", title)


def _line(spoken: Spoken) -> str:
    def span(at: int, text: str, change: float) -> str:
        depth = DEEPEST * min(abs(change) / FULL, 1)
        shade = f"background: rgba({BLUE if change > 0 else ORANGE}, {depth:.2f})"
        title = f"token {at}, log p {change:+.2f}"
        return f'<span style="{shade}" title="{title}">{in_a_line(text)}</span>'

    spans = (span(at, *pair) for at, pair in
             enumerate(zip(spoken.texts, spoken.change.tolist(), strict=True), 1))  # fmt: skip
    style = "font-family: monospace; white-space: pre-wrap; overflow-wrap: anywhere"
    return f'<div style="{style}; line-height: 1.7">{"".join(spans)}</div>'

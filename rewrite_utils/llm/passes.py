"""One batch of the transformers engine in flight: rows that share a cached prefix, and logits.

In: a model, the cache of the shared part, each row's own tokens. Out: final states, and the
options' log-probabilities or drawn tokens. Rows are padded between the shared and the own part.
"""

import contextlib
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from rewrite_utils.llm import prefix
from rewrite_utils.llm.protocol import EngineError, Sampling

Model = Any
"""A PreTrainedModel with an output head; the library's types call each of its parts optional."""


class Run:
    """A batch in flight: ``states`` are the final states of the tokens passed last."""

    states: Float[Tensor, "batch pos d_model"]

    def __init__(self, model: Model, shared: DynamicCache, own: list[tuple[int, ...]]) -> None:
        self._model = model
        self._shared = shared
        self._before = shared.get_seq_length()
        self._apart = self._before > 0 and prefix.fits(model)
        self._cache = DynamicCache() if self._apart else lent(shared, rows=len(own))
        width = max(map(len, own))
        tokens = torch.tensor([row[:1] * (width - len(row)) + row for row in own])
        padding = torch.tensor([width - len(row) for row in own])[:, None]
        place = torch.arange(width)[None] - padding
        self._own = (place >= 0).to(model.device)
        self._pass(tokens, self._before + place.clamp(min=0))

    @property
    def hidden(self) -> Float[Tensor, "batch d_model"]:
        """The final state of each row's last token."""
        return self.states[:, -1]

    def append(self, tokens: Int[Tensor, " batch"]) -> None:
        """One more token a row."""
        more = torch.ones_like(self._own[:, :1])
        self._own = torch.cat([self._own, more], dim=1)
        self._pass(tokens[:, None], self._position + 1)

    def _pass(self, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch pos"]) -> None:
        self._position = positions[:, -1:]
        attending = prefix.attending(self._model, self._shared)
        with attending if self._apart else contextlib.nullcontext():
            self.states = self._model.base_model(
                tokens.to(self._model.device),
                attention_mask=self._mask(tokens.shape[1]),
                position_ids=positions.to(self._model.device),
                past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state

    def _mask(self, width: int) -> Tensor:
        """What the last ``width`` tokens may read: 2D over all tokens, or the own ones in 4D.

        A padded place reads itself, or its softmax would be of nothing.
        """
        if not self._apart:
            before = torch.ones(len(self._own), self._before, dtype=torch.long)
            return torch.cat([before.to(self._own.device), self._own.long()], dim=1)
        total = self._own.shape[1]
        query, key = torch.arange(total - width, total)[:, None], torch.arange(total)[None]
        allowed = (key <= query) & (self._own[:, None] | (key == query))
        return prefix.additive(allowed, self._model.dtype)


def lent(cache: DynamicCache, *, rows: int) -> DynamicCache:
    """The cache of one row seen by ``rows`` rows; copied only when a row adds its own."""
    wide = DynamicCache()
    layer: Any
    for number, layer in enumerate(cache.layers):
        wide.update(layer.keys[..., :0, :], layer.values[..., :0, :], number)
        mine: Any = wide.layers[number]
        mine.keys = layer.keys.expand(rows, -1, -1, -1)
        mine.values = layer.values.expand(rows, -1, -1, -1)
    return wide


def option_logprobs(
    model: Model, hidden: Float[Tensor, "batch d_model"], options: list[int]
) -> Float[Tensor, "batch option"]:
    """Log-probabilities over the whole vocabulary; the options' own logits in float32.

    A bfloat16 logit near 20 is rounded by up to .06, so the few rows that matter are done again.
    """
    head = model.get_output_embeddings()
    logits = head(hidden).float()
    exact = hidden.float() @ head.weight[options].float().T
    if head.bias is not None:
        exact = exact + head.bias[options].float()
    logits[:, options] = exact
    return (exact - logits.logsumexp(-1, keepdim=True)).cpu()


def draw(
    logits: Float[Tensor, "batch vocab"], sampling: Sampling, dice: list[torch.Generator]
) -> Int[Tensor, " batch"]:
    """One token a row, with the row's own generator. Raises EngineError on NaN."""
    logits = logits.float().cpu()
    if logits.isnan().any():
        raise EngineError("the logits are NaN; the model's weights or its dtype are damaged")
    if sampling.temperature == 0:
        return logits.argmax(-1)
    chances = (logits / sampling.temperature).softmax(-1)
    rows = zip(chances, dice, strict=True)
    return torch.cat([row.multinomial(1, generator=die) for row, die in rows])

"""Sentence embeddings by a small model that carries its weights: which texts are alike?

In: texts. Out: one unit vector a text, the mean of the last layer's tokens, as all-MiniLM-L6-v2 was
trained to be read. For hard negatives, near-duplicate sentences and screening; beyond the paper.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from rewrite_utils.assets import model_folder
from rewrite_utils.assets.convert import quiet_transformers
from rewrite_utils.runs.machine import device

DEFAULT = "embedded/all-minilm-l6-v2"
Embed = Callable[[Sequence[str]], Float[ndarray, "text d"]]
"""Unit vectors of texts; a dot product is a cosine."""


class Embedder:
    """An encoder with mean pooling, called with texts."""

    def __init__(self, model: str = DEFAULT, *, batch: int = 64, most_tokens: int = 128) -> None:
        """``most_tokens``: the rest of a longer text is not read."""
        folder = model_folder(model)
        with quiet_transformers():
            self._tokenizer = AutoTokenizer.from_pretrained(folder)
            self._model = AutoModel.from_pretrained(folder).eval().to(device())
        self._batch, self._most = batch, most_tokens

    def __call__(self, texts: Sequence[str]) -> Float[ndarray, "text d"]:
        """Unit vectors, float32, in the order of the texts. Texts of one length go together."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = np.zeros((len(texts), self._model.config.hidden_size), np.float32)
        starts = range(0, len(order), self._batch)
        for start in tqdm(starts, desc="embedding", unit="batch", disable=len(starts) < 2):
            rows = order[start : start + self._batch]
            found[rows] = self._embed([texts[row] for row in rows])
        return found

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str]) -> Float[ndarray, "text d"]:
        given = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._most, return_tensors="pt"
        ).to(self._model.device)
        states = self._model(**given).last_hidden_state
        kept = given["attention_mask"][..., None].to(states)
        mean = (states * kept).sum(1) / kept.sum(1).clamp_min(1)
        return torch.nn.functional.normalize(mean, dim=-1).float().cpu().numpy()


@functools.cache
def embedder() -> Embedder:
    """The default embedder, loaded once a process."""
    return Embedder()

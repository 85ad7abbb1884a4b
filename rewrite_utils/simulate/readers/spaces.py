"""Spaces of words: one unit vector a word, and a dot product says how alike two words are.

In: words, blanks and all. Out: vectors, each word's computed once. By the simulator LLM's input
embeddings, plain or whitened, or by a sentence encoder. No LLM pass anywhere.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from jaxtyping import Float
from numpy import ndarray
from safetensors import safe_open
from transformers import AutoTokenizer

from rewrite_utils.assets import model_folder
from rewrite_utils.assets.hub import from_hub
from rewrite_utils.llm.embedding import embedder

INPUTS = ("embed_tokens.weight", "embed_in.weight", "wte.weight")
"""What the input embeddings are called in the files of Llama-type models, GPT-NeoX and GPT-2."""
RIDGE = 1e-3
"""Share of the mean variance that is added to each direction before whitening."""
Space = Callable[[Sequence[str]], Float[ndarray, "word d"]]
"""Unit vectors, float32; a word that has none (the empty text) is all zeros."""


class Remembering:
    """A space from any function of words; no word is placed twice."""

    def __init__(self, name: str, place: Callable[[Sequence[str]], ndarray]) -> None:
        """``place``: words to vectors of any length."""
        self.name, self._place = name, place
        self._known: dict[str, ndarray] = {}

    def __call__(self, words: Sequence[str]) -> Float[ndarray, "word d"]:
        """As `Space` says; ValueError where a vector is not finite."""
        new = [word for word in dict.fromkeys(words) if word not in self._known]
        if new:
            found = np.asarray(self._place(new), np.float32)
            if not np.isfinite(found).all():
                bad = new[int(np.flatnonzero(~np.isfinite(found).all(1))[0])]
                raise ValueError(f"the space {self.name!r} gives NaN for {bad!r}: a damaged model?")
            lengths = np.linalg.norm(found, axis=1, keepdims=True)
            self._known |= zip(new, found / np.maximum(lengths, 1e-12), strict=True)
        return np.stack([self._known[word] for word in words])


def sentence_space() -> Space:
    """By a sentence encoder (MiniLM), blanks around the word left out."""
    return Remembering("minilm", lambda words: embedder()([word.strip() for word in words]))


def input_spaces(model: str) -> tuple[Space, Space]:
    """By an LLM's input embeddings: a word is the mean of its tokens. Plain, and whitened.

    Its files are read when the first word is placed: ValueError then where they hold no input
    embeddings under a known name.
    """
    embedded = functools.cache(lambda: _Embedded(model))

    def whitened(words: Sequence[str]) -> ndarray:
        mean, root = embedded().whitening
        return (embedded().plain(words) - mean) @ root

    plain = Remembering("input", lambda words: embedded().plain(words))
    return plain, Remembering("whitened", whitened)


class _Embedded:
    """An LLM's input embeddings, read without the rest of the model, and what whitens them."""

    def __init__(self, model: str) -> None:
        folder = model_folder(model)
        if not Path(folder).is_dir():
            parts = ["*.json", "*.safetensors", "*.txt"]
            with from_hub("model", model):
                folder = snapshot_download(folder, allow_patterns=parts)
        self.matrix = _inputs(Path(folder))
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def plain(self, words: Sequence[str]) -> ndarray:
        ids = self.tokenizer(list(words), add_special_tokens=False)["input_ids"]
        nothing = torch.zeros(self.matrix.shape[1])
        rows = [self.matrix[one].float().mean(0) if one else nothing for one in ids]
        return torch.stack(rows).numpy()

    @functools.cached_property
    def whitening(self) -> tuple[ndarray, ndarray]:
        """The mean, and a root of the inverse covariance, over the vocabulary."""
        rows = self.matrix.float()
        mean = rows.mean(0)
        covariance = rows.T @ rows / len(rows) - torch.outer(mean, mean)
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors / (values + RIDGE * values.mean()).clamp_min(1e-12).sqrt()
        return mean.numpy(), root.numpy()


def _inputs(folder: Path) -> torch.Tensor:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (no mapping)
                if key.endswith(INPUTS):
                    return tensors.get_tensor(key)
    raise ValueError(f"{folder} holds no input embeddings ({', '.join(INPUTS)})")

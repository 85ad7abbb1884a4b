"""One pass of an LLM over each row of a text: its states, and how likely words are next.

In: a causal LLM, its tokenizer, a `Text`. Out: arrays over row · length + position, computed once a
text. The LLM has tokens of its own: a place is read at the last of them that ends where the place
ends, or before. Beyond the paper, whose simulator makes a pass a pair.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from rewrite_utils.simulate.readers.text import Text


class Passes:
    """An LLM that reads texts; give `states` and `chances` to the features of `context`."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """``model``: a causal model of transformers, as `AutoModelForCausalLM` loads it. ValueError
        for a tokenizer that does not say where its tokens stand."""
        if not tokenizer.is_fast:
            raise ValueError("the LLM's tokenizer gives no offsets: load its fast version")
        self._model, self._tokenizer = model, tokenizer
        self._states: dict[int, tuple[Text, ndarray]] = {}

    @torch.inference_mode()
    def states(self, text: Text) -> Float[ndarray, "at d"]:
        """The last layer's state at every place, float32; zeros at the BOS."""
        known = self._states.get(id(text))
        if known is None:
            parts = [states[at].float().cpu().numpy() for at, states in self._run(text)]
            found = np.zeros((*text.rows.shape, parts[0].shape[-1]), np.float32)
            found[:, 1:] = np.stack(parts)
            # The text is kept with its states: an id is only its own while the object lives.
            known = self._states[id(text)] = text, found.reshape(text.rows.size, -1)
        return known[1]

    @torch.inference_mode()
    def chances(self, text: Text, words: Sequence[str]) -> Float[ndarray, "at word"]:
        """Probability that the next token is the word's first, float32; zeros at the BOS.

        Only the columns asked for are kept, so memory does not grow with the vocabulary.
        """
        ids = [self._first(word) for word in words]
        head = self._model.get_output_embeddings()
        states = torch.from_numpy(self.states(text))
        found = np.zeros((len(states), len(words)), np.float32)
        for part in tqdm(range(0, len(states), 512), desc="next words", unit="block"):
            given = states[part : part + 512].to(head.weight)
            found[part : part + 512] = head(given).float().softmax(-1)[:, ids].cpu().numpy()
        found.reshape(*text.rows.shape, -1)[:, 0] = 0
        return found

    def _first(self, word: str) -> int:
        ids = self._tokenizer(word, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError(f"the LLM's tokenizer has no token for the word {word!r}")
        return ids[0]

    def _run(self, text: Text) -> Iterator[tuple[Int[ndarray, " pos"], torch.Tensor]]:
        """Row by row: which of the LLM's tokens stands for each place, and all its states."""
        for row in tqdm(range(len(text.rows)), desc="LLM reads", unit="row"):
            pieces = text.pieces(row)
            given = self._tokenizer(
                "".join(pieces),
                add_special_tokens=False,
                split_special_tokens=True,  # what a text writes is text
                return_offsets_mapping=True,
            )
            ends = np.array([end for _, end in given["offset_mapping"]])
            at = np.searchsorted(ends, np.cumsum([len(p) for p in pieces]), side="right") - 1
            ids = torch.tensor([given["input_ids"]], device=self._model.device)
            yield at.clip(0), self._model.base_model(ids).last_hidden_state[0]

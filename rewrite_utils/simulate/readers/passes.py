"""One pass of an LLM over each row of a text: its states, and how likely words are next.

In: a causal LLM, its tokenizer, a `Text`. Out: arrays over row · length + position, kept on disk.
The LLM has tokens of its own: a place is read at the last of them that ends where the place ends,
or before. Beyond the paper, whose simulator makes a pass a pair.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from rewrite_utils.assets import model_folder
from rewrite_utils.assets.convert import quiet_transformers
from rewrite_utils.llm.opening import weights
from rewrite_utils.params import LLM
from rewrite_utils.runs.machine import device, precision
from rewrite_utils.runs.whole import read_or_none, whole
from rewrite_utils.simulate.readers.text import Text

ROWS = 16
"""Rows kept together: what a kill loses."""


class Passes:
    """An LLM that reads texts; give `states` and `chances` to the features of `context`."""

    def __init__(
        self, load: Callable[[], Any], tokenizer: PreTrainedTokenizerBase, folder: Path
    ) -> None:
        """``load``: gives a causal model of transformers; called when a text is not known yet.
        ``folder``: keeps what was computed, block by block. ValueError for a tokenizer that does
        not say where its tokens stand."""
        if not tokenizer.is_fast:
            raise ValueError("the LLM's tokenizer gives no offsets: load its fast version")
        self._load, self._tokenizer, self._folder = functools.cache(load), tokenizer, folder

    def states(self, text: Text) -> Float[ndarray, "at d"]:
        """The last layer's state at every place, float32; zeros at the BOS."""
        parts, starts = [], range(0, len(text.rows), ROWS)
        for start in tqdm(starts, desc="LLM reads", unit=f"{ROWS} rows", disable=len(starts) < 2):
            file = self._folder / _digest(text) / f"{start:06d}.safetensors"
            part = _kept(file, "states", functools.partial(self._read, text, start))
            parts.append(part.float())
        states = torch.cat(parts).numpy()
        return np.pad(states, ((0, 0), (1, 0), (0, 0))).reshape(text.rows.size, -1)

    @torch.inference_mode()
    def chances(self, text: Text, words: Sequence[str]) -> Float[ndarray, "at word"]:
        """Probability that the next token is the word's first, float32; zeros at the BOS.

        Only the columns asked for are kept, so memory does not grow with the vocabulary.
        """
        ids = torch.tensor([self._first(word) for word in words])
        head, states = self._load().get_output_embeddings(), torch.from_numpy(self.states(text))

        def normaliser() -> Float[torch.Tensor, " at"]:
            """log Σ exp over the vocabulary at every place: makes any few logits probabilities."""
            parts = tqdm(states.split(512), desc="next words", unit="block")
            return torch.cat([head(x.to(head.weight)).float().logsumexp(-1).cpu() for x in parts])

        asked = head.weight[ids].float()
        logits = states @ asked.T.to(states.device)
        file = self._folder / _digest(text) / "normaliser.safetensors"
        found = (logits - _kept(file, "normaliser", normaliser)[:, None]).exp().numpy()
        found.reshape(*text.rows.shape, -1)[:, 0] = 0
        return found

    def _first(self, word: str) -> int:
        ids = self._tokenizer(word, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError(f"the LLM's tokenizer has no token for the word {word!r}")
        return ids[0]

    @torch.inference_mode()
    def _read(self, text: Text, start: int) -> Float[torch.Tensor, "row pos d"]:
        """The states of one block's rows, bfloat16: each place's is that of the LLM's token that
        stands for it."""
        model, found = self._load(), []
        for row in range(start, min(start + ROWS, len(text.rows))):
            pieces = text.pieces(row)
            given = self._tokenizer(
                "".join(pieces),
                add_special_tokens=False,
                split_special_tokens=True,  # what a text writes is text
                return_offsets_mapping=True,
            )
            ends = np.array([end for _, end in given["offset_mapping"]])
            at = np.searchsorted(ends, np.cumsum([len(p) for p in pieces]), side="right") - 1
            ids = torch.tensor([given["input_ids"]], device=model.device)
            states = model.base_model(ids).last_hidden_state[0]
            found.append(states[at.clip(0)].bfloat16().cpu())
        return torch.stack(found)


def opened(llm: LLM, folder: Path) -> Passes:
    """The passes of a run's LLM; its weights are loaded when a text is not known yet."""
    place = model_folder(llm.model)

    def load() -> Any:
        with quiet_transformers():
            dtype = getattr(torch, precision(llm.dtype, device=device(), weights=weights(place)))
            return AutoModelForCausalLM.from_pretrained(place, dtype=dtype).to(device()).eval()

    return Passes(load, AutoTokenizer.from_pretrained(place), folder)


def _kept(file: Path, name: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What the file holds; computed and written where there is none."""
    kept = read_or_none(file, load_file)
    if kept is None:
        kept = {name: compute()}
        with whole(file) as beside:
            save_file(kept, beside)
    return kept[name]


def _digest(text: Text) -> str:
    """Names a text by its content."""
    made = hashlib.blake2b("\0".join(text.kinds).encode(), digest_size=8)
    made.update(np.ascontiguousarray(text.rows).tobytes())
    return made.hexdigest()

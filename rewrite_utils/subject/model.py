"""The subject model: loading it, and naming a place in it.

In: an embedded model's name, a hub name or a folder. Out: a Subject, whose TransformerBridge runs
the model's own weights (logits equal to transformers'). Knows nothing of coders. Paper §2.
"""

import contextlib
import dataclasses
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import logging as transformers_logging
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from rewrite_utils.assets import model_folder
from rewrite_utils.assets.hub import from_hub
from rewrite_utils.runs import machine


class Hookpoint(NamedTuple):
    """The place of a model that a coder reads and replaces."""

    layer: int
    """Block index, 0-based."""
    kind: Literal["mlp", "resid"]
    """"mlp": the block's MLP, behind its layer norm; "resid": the residual stream after it."""

    @property
    def name(self) -> str:
        """The name sparsify gives it: ``layers.6.mlp`` or ``layers.6``."""
        return f"layers.{self.layer}" + (".mlp" if self.kind == "mlp" else "")

    @property
    def input_hook(self) -> str:
        """TransformerLens name of what the coder reads (for "mlp": after the layer norm)."""
        end = "mlp.hook_in" if self.kind == "mlp" else "hook_resid_post"
        return f"blocks.{self.layer}.{end}"

    @property
    def output_hook(self) -> str:
        """TransformerLens name of what the coder's output replaces."""
        end = "hook_mlp_out" if self.kind == "mlp" else "hook_resid_post"
        return f"blocks.{self.layer}.{end}"


@dataclasses.dataclass(frozen=True)
class Subject:
    """A loaded model whose insides are studied; its weights are never trained."""

    bridge: TransformerBridge
    """The model with TransformerLens hooks; wraps the transformers model's own modules."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    name: str
    """The name it was asked for by."""
    n_layers: int
    """Number of blocks."""
    d_model: int
    """Width of the residual stream and of every MLP's input and output."""
    vocab_size: int
    """Width of the logits (at least the tokenizer's vocabulary)."""
    bos: int
    """Token id at position 0 of every row."""
    resumes: bool = True
    """Whether one patched token may be passed through the layers above a splice alone; False: its
    whole row is run again (`splice.checking`)."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.bridge.original_model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return next(self.bridge.original_model.parameters()).dtype

    def sees_all(self, length: int) -> bool:
        """Whether every layer attends to all of a row so long."""
        config = self.bridge.original_model.config
        kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
        window = getattr(config, "sliding_window", None) or length
        return length <= window or not any("full" not in kind for kind in kinds)

    def hookpoint(self, name: str) -> Hookpoint:
        """``parse_hookpoint`` for this model."""
        return parse_hookpoint(name, n_layers=self.n_layers)

    def rows_at_once(self, pos: int, *, on_cpu: int = 16) -> int:
        """Rows of ``pos`` tokens in one pass: ``on_cpu``, or what a GPU holds of them."""
        config = self.bridge.cfg
        states = 8 * self.d_model + 4 * (config.d_mlp or 4 * self.d_model)
        each = 4 * pos * (states + 3 * config.n_heads * pos)
        return machine.at_once(on_cpu, each=each, device=self.device)

    def tokens_at_once(self, *, on_cpu: int) -> int:
        """Tokens with whole logits in one pass: some copies of the vocabulary each."""
        return machine.at_once(on_cpu, each=32 * self.vocab_size, device=self.device)


def parse_hookpoint(name: str, *, n_layers: int) -> Hookpoint:
    """``layers.N.mlp`` or ``layers.N`` as a Hookpoint; ValueError for any other name or layer."""
    found = re.fullmatch(r"layers\.(\d+)(\.mlp)?", name)
    if not found:
        raise ValueError(
            f"hookpoint {name!r} is neither 'layers.N.mlp' (an MLP) nor 'layers.N' (the residual)"
        )
    layer = int(found[1])
    if layer >= n_layers:
        raise ValueError(
            f"hookpoint {name!r} is not in this model (layers.0 … layers.{n_layers - 1})"
        )
    return Hookpoint(layer, "mlp" if found[2] else "resid")


def load_subject(
    name: str, *, dtype: str = "float32", device: str = "cpu", revision: str | None = None
) -> Subject:
    """Load an embedded model, a hub name or a folder onto a device ("auto": a GPU if there is one).

    ``revision`` is a hub revision (Pythia's checkpoints: "step1000"). OSError where nothing of
    that name can be loaded, ValueError for a dtype torch does not have, or a device.
    """
    number = getattr(torch, dtype, None)
    if not isinstance(number, torch.dtype) or not number.is_floating_point:
        raise ValueError(f"dtype {dtype!r} is not a floating point type of torch (try 'float32')")
    device = machine.device(device)
    folder = model_folder(name, revision or "")
    with _quiet(), from_hub("model", name, revision or ""):
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision or "main")
        model = AutoModelForCausalLM.from_pretrained(
            folder, revision=revision or "main", dtype=number, attn_implementation="eager"
        )
        model = model.to(device)  # pyright: ignore[reportArgumentType]
        return _subject(name, model.eval(), tokenizer, folder)


def _subject(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str
) -> Subject:
    """Put a loaded model behind the bridge."""
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if not isinstance(bos, int):
        raise ValueError(f"{name!r}: its tokenizer has neither a BOS nor an EOS token")
    config = model.config
    bridge = TransformerBridge.boot_transformers(
        folder, hf_model=model, tokenizer=tokenizer, device=str(model.device), dtype=model.dtype
    )
    bridge.eval()
    model.requires_grad_(False)  # now: for GPT-NeoX the bridge has added split copies of QKV
    return Subject(
        bridge=bridge,
        tokenizer=tokenizer,
        name=name,
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        vocab_size=config.vocab_size,
        bos=bos,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no log lines on stderr: nbval compares it. Errors are still raised."""
    bars, level = transformers_logging.is_progress_bar_enabled(), logging.root.manager.disable
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if bars:
            transformers_logging.enable_progress_bar()

"""Tiny random models of both architectures: their configuration and their tokenizer."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

LAYERS, WIDTH, VOCABULARY = 3, 32, 320


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level: 256 bytes, a few merges, and a BOS; a character beyond ASCII is many tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("Ġ", "th"), ("Ġth", "e"), ("i", "n"), ("Ġ", "a"), ("Ċ", "Ċ")]
    pieces = ["<bos>", *alphabet, *("".join(pair) for pair in merges)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>")


def tiny_config(architecture: str) -> LlamaConfig | GPTNeoXConfig:
    """Large initial weights, so that every part of the model matters to the logits."""
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    if architecture == "llama":
        return LlamaConfig(**common, num_key_value_heads=2, tie_word_embeddings=True)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
    return GPTNeoXConfig(
        **common, use_parallel_residual=True, rope_parameters=rope, tie_word_embeddings=False
    )


def write_tiny_model(folder: Path, architecture: str) -> None:
    """A model folder as from_pretrained reads it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config(architecture))
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)

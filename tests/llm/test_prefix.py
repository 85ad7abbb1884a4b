"""Attention to a shared prefix in two parts: equal to the model's own, and left where unfit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rewrite_utils.llm import prefix
from rewrite_utils.llm.protocol import Prompt
from rewrite_utils.llm.transformers import TransformersEngine

SETTINGS = {"dtype": "float32", "max_tokens": 64, "threads": 1, "memory_gb": 1.0}


class Layer(torch.nn.Module):
    """As much of an attention layer as the interface asks."""

    layer_idx = 0


@settings(max_examples=25, deadline=None)
@given(
    *(st.integers(1, top) for top in (4, 3, 2, 40, 6)),
    st.integers(0, 3),
    st.integers(0, 999),
)
def test_two_parts_are_the_whole_softmax(rows, groups, repeats, before, own, extra, seed):
    """Any shape; ``extra``: own tokens already there. The first row is padded by one."""
    dice = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=dice)

    keys, values = some(1, groups, before, 8), some(1, groups, before, 8)
    query = some(rows, groups * repeats, own, 8)
    key, value = (some(rows, groups, own + extra, 8) for _ in range(2))
    known = torch.ones(rows, own + extra, dtype=torch.bool)
    known[0, 0] = False
    at = torch.arange(extra, own + extra)[:, None]
    allowed = (torch.arange(own + extra)[None] <= at) & (
        known[:, None] | (torch.arange(own + extra)[None] == at)
    )
    cache = DynamicCache()
    cache.update(keys, values, 0)
    token = prefix._PREFIX.set(cache)
    mask = prefix.additive(allowed, torch.float32)
    found, _ = prefix.attend(Layer(), query, key, value, mask, scaling=0.3)
    prefix._PREFIX.reset(token)
    whole_keys, whole_values = (
        torch.cat([part.expand(rows, -1, -1, -1), mine], 2).repeat_interleave(repeats, 1)
        for part, mine in ((keys, key), (values, value))
    )
    scores = 0.3 * query @ whole_keys.transpose(2, 3)
    seen = torch.cat([torch.ones(rows, own, before, dtype=torch.bool), allowed], 2)
    weights = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    np.testing.assert_allclose(found, (weights @ whole_values).transpose(1, 2), atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU there is one way")
def test_both_ways_give_the_same_answers(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = np.random.default_rng(0)
    shared = [tuple(dice.integers(1, 320, count).tolist()) for count in (20, 33, 0)]
    prompts = [
        Prompt(shared[row % 3], tuple(dice.integers(1, 320, 1 + row % 5).tolist()))
        for row in range(18)
    ]
    with TransformersEngine.load(str(tiny_folder), **SETTINGS) as engine:
        assert prefix.fits(engine._model)
        apart = engine.choices(prompts, options=[7, 300], answers=4)
        texts = engine.generate(prompts, max_tokens=5, temperature=1.0, seed=3)
        implementation = engine._model.config._attn_implementation
        monkeypatch.setattr(prefix, "fits", lambda model: False)
        lent = engine.choices(prompts, options=[7, 300], answers=4)
        assert engine.generate(prompts, max_tokens=5, temperature=1.0, seed=3) == texts
    np.testing.assert_allclose(apart.probabilities, lent.probabilities, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(apart.mass, lent.mass, rtol=1e-4)
    assert implementation != prefix.NAME


def test_a_model_that_forgets_what_is_far_is_left_as_it_is(plain: PreTrainedModel) -> None:
    config = Qwen2Config(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=1,
    )
    assert not prefix.fits(Qwen2ForCausalLM(config))
    assert prefix.fits(AutoModelForCausalLM.from_config(plain.config))

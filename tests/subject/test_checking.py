"""Architectures whose blocks or logits differ: the splice against brute force, at load too."""

import dataclasses
import warnings

import pytest
import torch
from splice_cases import coder_for, one_row_a_position, some_positions
from tiny import LAYERS, VOCABULARY, WIDTH, tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    MistralConfig,
)

from rewrite_utils.subject.model import Hookpoint, Subject, load_subject
from rewrite_utils.subject.splice import (
    Spot,
    TrueLatents,
    arm_losses,
    checking,
    losses_at_once,
    zero_latents,
)
from rewrite_utils.subject.splice.checking import checked
from rewrite_utils.subject.splice.sources import GivenOutput

COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
WINDOW = 6
"""Tokens that a sliding layer sees; the rows have 12."""
KINDS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
CONFIGS = {
    "gemma2": Gemma2Config(
        **COMMON,
        **KINDS,
        head_dim=8,
        sliding_window=WINDOW,
        final_logit_softcapping=3.0,
        attn_logit_softcapping=2.0,
    ),
    "gemma3": Gemma3TextConfig(**COMMON, **KINDS, head_dim=8, sliding_window=WINDOW),
    "granite": GraniteConfig(
        **COMMON, residual_multiplier=0.3, embedding_multiplier=2.0, logits_scaling=2.0
    ),
    "mistral": MistralConfig(**COMMON, sliding_window=WINDOW),
}
PLACES = [Hookpoint(0, "mlp"), Hookpoint(2, "mlp"), Hookpoint(1, "resid")]


@pytest.fixture(scope="module", params=CONFIGS)
def odd(request, tmp_path_factory) -> Subject:
    """A tiny random model of an architecture that is not Llama's."""
    folder = tmp_path_factory.mktemp(request.param)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIGS[request.param])
        for name, parameter in model.named_parameters():
            if "norm" in name:
                torch.nn.init.normal_(parameter, mean=float("gemma" not in request.param), std=0.3)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return load_subject(str(folder))


@pytest.mark.parametrize("length", [WINDOW, 12])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_losses_are_those_of_brute_force_whatever_the_architecture(odd, place, length, rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the fast way is right wherever a layer sees the whole row
        subject = checked(odd)
    rows, mask = rows[:, :length], some_positions(rows)[:, :length]
    mask[:, -1] = False
    coder = coder_for(place)
    sources = [TrueLatents(), zero_latents(40)]
    found = arm_losses(subject, coder, place, sources, rows, mask).losses
    for arm, source in enumerate(sources):
        loss, kl = one_row_a_position(subject, coder, place, lambda *_, s=source: s, rows, mask)
        torch.testing.assert_close(found.loss[:, arm], loss, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.kl[:, arm], kl, atol=1e-4, rtol=1e-3)


def test_the_slow_way_is_the_fast_one(subject, hookpoint, coder, rows, values):
    mask = some_positions(rows)
    slowly = dataclasses.replace(subject, resumes=False)
    sources = [TrueLatents(), zero_latents(40)]
    fast, slow = (
        arm_losses(one, coder, hookpoint, sources, rows, mask) for one in (subject, slowly)
    )
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)


def test_a_model_whose_fast_way_is_wrong_takes_the_slow_one_and_says_its_price(
    subject, monkeypatch
):
    assert checked(subject) is subject
    monkeypatch.setitem(checking.TOLERANCE, torch.float32, 0.0)
    with pytest.warns(UserWarning, match=r"differs by .* nat.* slower by about the number of tok"):
        found = checked(subject)
    assert not found.resumes


def test_a_model_that_does_not_feel_the_splice_is_refused(subject, monkeypatch):
    monkeypatch.setattr(GivenOutput, "output", lambda source, site: site.outputs)
    with pytest.raises(ValueError, match=r"layers.0.mlp's output does not reach its predictions"):
        checked(subject)


def test_several_layers_at_once_need_the_fast_way(subject, rows):
    spots = [Spot(Hookpoint(at, "mlp"), None, [TrueLatents()]) for at in (0, 1)]
    with pytest.raises(NotImplementedError, match=r"one layer at a time, or shorten corpus\.row"):
        losses_at_once(
            dataclasses.replace(subject, resumes=False), spots, rows, some_positions(rows)
        )

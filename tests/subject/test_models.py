"""Subjects: the bridge computes what transformers computes, hookpoints mean what they say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from rewrite_utils.subject.model import Hookpoint, load_subject, parse_hookpoint
from rewrite_utils.subject.pieces import token_texts
from rewrite_utils.subject.splice import hooked


def blocks_of(model):
    return model.model.layers if hasattr(model, "model") else model.gpt_neox.layers


def seen_by(module, run):
    """Input and output of a plain transformers module while ``run`` runs."""
    seen = {}
    handle = module.register_forward_hook(
        lambda _, args, out: seen.update(input=args[0], output=out)
    )
    run()
    handle.remove()
    return seen


@torch.no_grad()
def test_logits_are_those_of_transformers(subject, plain, rows):
    assert torch.equal(subject.bridge(rows), plain(rows).logits)


@torch.no_grad()
@pytest.mark.parametrize("layer", range(3))
def test_mlp_hookpoint_is_the_mlp_behind_its_layer_norm(subject, plain, rows, layer):
    block = blocks_of(plain)[layer]
    acts = hooked(subject, rows, Hookpoint(layer, "mlp"))
    norm = seen_by(block.post_attention_layernorm, lambda: plain(rows))
    assert torch.equal(block.mlp(acts.inputs), acts.outputs)
    assert torch.equal(acts.inputs, norm["output"])
    assert not torch.allclose(acts.inputs, norm["input"], atol=0.1)


@torch.no_grad()
@pytest.mark.parametrize("layer", range(3))
def test_residual_hookpoint_is_the_stream_behind_the_block(subject, plain, rows, layer):
    acts = hooked(subject, rows, Hookpoint(layer, "resid"))
    block = seen_by(blocks_of(plain)[layer], lambda: plain(rows))
    assert torch.equal(acts.inputs, block["output"])
    assert torch.equal(acts.outputs, acts.inputs)


def test_hooked_does_not_run_the_layers_above(subject, rows):
    def stop(value, hook):
        raise AssertionError(hook.name)

    with subject.bridge.hooks(fwd_hooks=[("blocks.2.hook_attn_out", stop)]):
        hooked(subject, rows, Hookpoint(1, "mlp"))
        with pytest.raises(AssertionError, match=r"blocks\.2"):
            hooked(subject, rows, Hookpoint(2, "mlp"))


def test_subject_says_what_it_is(subject, tiny_folder):
    assert (subject.n_layers, subject.d_model, subject.vocab_size) == (3, 32, 320)
    assert (subject.bos, subject.name) == (0, str(tiny_folder))
    assert not any(weight.requires_grad for weight in subject.bridge.original_model.parameters())
    assert not subject.bridge.original_model.training


def test_loading_is_silent(tiny_folder, capfd):
    load_subject(str(tiny_folder))
    assert capfd.readouterr() == ("", "")


def test_dtype_is_the_one_asked_for(tiny_folder, rows):
    subject = load_subject(str(tiny_folder), dtype="bfloat16")
    assert subject.bridge(rows).dtype == torch.bfloat16
    assert hooked(subject, rows, Hookpoint(0, "mlp")).inputs.dtype == torch.float32


def test_revision_reaches_the_hub(tiny_folder, monkeypatch):
    asked = []
    original = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr("rewrite_utils.subject.model.model_folder", lambda *_: str(tiny_folder))
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda *a, **k: asked.append(k["revision"]) or original(*a, **k),
    )
    load_subject("EleutherAI/pythia-160m", revision="step1000")
    assert asked == ["step1000"]


@pytest.mark.parametrize("dtype", ["float", "int8", "half precision"])
def test_only_floating_point_dtypes(tiny_folder, dtype):
    if dtype == "float":  # torch.float is float32: a synonym, not a mistake
        assert load_subject(str(tiny_folder), dtype=dtype).bridge.cfg.dtype == torch.float32
        return
    with pytest.raises(ValueError, match=dtype):
        load_subject(str(tiny_folder), dtype=dtype)


@pytest.mark.parametrize(
    ("name", "hookpoint"),
    [("layers.6.mlp", Hookpoint(6, "mlp")), ("layers.11", Hookpoint(11, "resid"))],
)
def test_hookpoint_names_go_both_ways(name, hookpoint):
    assert parse_hookpoint(name, n_layers=12) == hookpoint
    assert hookpoint.name == name


def test_hookpoint_beyond_the_model():
    with pytest.raises(ValueError, match=r"'layers.31.mlp' is not in .* \(layers.0 … layers.29\)"):
        parse_hookpoint("layers.31.mlp", n_layers=30)


@pytest.mark.parametrize("name", ["", "layers.x", "layers.1.attn", "model.layers.1.mlp", "1"])
def test_names_that_are_no_hookpoints(name):
    with pytest.raises(ValueError, match=r"layers\.N\.mlp"):
        parse_hookpoint(name, n_layers=12)


@settings(deadline=None)
@given(st.text())
def test_token_texts_join_to_the_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(token_texts(tokenizer, ids)) == text == tokenizer.decode(ids)


def test_token_texts_keep_spaces_newlines_and_special_tokens(tokenizer):
    ids = [0, *tokenizer(" the\n\n a")["input_ids"]]
    assert token_texts(tokenizer, ids) == ["<bos>", " the", "\n\n", " a"]


def test_a_split_character_belongs_to_the_token_that_completes_it(tokenizer):
    ids = tokenizer("é🤖")["input_ids"]
    assert token_texts(tokenizer, ids) == ["", "é", "", "", "", "🤖"]
    assert token_texts(tokenizer, ids[:3]) == ["", "é", "\\xf0"]
    assert token_texts(tokenizer, []) == []


@pytest.mark.assets
def test_embedded_subject_reads_its_own_text():
    subject = load_subject("embedded/smollm2-135m-instruct")
    text = "Zürich — naïve café 日本語 🤖\n\n  two spaces\tdone 1234"
    ids = subject.tokenizer(text)["input_ids"]
    assert "".join(token_texts(subject.tokenizer, ids)) == text
    assert (subject.n_layers, subject.d_model, subject.bos) == (30, 576, 1)

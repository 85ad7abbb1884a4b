import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from rewrite_utils.coder.formats import load_coder
from rewrite_utils.coder.fvu import FVU, fvu
from rewrite_utils.coder.quality import check_coder
from rewrite_utils.coder.sparse import CoderConfig, Latents, SparseCoder, random_coder
from rewrite_utils.subject.splice import Coder, GivenLatents, Site, TrueLatents

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
DATA = Path(__file__).parents[1] / "data"
KINDS = {
    "skip transcoder": {"skip_connection": True},
    "transcoder": {},
    "old transcoder": {"bias_convention": "pre-2025-02"},
    "SAE": {"transcode": False, "normalize_decoder": True},
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coder_of(kind: str, **more) -> SparseCoder:
    config = CoderConfig(
        d_in=8, num_latents=24, k=3, hookpoint="layers.6.mlp", **KINDS[kind], **more
    )
    coder = SparseCoder(config)
    for index, parameter in enumerate(coder.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator(index))
    return coder


def inputs(n: int = 16) -> torch.Tensor:
    return torch.randn(n, 8, generator=generator(9))


@pytest.mark.parametrize("kind", KINDS)
def test_forward_is_the_formula(kind):
    coder, x = coder_of(kind), inputs()
    shifted = x - coder.b_dec if kind in ("SAE", "old transcoder") else x
    before = torch.relu(shifted @ coder.W_enc.T + coder.b_enc)
    z = before * torch.zeros_like(before).scatter(1, before.topk(3).indices, 1.0)
    y = z @ coder.W_dec + coder.b_dec
    y = y if coder.W_skip is None else y + x @ coder.W_skip.T
    torch.testing.assert_close(coder(x), y)
    assert isinstance(coder, Coder)  # what the splice asks for
    latents = coder.encode(x)
    torch.testing.assert_close(coder.dense(latents), z)
    torch.testing.assert_close(coder.decode_dense(z, x), y)


def test_transcoder_starts_as_the_constant_function():
    config = CoderConfig(d_in=8, d_out=5, num_latents=24, k=3, skip_connection=True)
    x_mean, y_mean = inputs().mean(0), torch.arange(5.0)
    coder = SparseCoder(config, generator=generator()).centre(x_mean, y_mean)
    assert torch.equal(coder(inputs()), y_mean.expand(16, 5))
    before = x_mean @ coder.W_enc.T + coder.b_enc
    torch.testing.assert_close(before, torch.zeros(24), atol=1e-6, rtol=0)


def test_same_generator_same_bytes():
    config = CoderConfig(d_in=8, num_latents=24, k=3)
    first, second, other = (SparseCoder(config, generator=generator(s)) for s in (1, 1, 2))
    assert torch.equal(first.W_enc, second.W_enc)
    assert not torch.equal(first.W_enc, other.W_enc)


def test_fvu_is_one_for_the_mean_and_streams_like_the_whole():
    y = torch.randn(50, 6, generator=generator()) * 3 + 100
    y_hat = y + torch.randn(50, 6, generator=generator(1))
    assert fvu(y, y.mean(0).expand_as(y)).item() == pytest.approx(1)
    assert fvu(y, y).item() == 0
    stream = FVU()
    for part in (slice(0, 7), slice(7, 8), slice(8, 50)):
        stream.update(y[part], y_hat[part])
    assert stream.value == pytest.approx(fvu(y.double(), y_hat.double()).item(), rel=1e-9)
    assert stream.tokens == 50


def test_fvu_of_a_constant_target_is_an_error():
    with pytest.raises(ValueError, match="does not vary"):
        _ = FVU().update(torch.ones(4, 2), torch.zeros(4, 2)).value


def test_impossible_configurations():
    with pytest.raises(ValidationError, match="k = 25 is more than the coder's 24 latents"):
        CoderConfig(d_in=8, num_latents=24, k=25)
    with pytest.raises(ValidationError, match="SAE has no skip"):
        CoderConfig(d_in=8, num_latents=24, k=3, transcode=False, skip_connection=True)
    with pytest.raises(ValidationError, match="widht"):
        CoderConfig(d_in=8, num_latents=24, k=3, widht=1)


@pytest.mark.parametrize("kind", KINDS)
def test_sparsify_reads_ours_with_equal_outputs(kind, tmp_path):
    sparsify = pytest.importorskip("sparsify")
    coder, x = coder_of(kind), inputs()
    coder.save(tmp_path)
    theirs = sparsify.SparseCoder.load_from_disk(tmp_path)
    torch.testing.assert_close(theirs(x).sae_out, coder(x))
    torch.testing.assert_close(SparseCoder.load(tmp_path)(x), coder(x))


@pytest.mark.parametrize("kind", ["skip transcoder", "transcoder", "SAE"])
def test_ours_reads_sparsify_with_equal_outputs(kind, tmp_path):
    sparsify = pytest.importorskip("sparsify")
    keys = ("transcode", "skip_connection")
    options = {"transcode": True, **{k: v for k, v in KINDS[kind].items() if k in keys}}
    theirs = sparsify.SparseCoder(8, sparsify.SparseCoderConfig(expansion_factor=3, k=3, **options))
    for parameter in theirs.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator(parameter.numel()))
    theirs.save_to_disk(tmp_path / "layers.6.mlp")
    ours, x = load_coder(tmp_path, hookpoint="layers.6.mlp"), inputs()
    assert ours.config.num_latents == 24
    torch.testing.assert_close(ours(x), theirs(x).sae_out)


def test_old_bias_convention_subtracts_b_dec(tmp_path):
    current, x = coder_of("skip transcoder"), inputs()
    current.save(tmp_path)
    old = SparseCoder.load(tmp_path, bias_convention="pre-2025-02")
    expected = current.encode(x - current.b_dec)
    torch.testing.assert_close(old.dense(old.encode(x)), current.dense(expected))
    torch.testing.assert_close(old(x), current.decode(expected, x))
    assert (old(x) - current(x)).abs().max() > 0.1


def test_an_old_folder_that_does_not_say_transcode_is_a_transcoder_if_it_skips(tmp_path):
    for kind, transcode in (("skip transcoder", True), ("SAE", False)):
        coder_of(kind).save(tmp_path / kind)
        cfg = json.loads((tmp_path / kind / "cfg.json").read_text())
        del cfg["transcode"], cfg["hookpoint"]
        (tmp_path / kind / "cfg.json").write_text(json.dumps(cfg))
        assert SparseCoder.load(tmp_path / kind).config.transcode is transcode


@pytest.mark.parametrize("option", ["signed", "embed_skip", "gram_lookup"])
def test_a_sparsify_coder_of_another_function_is_an_error(option, tmp_path):
    coder_of("transcoder").save(tmp_path)
    cfg = json.loads((tmp_path / "cfg.json").read_text()) | {option: True}
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    with pytest.raises(ValueError, match=f"not activation 'topk' with {option}"):
        SparseCoder.load(tmp_path)


def saelens(name: str, hookpoint: str = "layers.6") -> tuple[SparseCoder, dict[str, torch.Tensor]]:
    """A coder that sae-lens 6.54.0 saved (`save_model`), and its inputs, latents and outputs."""
    folder = DATA / f"saelens-{name}"
    return load_coder(folder, hookpoint=hookpoint), load_file(folder / "example.safetensors")


@pytest.mark.parametrize("name", ["topk", "topk-rescaled"])
def test_saelens_coder_gives_its_own_outputs(name):
    coder, example = saelens(name)
    torch.testing.assert_close(coder(example["x"]), example["y"], atol=1e-4, rtol=1e-4)
    assert not coder.config.transcode and coder.config.k == 3


@pytest.mark.parametrize(
    ("name", "hookpoint"),
    [
        ("standard", "layers.6"),
        ("jumprelu", "layers.6"),
        ("gated", "layers.6"),
        ("batchtopk", "layers.6"),  # by its threshold: as save_inference_model's coder does
        ("transcoder", "layers.6.mlp"),
        ("skip-transcoder", "layers.6.mlp"),
    ],
)
def test_saelens_coders_with_thresholds_give_their_own_latents_and_outputs(
    name, hookpoint, tmp_path
):
    coder, example = saelens(name, hookpoint)
    x, z, y = (example[part] for part in "xzy")
    assert coder.config.k is None and coder.config.transcode == (hookpoint == "layers.6.mlp")
    coder.save(tmp_path)
    for read in (coder, SparseCoder.load(tmp_path, hookpoint=hookpoint)):
        latents = read.encode(x)
        torch.testing.assert_close(read.dense(latents), z, atol=1e-4, rtol=1e-4)
        assert latents.values.shape[1] == (z > 0).sum(1).max()  # at most as many as are active
        torch.testing.assert_close(read(x), y, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(read.decode_dense(z, x), y, atol=1e-4, rtol=1e-4)
        assert torch.equal(read.encode(x[:0]).values, torch.zeros(0, 1))


def changed_saelens(folder: Path, name: str, **changes: object) -> Path:
    """A coder of SAELens with other entries in its cfg.json; None takes one out."""
    shutil.copytree(DATA / f"saelens-{name}", folder, dirs_exist_ok=True)
    cfg = json.loads((folder / "cfg.json").read_text()) | changes
    (folder / "cfg.json").write_text(json.dumps({k: v for k, v in cfg.items() if v is not None}))
    return folder


def test_a_topk_coder_of_2024_says_standard(tmp_path):
    """Before version 6: names of its own, k among the activation's arguments, a flag for norms."""
    old = {"architecture": "standard", "activation_fn_str": "topk", "normalize_activations": False}
    old |= {"activation_fn_kwargs": {"k": 3}, "hook_point": "blocks.6.hook_resid_post"}
    folder = changed_saelens(tmp_path, "topk", **old, metadata=None, k=None)
    coder, (expected, example) = load_coder(folder, hookpoint="layers.6"), saelens("topk")
    assert torch.equal(coder(example["x"]), expected(example["x"])) and coder.config.k == 3


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("topk", {"architecture": "jumprelu"}, "'jumprelu', but its weights hold no 'threshold'"),
        ("topk", {"architecture": "batchtopk"}, "'batchtopk', but its weights hold no 'topk_thr"),
        ("topk", {"architecture": "abstopk"}, "'abstopk' with activation 'relu'.*can be read is"),
        ("topk", {"k": None}, "'topk' with activation 'relu' and k = None"),
        ("standard", {"activation_fn": "tanh-relu"}, "activation 'tanh-relu'"),
        ("standard", {"normalize_activations": "layer_norm"}, "normalize_activations = 'layer"),
        ("standard", {"metadata": {"hook_name": "blocks.6.hook_mlp_out"}}, "not the residual"),
        ("transcoder", {"metadata": {"hook_name": "blocks.6.mlp.hook_in"}}, "a block's MLP"),
    ],
)
def test_a_saelens_coder_of_another_function_is_refused(tmp_path, name, changes, message):
    with pytest.raises(ValueError, match=message):
        load_coder(changed_saelens(tmp_path, name, **changes), hookpoint="layers.6")


@pytest.mark.parametrize("hookpoint", ["layers.6", "layers.6.mlp"])
def test_gemmascope_coder_is_its_published_formula(tmp_path, hookpoint):
    """`params.npz` of a residual SAE and of a transcoder: b_dec stays on the input of both."""
    folder = tmp_path / "layer_6" / "width_16k" / "average_l0_71"
    folder.mkdir(parents=True)
    shapes = {"W_enc": (8, 24), "W_dec": (24, 8), "b_enc": (24,), "b_dec": (8,), "threshold": (24,)}
    raw = {
        name: torch.randn(s, generator=generator(i)) for i, (name, s) in enumerate(shapes.items())
    }
    np.savez(folder / "params.npz", **raw)
    coder, x = load_coder(folder, hookpoint=hookpoint), inputs()
    before = x @ raw["W_enc"] + raw["b_enc"]
    z = (before > raw["threshold"]) * before.relu()
    torch.testing.assert_close(coder.dense(coder.encode(x)), z, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(coder(x), z @ raw["W_dec"] + raw["b_dec"], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"coder of layer 6, not of 'layers\.7'"):
        load_coder(folder, hookpoint="layers.7")
    (folder / "params.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="cannot be read as a coder"):
        load_coder(folder, hookpoint=hookpoint)


def test_a_coder_without_k_cannot_keep_the_k_largest_and_says_so():
    coder, example = saelens("jumprelu")
    site = Site(coder, example["x"], example["y"], torch.arange(12), torch.ones(12).long(), 12)
    assert torch.equal(TrueLatents().output(site), coder(example["x"]))
    true = GivenLatents(example["z"][:, None].expand(-1, 2, -1))
    torch.testing.assert_close(true.output(site), example["y"], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"this one has thresholds: take what ends in \+topk"):
        dataclasses.replace(true, topk=True).output(site)


def test_coder_of_another_hookpoint_is_an_error(tmp_path):
    coder_of("transcoder").save(tmp_path / "layers.6.mlp")
    with pytest.raises(ValueError, match=r"belongs to 'layers.6.mlp', not to 'layers.7.mlp'"):
        load_coder(tmp_path / "layers.6.mlp", hookpoint="layers.7.mlp")
    with pytest.raises(FileNotFoundError, match=r"it holds \['layers.6.mlp'\]"):
        load_coder(tmp_path, hookpoint="layers.7.mlp")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("sae.safetensors", b""),
        ("sae.safetensors", b"\x40" + bytes(60)),
        ("cfg.json", b"{"),
        ("cfg.json", b"[]"),
        ("cfg.json", b'{"k": 2}'),
        ("cfg.json", b'{"d_in": "wide", "num_latents": 6, "k": 2}'),
    ],
)
def test_a_damaged_folder_is_one_error_that_names_it(tmp_path, file, content):
    config = CoderConfig(d_in=8, num_latents=6, k=2, hookpoint="layers.0.mlp")
    SparseCoder(config).save(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path} cannot be read as a coder .*again"):
        SparseCoder.load(tmp_path)


def test_weights_that_do_not_fit_are_an_error(tmp_path):
    coder_of("transcoder").save(tmp_path)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**cfg, "num_latents": 25}))
    with pytest.raises(ValueError, match=r"W_enc: \(24, 8\) not \(25, 8\)"):
        SparseCoder.load(tmp_path)


def test_hub_name_is_fetched_by_hookpoint_or_fails_clearly(tmp_path, monkeypatch):
    coder = coder_of("transcoder")
    coder.save(tmp_path / "layers.6.mlp")
    asked = []

    def fetch(name, *, revision, allow_patterns):
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("rewrite_utils.coder.formats.snapshot_download", fetch)
    loaded = load_coder("someone/coders", hookpoint="layers.6.mlp")
    assert asked == [("someone/coders", "layers.6.mlp/*")]
    assert torch.equal(loaded.W_enc, coder.W_enc)

    def offline(*_, **__):
        raise ConnectionError

    monkeypatch.setattr("rewrite_utils.coder.formats.snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match="'someone/coders' is no folder here"):
        load_coder("someone/coders", hookpoint="layers.6.mlp")


def test_check_coder_measures_and_refuses_a_wrong_module():
    coder, x = coder_of("transcoder"), inputs(200)
    y = coder(x).detach()
    check = check_coder(coder, [(x[:50], y[:50]), (x[50:], y[50:])], hookpoint="layers.6.mlp")
    assert (check.hookpoint, check.tokens) == ("layers.6.mlp", 200)
    assert check.fvu < 1e-9
    z = coder.dense(coder.encode(x)) > 0
    assert check.l0 == pytest.approx(z.sum(1).float().mean().item())
    torch.testing.assert_close(check.firing_rates, z.float().mean(0))
    with pytest.raises(ValueError, match=r"does not explain 'layers.6.mlp'"):
        check_coder(coder, [(x, y.roll(1, 0))], hookpoint="layers.6.mlp")
    with pytest.raises(ValueError, match=r"not to 'layers.5.mlp'"):
        check_coder(coder, [(x, y)], hookpoint="layers.5.mlp")
    with pytest.raises(ValueError, match="maps width 8 to 8, but the activations are 8 and 7 wide"):
        check_coder(coder, [(x, y[:, :7])], hookpoint="layers.6.mlp")


def test_random_coder_is_reproducible_and_explains_nothing():
    config = CoderConfig(d_in=8, num_latents=24, k=3)
    first, second = (random_coder(config, generator(3)) for _ in range(2))
    assert torch.equal(first.W_dec, second.W_dec)
    torch.testing.assert_close(first.W_dec.norm(dim=1), torch.ones(24))
    y = torch.randn(200, 8, generator=generator(4))
    assert fvu(y, first.centre(inputs(200).mean(0), y.mean(0))(inputs(200))) > 1


def test_a_silent_latent_decodes_to_nothing():
    coder = coder_of("transcoder")
    latents = Latents(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long))
    torch.testing.assert_close(coder.decode(latents, inputs(2)), coder.b_dec.expand(2, 8))

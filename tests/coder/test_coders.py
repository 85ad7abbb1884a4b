import json
import os
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from rewrite_utils.coder.formats import load_coder
from rewrite_utils.coder.sparse import (
    FVU,
    CoderConfig,
    Latents,
    SparseCoder,
    check_coder,
    fvu,
    random_coder,
)

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


@pytest.mark.parametrize("name", ["saelens-topk", "saelens-topk-rescaled"])
def test_saelens_coder_gives_its_own_outputs(name):
    # Saved, with its outputs, by sae-lens 6.54.0 (`TopKSAE.save_model`).
    example = load_file(DATA / name / "example.safetensors")
    coder = load_coder(DATA / name, hookpoint="layers.6")
    torch.testing.assert_close(coder(example["x"]), example["y"], atol=1e-4, rtol=1e-4)
    assert not coder.config.transcode


def test_saelens_coder_that_is_not_topk_is_an_error(tmp_path):
    cfg = json.loads((DATA / "saelens-topk" / "cfg.json").read_text())
    save_file(
        load_file(DATA / "saelens-topk" / "sae_weights.safetensors"),
        tmp_path / "sae_weights.safetensors",
    )
    (tmp_path / "cfg.json").write_text(json.dumps({**cfg, "architecture": "jumprelu"}))
    with pytest.raises(ValueError, match="'jumprelu': only TopK"):
        SparseCoder.load(tmp_path)


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

"""Control tokens inside rows: nothing is trained, cached, drawn, measured or replaced on them."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from splice_cases import MLP, coder_for
from tokenizers import AddedToken

from rewrite_utils.coder import quality
from rewrite_utils.coder.harvest import Harvest, Streamed, pairs
from rewrite_utils.latents.cache import LatentCache, cache_latents
from rewrite_utils.latents.windows import draw_windows
from rewrite_utils.params import ROOT, load, parse
from rewrite_utils.rewrite.rewritten import Place, Rewritten, constant
from rewrite_utils.runs.run import Run
from rewrite_utils.site import open_sites
from rewrite_utils.subject.corpus import Corpus
from rewrite_utils.subject.masking import control_tokens, counted, measured
from rewrite_utils.subject.splice import hooked, zero_latents
from rewrite_utils.subject.stage import CORPUS, corpus_hashes

END = 7
"""The token that is masked here."""


@pytest.fixture
def ended(rows) -> torch.Tensor:
    """The rows with two ends of text in them, one right behind a BOS."""
    rows[rows == END] = END + 1
    rows[0, 5] = rows[2, 1] = END
    return rows


def test_only_control_tokens_are(tokenizer):
    tokenizer = deepcopy(tokenizer)
    plain = AddedToken("<br>", special=False)
    tokenizer.add_tokens([plain, AddedToken("   ", special=False)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    told = tokenizer.convert_ids_to_tokens(list(control_tokens(tokenizer)))
    assert "<|turn|>" in told and tokenizer.bos_token in told
    assert not {"<br>", "   "} & set(told)


def test_a_loss_needs_a_token_that_counts_and_another_behind_it():
    rows = torch.tensor([[0, 3, END, 4, 5, 6], [0, 3, 4, 5, 6, END]])
    assert counted(rows, [END]).tolist() == [[0, 1, 0, 1, 1, 1], [0, 1, 1, 1, 1, 0]]
    assert measured(rows, [END]).tolist() == [[0, 0, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0]]
    assert counted(rows).tolist() == [[0, 1, 1, 1, 1, 1]] * 2
    assert measured(rows).tolist() == [[0, 1, 1, 1, 1, 0]] * 2


def test_training_data_leave_them_out_stored_or_streamed(subject, hookpoint, ended, tmp_path):
    acts, where = hooked(subject, ended, hookpoint), counted(ended, [END])
    assert int(where.sum()) == 4 * 11 - 2
    x, y = (torch.cat(s) for s in zip(*pairs(subject, hookpoint, ended, masked=[END]), strict=True))
    torch.testing.assert_close((x, y), (acts.inputs[where], acts.outputs[where]))
    stored = Harvest.collect(
        subject, hookpoint, ended, tokens=10**6, folder=tmp_path, batch=3, masked=[END]
    )
    assert stored.tokens == len(x)
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "inputs.npy")), x)
    few = Streamed(subject, hookpoint, ended, batch=44, epochs=1, seed=0, masked=[END])
    assert len(few[0][0]) == len(x)


def test_the_cache_and_the_moments_leave_them_out_and_count_them(
    subject, hookpoint, coder, ended, tmp_path
):
    places = subject, hookpoint, coder, ended
    masked, moments = cache_latents(*places, folder=tmp_path / "a", name="t", masked=[END])
    kept, _ = cache_latents(*places, folder=tmp_path / "b", name="t")
    on = np.isin(kept.tokens[kept.row, kept.position], [END])
    for field in ("row", "position", "value"):
        np.testing.assert_array_equal(getattr(masked, field), getattr(kept, field)[~on])
    assert on.sum() == masked.left_out.sum() > 0
    np.testing.assert_array_equal(masked.left_out, kept.on_controls([END]))
    np.testing.assert_array_equal(masked.left_out, masked.on_controls([END]))
    assert (masked.n_tokens, kept.n_tokens) == (42, 44)
    np.testing.assert_allclose(masked.rate * 42 + masked.left_out, kept.rate * 44)
    outputs = hooked(subject, ended, hookpoint).outputs[counted(ended, [END])]
    np.testing.assert_allclose(moments.mean, outputs.mean(0).numpy(), atol=1e-6)
    masked.write(tmp_path / "cache.safetensors")
    again = LatentCache.read(tmp_path / "cache.safetensors")
    np.testing.assert_array_equal(again.measured, measured(ended, [END]).numpy())
    np.testing.assert_array_equal(again.left_out, masked.left_out)


def test_losses_are_measured_where_both_tokens_count(subject, ended):
    coder = coder_for(MLP)
    means = {"latent_means": np.zeros(40), "output_mean": torch.zeros(32), "variance": 1.0}
    where = measured(ended, [END])
    table = quality.measure(subject, MLP, coder, ended, where, seed=0, positions=99, **means)
    assert set(table["positions"]) == {int(where.sum())}
    windows = draw_windows(
        where.numpy(), int(where.sum()), first=1, last=10, generator=np.random.default_rng(0)
    )
    assert where[windows.rows, windows.ends].all()


def test_a_rewritten_model_leaves_them_as_they_are(subject, ended):
    zero = Place(MLP, coder_for(MLP), constant(zero_latents(40)))
    masked = Rewritten(subject, (zero,), masked=(END,))
    kept, plain = Rewritten(subject, (zero,)), Rewritten(subject)
    # Row 2 begins with one: it is as it was, and what stands behind it is not.
    assert torch.equal(masked.logits(ended)[2, 1], plain.logits(ended)[2, 1])
    assert not torch.equal(kept.logits(ended)[2, 1], plain.logits(ended)[2, 1])
    assert not torch.equal(masked.logits(ended)[2, 2], plain.logits(ended)[2, 2])
    found = masked.losses(ended)
    np.testing.assert_array_equal(np.isfinite(found), measured(ended, [END])[:, 1:-1])


def test_a_corpus_says_what_is_masked_and_an_older_one_nothing(tmp_path, world):
    corpus = world.sites["mlp"].corpus
    assert corpus.masked == control_tokens(world.sites["mlp"].subject.tokenizer)
    kept = Corpus(splits=corpus.splits, sources=("a",), seed=1, faithful=False)
    kept.write(tmp_path)
    assert "masked" not in (tmp_path / "corpus.json").read_text()
    assert Corpus.read(tmp_path).masked == ()


def test_a_run_masks_them_everywhere_and_says_how_many_firings_stood_there(world):
    for site in world.sites.values():
        controls = control_tokens(site.subject.tokenizer)
        for split in ("explain", "calibrate", "evaluate"):
            cache = site.cache(split)
            assert not np.isin(cache.tokens[cache.row, cache.position], controls).any()
        for split in ("calibrate", "evaluate"):
            windows, tokens = site.windows(split), site.cache(split).tokens
            assert not np.isin(tokens[windows.rows, windows.ends], controls).any()
            assert not np.isin(tokens[windows.rows, windows.ends + 1], controls).any()
        table = site.special_firings.set_index("split")
        assert table["masked"].all() and (table["on special tokens"] > 0).all()
        assert (table["share"] * table["firings"]).to_list() == pytest.approx(
            table["on special tokens"].to_list()
        )


def test_kept_they_are_the_stages_of_before_and_the_share_is_counted_in_the_cache(world, tmp_path):
    run = world.again(tmp_path, corpus__special_tokens="kept")
    site, other = open_sites(run)["mlp"], world.sites["mlp"]
    assert site.corpus_stage.hash != other.corpus_stage.hash
    assert torch.equal(site.corpus.rows("evaluate"), other.corpus.rows("evaluate"))
    table = site.special_firings
    assert not table["masked"].any() and (table["on special tokens"] > 0).all()


def test_the_published_run_is_found_by_its_parameters():
    """Its rows hold ends of text (1.0 % of the tokens) and its coder was trained on them."""
    params = load("params/embedded-full.yaml")
    assert params.corpus.special_tokens == "kept"
    hashed = corpus_hashes(params=params)
    assert "special_tokens" not in hashed["corpus"]
    run = Run(params, ROOT / "nowhere", ROOT / "runs-published" / params.name)
    assert run.finished(CORPUS.name, parameters=hashed, version=CORPUS.version)


def test_what_is_neither_masked_nor_kept_is_refused(raw):
    with pytest.raises(ValueError, match=r"special_tokens = 'dropped'.*'masked' or 'kept'"):
        parse(raw | {"corpus": raw["corpus"] | {"special_tokens": "dropped"}})

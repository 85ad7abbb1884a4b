"""A site's coder: trained, loaded and checked, or random; wrong ones are refused with the fix."""

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from report_cases import coder_table
from stage_cases import SITE, tokenizer_with_chat, write_text
from tiny import tiny_tokenizer

from rewrite_utils.coder import harvest, quality
from rewrite_utils.coder.fvu import fvu
from rewrite_utils.coder.sparse import CoderConfig, SparseCoder
from rewrite_utils.params import parse
from rewrite_utils.report import coders, figures
from rewrite_utils.runs.run import Run
from rewrite_utils.site import SiteStages, open_sites
from rewrite_utils.subject.masking import counted
from rewrite_utils.subject.splice import hooked
from rewrite_utils.subject.stage import CACHED_SPLITS

MLP = SITE | {"hookpoint": "layers.1.mlp"}


@pytest.fixture(scope="module")
def raw(tiny_folder, tmp_path_factory) -> dict:
    """A run on the tiny model without its sites."""
    folder = tmp_path_factory.mktemp("coders")
    shutil.copytree(tiny_folder, folder / "model")
    tokenizer_with_chat(tiny_tokenizer()).save_pretrained(folder / "model")
    shares = {"train": 0.4, "explain": 0.2, "score": 0.2, "calibrate": 0.1, "evaluate": 0.1}
    corpus = {"sources": [write_text(folder / "text")], "row_tokens": 40, "max_rows": 20}
    corpus["draw"] = "seed"  # what is asserted of chances below was seen on this draw
    return {
        "name": "tiny",
        "subject": {"model": str(folder / "model"), "collect_dtype": "", "device": "cpu"},
        "corpus": corpus | shares,
        "explain": {"window_tokens": 8},
        "score": {"window_tokens": 8},
        "simulate": {"window_tokens": 8, "first_position": 10},
    }


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
        yield tmp_path_factory.mktemp("run")


@pytest.fixture
def open_site(raw, run_folder):
    """A site of the run with some settings changed."""

    def opened(**changed) -> SiteStages:
        params = parse(raw | {"sites": {"s": MLP | changed}})
        return open_sites(Run(params, run_folder))["s"]

    return opened


def pairs(site: SiteStages) -> tuple[torch.Tensor, torch.Tensor]:
    rows = site.corpus.rows("explain")
    acts = hooked(site.collector, rows, site.hookpoint)
    where = counted(rows, site.corpus.masked)
    return acts.inputs[where], acts.outputs[where]


@pytest.fixture
def trained(open_site) -> SiteStages:
    return open_site()


def saved(site: SiteStages, folder: Path, **changed) -> str:
    """The site's coder in a folder, some of its cfg.json changed."""
    site.coder.save(folder)
    file = folder / "cfg.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    return str(folder)


def test_a_loaded_coder_is_the_same_and_says_what_it_explains(trained, open_site, tmp_path):
    site = open_site(coder=saved(trained, tmp_path))
    x, _ = pairs(site)
    assert torch.equal(site.coder(x), trained.coder(x))
    assert site.training.empty
    facts = site.coder_stage.manifest["facts"]
    assert 0 < facts["fvu"] < 0.95 and 2.5 < facts["l0"] < 3.001 and facts["tokens"] > 1000


def test_a_coder_with_thresholds_needs_no_k(trained, open_site, tmp_path):
    """The trained coder with one threshold in the place of its k, as BatchTopK has."""
    x, _ = pairs(trained)
    threshold = trained.coder.encode(x).values.min(1).values.median()
    coder = SparseCoder(trained.coder.config.model_copy(update={"k": None}))
    same = {"threshold": threshold.expand(coder.config.num_latents)}
    coder.load_state_dict(trained.coder.state_dict() | same)
    coder.save(tmp_path)
    site = open_site(coder=str(tmp_path))
    with pytest.warns(UserWarning, match=r"sites.s: .* no k, so .* studies.calibrators \(quantile"):
        assert site.coder_stage
    assert site.coder.config.k is None and torch.equal(site.coder(x), coder(x))
    on = site.coder.dense(site.coder.encode(x)) > 0
    assert len(set(on.sum(1).tolist())) > 2
    np.testing.assert_allclose(site.cache("explain").rate, on.float().mean(0), atol=2e-3)
    assert len(site.quality) == 5 and site.coder_stage.manifest["facts"]["fvu"] < 1


def test_the_old_bias_convention_is_a_parameter(trained, open_site, tmp_path):
    """Weights that are right only if b_dec is taken off the input: the same function, stored so."""
    coder = trained.coder
    old = SparseCoder(coder.config)
    old.load_state_dict(coder.state_dict())
    old.b_enc.data += coder.W_enc @ coder.b_dec
    old.save(tmp_path)
    x, _ = pairs(trained)
    right = open_site(coder=str(tmp_path), bias_convention="pre-2025-02")
    assert torch.allclose(right.coder(x), coder(x), atol=1e-5)
    wrong = SparseCoder.load(tmp_path)
    assert not torch.allclose(wrong(x), coder(x), atol=1e-2)


def test_a_coder_of_another_hookpoint_is_refused(trained, open_site, tmp_path):
    folder = saved(trained, tmp_path)
    with pytest.raises(ValueError, match=r"belongs to 'layers\.1\.mlp', not to 'layers\.2\.mlp'"):
        _ = open_site(coder=folder, hookpoint="layers.2.mlp").coder


def test_a_mislabelled_coder_cannot_pass(trained, open_site, tmp_path):
    """It says that it belongs there, but does not explain the module."""
    folder = saved(trained, tmp_path, hookpoint="layers.2.mlp")
    coder = SparseCoder.load(folder)
    coder.W_dec.data *= 30
    coder.save(tmp_path)
    with pytest.raises(ValueError, match=r"does not explain 'layers\.2\.mlp': FVU \d"):
        _ = open_site(coder=folder, hookpoint="layers.2.mlp").coder


def test_checked_on_a_text_a_coder_names_the_modules_and_a_wrong_one_cannot_pass(trained):
    """The text that the stage read, given as text: the FVU on it, and the modules by name."""
    coder, subject = trained.coder, trained.subject
    rows = trained.corpus.rows("explain")[:8, 1:]
    texts = [subject.tokenizer.decode(row) for row in rows]
    check = quality.check_on_text(coder, subject, texts, row_tokens=40)
    assert check.hookpoint == "layers.1.mlp: blocks.1.mlp.hook_in → blocks.1.hook_mlp_out"
    x, y = (torch.cat(side) for side in zip(*pairs_of(trained), strict=True))
    assert 0 < check.fvu < 1 and check.fvu == pytest.approx(fvu(y, coder(x)).item(), abs=0.15)
    assert check.tokens == pytest.approx(8 * 39, abs=40)  # some words merge when they are read anew
    with pytest.raises(ValueError, match=r"belongs to 'layers\.1\.mlp', not to 'layers\.2\.mlp'"):
        quality.check_on_text(coder, subject, texts, hookpoint="layers.2.mlp")
    nameless = SparseCoder(coder.config.model_copy(update={"hookpoint": ""}))
    nameless.load_state_dict(coder.state_dict())
    nameless.W_dec.data *= 30
    with pytest.raises(ValueError, match=r"does not explain 'layers\.2\.mlp': FVU \d"):
        quality.check_on_text(nameless, subject, texts, hookpoint="layers.2.mlp")
    with pytest.raises(ValueError, match="hookpoint '' is neither"):
        quality.check_on_text(nameless, subject, texts)


def pairs_of(site: SiteStages):
    return harvest.pairs(site.subject, site.hookpoint, site.corpus.rows("explain"))


@pytest.mark.parametrize("what", [{"latents": 24}, {"k": 2}, {"skip": True}])
def test_a_coder_of_other_sizes_than_the_run_says_is_refused(trained, open_site, tmp_path, what):
    name = next(iter(what))
    with pytest.raises(ValueError, match=rf"has {name} = .*; set sites\.s\.{name} to "):
        _ = open_site(coder=saved(trained, tmp_path), **what).coder


def test_a_coder_of_another_width_is_refused(open_site, tmp_path):
    config = CoderConfig(d_in=16, num_latents=12, k=3, hookpoint="layers.1.mlp")
    SparseCoder(config).save(tmp_path)
    with pytest.raises(ValueError, match="maps width 16 to 16, but the activations are 32"):
        _ = open_site(coder=str(tmp_path)).coder


def test_the_random_control_is_centred_and_reproducible(open_site, trained):
    site = open_site(coder="random")
    x, y = pairs(site)
    assert torch.allclose(site.coder.b_dec, y.mean(0), atol=0.2 * float(y.std()))
    assert torch.allclose(site.coder.W_dec.norm(dim=1), torch.ones(12), atol=1e-5)
    assert float((site.coder.encode(x).values > 0).float().mean()) > 0.9
    assert site.training.empty


def test_the_optimiser_and_the_warm_up_are_parameters(open_site, trained):
    signum = open_site(optimizer="signum", lr=0.003)
    longer = open_site(warmup_steps=1)
    assert signum.training["fvu"].iloc[-1] < 1.1  # 46 steps
    rates = [site.training["learning_rate"].tolist() for site in (trained, longer, signum)]
    assert rates[2] == [pytest.approx(0.003)] * len(rates[2])
    weights = [site.coder.W_dec for site in (trained, longer, signum)]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_decoder_norms_and_dead_latents_are_parameters(open_site):
    sae = {"hookpoint": "layers.1"}
    normed = open_site(**sae, normalize_decoder=True)
    assert torch.allclose(normed.coder.W_dec.norm(dim=1), torch.ones(12), atol=1e-5)
    assert not torch.allclose(open_site(**sae).coder.W_dec.norm(dim=1), torch.ones(12), atol=1e-3)
    crowded = {"latents": 30, "k": 1, "tokens": 1500}
    dead, revived = (open_site(**crowded, dead_after=200, auxk_alpha=a) for a in (0.0, 1.0))
    assert dead.training["dead"].max() > 0
    assert not torch.equal(dead.coder.W_enc, revived.coder.W_enc)


def test_a_streamed_coder_needs_no_disk_and_explains_as_much(open_site, trained):
    """Rows in the place of tokens are shuffled, so the weights differ and the FVU hardly."""
    site = open_site(stream=True)
    assert site.coder_stage.manifest["facts"]["steps"] > 30
    fvus = [s.quality.set_index("arm").loc["coder", "fvu"] for s in (site, trained)]
    assert fvus[0] == pytest.approx(fvus[1], abs=0.15) and fvus[0] < 0.95


def test_settings_at_their_defaults_leave_older_coders_where_they_are(trained, open_site):
    asked = trained.coder_stage.manifest["parameters"]
    assert set(asked) == {
        *("hookpoint", "coder", "latents", "k", "skip", "tokens", "epochs", "batch", "lr"),
        *("subject", "seed"),
    }
    assert "warmup_steps" in open_site(warmup_steps=1).coder_stage.manifest["parameters"]
    assert open_site(auxk_alpha=0.0).coder_stage.hash == trained.coder_stage.hash


# ── side by side (notebook 11) ────────────────────────────────────────────────────────────────


@pytest.fixture
def kinds(open_site) -> dict[str, SiteStages]:
    """One coder of each kind."""
    return {
        "plain": open_site(),
        "skip": open_site(skip=True),
        "sae": open_site(hookpoint="layers.1"),
        "random": open_site(coder="random"),
    }


def test_the_table_has_a_row_a_coder_with_what_it_keeps_and_leaves(kinds):
    table = coder_table(kinds).set_index("site")
    assert list(table["kind"]) == ["transcoder", "skip transcoder", "SAE", "random transcoder"]
    assert set(table["layer"]) == {1}
    for name, site in kinds.items():
        row, arms = table.loc[name], site.quality.set_index("arm")
        assert row["FVU"] == arms.loc["coder", "fvu"]
        range_ = arms.loc["latents at mean", "delta"] - arms.loc["coder", "delta"]
        assert row["range"] == pytest.approx(range_)
        assert row["range_low"] <= row["range"] <= row["range_high"]
        gone = arms.loc["output at mean", "delta"]
        assert row["recovered"] == pytest.approx(1 - arms.loc["coder", "delta"] / gone, abs=1e-6)
    assert table.loc["random", "FVU"] > 1 > table.loc["plain", "FVU"] > table.loc["skip", "FVU"]


def test_firing_rates_are_over_all_rows_that_are_not_training_rows(kinds):
    table = coder_table(kinds).set_index("site")
    rate, tokens_there = coders.rates([kinds["plain"].cache(split) for split in CACHED_SPLITS])
    site = kinds["plain"]
    fired, tokens = np.zeros(12), 0
    for split in CACHED_SPLITS:
        rows = site.corpus.rows(split)
        x = hooked(site.collector, rows, site.hookpoint).inputs[counted(rows, site.corpus.masked)]
        on = site.coder.dense(site.coder.encode(x)) > 0
        fired, tokens = fired + on.sum(0).numpy(), tokens + len(on)
    np.testing.assert_allclose(rate, fired / tokens, atol=2e-3)
    assert table.loc["plain", "tokens"] == tokens == tokens_there
    assert table.loc["plain", "L0"] == pytest.approx(rate.sum())
    assert table.loc["plain", "dead"] == (rate == 0).mean()


def test_the_quality_of_the_untouched_and_of_nothing_are_the_ends_of_recovered(kinds):
    arms = kinds["plain"].quality.set_index("arm")
    assert arms.loc["output at mean", "recovered"] == pytest.approx(0)
    assert arms.loc["coder", "over_coder"] == 0


def test_the_figures_draw_the_table(kinds, drawing):
    table = coder_table(kinds)
    _, (by_layer, by_width, rates) = figures.panels(3, columns=3)
    coders.lines(by_layer, table, x="layer", y="range", title="r")
    coders.lines(by_width, table, x="latents", y="FVU", title="f")
    found = {name: site.cache("explain").rate for name, site in kinds.items()}
    named = dict(zip(table["site"], table["kind"], strict=True))
    drawn = coders.firing_rates(rates, found, named)
    lines = {line.get_label(): line.get_ydata() for line in by_layer.lines}
    assert list(lines["SAE"]) == [table.set_index("kind").loc["SAE", "range"]]
    worth = {bars.get_label(): bars.lines[0].get_ydata() for bars in by_layer.containers}
    assert list(worth["whole output at its mean"]) == [table["worth"].iloc[0]]
    assert by_layer.get_ylabel() == "range left to the latents (nats)"
    assert [text.get_text() for text in by_width.get_xticklabels()] == ["12"]
    assert len(drawn) == 4 * 12 and set(drawn["site"]) == set(kinds)
    assert len({line.get_linestyle() for line in rates.lines}) == 4


def test_a_line_joins_only_coders_that_differ_in_nothing_else(kinds, drawing):
    one = coder_table(kinds).iloc[[0]]
    wider = [one.assign(latents=n, k=k) for n, k in ((12, 3), (24, 3), (48, 3), (24, 6), (48, 6))]
    (axis,) = coders.over(pd.concat(wider), y="range").axes
    lines = {line.get_label(): list(line.get_xdata()) for line in axis.lines}
    assert lines["transcoder, k 3"] == [12, 24, 48]
    assert lines["transcoder, k 6"] == pytest.approx([24, 48], rel=0.05)
    assert axis.get_title().startswith("MLP, by width (n = ")


def test_the_committed_kinds_are_the_four_of_the_paper_and_the_controls():
    shown = coders.shown(coders.committed("kinds"))
    assert {"transcoder", "skip transcoder", "SAE", "random transcoder", "random SAE"} == set(
        shown["kind"]
    )
    assert {"FVU", "CE recovered", "range (nats)", "L0", "dead"} <= set(shown.columns)
    with pytest.raises(FileNotFoundError, match=r"params/beyond/nothing\.yaml --only 11"):
        coders.committed("nothing")


def test_an_mlp_and_a_residual_stream_do_not_share_a_scale(kinds, drawing):
    figure = coders.over(coder_table(kinds), y="FVU")
    titles = [axis.get_title().split(" (")[0] for axis in figure.axes]
    assert titles == ["MLP, by layer", "residual stream, by layer"]


def test_the_headline_leaves_the_control_out(kinds):
    table = coder_table(kinds).assign(worth_low=0.1)
    text = coders.headline(table)
    assert "3 trained coders" in text and "widest range: " in text and "random" not in text


def test_no_share_is_given_of_an_output_that_is_worth_nothing(kinds):
    table = coder_table(kinds).assign(worth_low=[-0.1, 0.1, -0.1, 0.1])
    said = coders.shown(table)["CE recovered"]
    assert [text == "–" for text in said] == [True, False, True, False]
    nothing = coders.headline(table.assign(worth_low=-0.1))
    assert "at no site is the output's own worth above zero" in nothing

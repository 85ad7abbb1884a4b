"""A subject with checkpoints, from parameters to the table of notebook 07; and one without."""

import dataclasses
import shutil
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from report_cases import found_of
from stage_cases import SITE, FakeLLM, tokenizer_with_chat, write_text
from tiny import tiny_config, tiny_tokenizer
from transformers import AutoModelForCausalLM

from rewrite_utils.llm import opening
from rewrite_utils.params import parse
from rewrite_utils.report import claims, curves, figures, forests, verdicts
from rewrite_utils.rewrite.equivalence import next_token_losses
from rewrite_utils.runs.run import Run
from rewrite_utils.site import SiteStages, open_sites
from rewrite_utils.subject import stage as reading
from rewrite_utils.subject.model import load_subject

NAMES = ["step0", "step4", "step16"]


def write_model(folder: Path, *, seed: int) -> None:
    """A random GPT-NeoX with its tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(tiny_config("neox")).save_pretrained(folder)
    tokenizer_with_chat(tiny_tokenizer()).save_pretrained(folder)


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> dict:
    """A run on a model with three checkpoints, the last of which is the model itself."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate(NAMES):
        write_model(folder / "model" / name, seed=seed)
    shutil.copytree(folder / "model" / "step16", folder / "model", dirs_exist_ok=True)
    corpus = {"sources": [write_text(folder / "text")], "row_tokens": 40, "max_rows": 20}
    corpus["draw"] = "seed"  # what is asserted of chances below was seen on this draw
    shares = {"train": 0.4, "explain": 0.2, "score": 0.2, "calibrate": 0.1, "evaluate": 0.1}
    return {
        "name": "tiny",
        "figures": str(folder / "figures"),
        "subject": {"model": str(folder / "model"), "checkpoints": NAMES, "device": "cpu"},
        "corpus": corpus | shares,
        "sites": {"mlp": SITE | {"hookpoint": "layers.0.mlp", "control_windows": 30}},
        "explain": {"windows": 4, "window_tokens": 8, "min_firings": 5},
        "score": {"activating": 3, "random": 4, "window_tokens": 8, "per_prompt": 3},
        "simulate": {"window_tokens": 8, "first_position": 10, "align": 4},
        "rewrite": {"fractions": [1.0], "bootstrap": 100},
    }


@pytest.fixture(scope="module")
def site(raw, tmp_path_factory) -> SiteStages:
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
        llm = FakeLLM(tokenizer_with_chat(tiny_tokenizer()))
        patch.setattr(opening, "engine", lambda _: llm)
        site = open_sites(Run(parse(raw), tmp_path_factory.mktemp("run")))["mlp"]
        assert len(site.losses)
        yield site


def test_the_curve_is_each_checkpoints_loss_at_the_evaluate_windows(site):
    curve = site.training_curve
    assert list(curve) == NAMES and len(curve) == 30
    tokens, windows = site.corpus.rows("evaluate").numpy(), site.windows("evaluate")
    for name in NAMES:
        checkpoint = load_subject(site.params.subject.model, revision=name)
        assert np.array_equal(curve[name], next_token_losses(checkpoint, tokens, windows))
    assert not np.allclose(curve["step0"], curve["step4"])


def test_the_last_checkpoint_is_the_untouched_model(site):
    base = site.losses[site.losses["source"] == "coder"].sort_values("window")["base_loss"]
    assert np.allclose(base, site.training_curve["step16"], atol=1e-4)


def arms_of(site) -> pd.DataFrame:
    draws = {"seed": site.params.seed, "resamples": site.params.rewrite.bootstrap}
    steps = site.params.subject.steps
    return verdicts.equivalences(site.losses, site.training_curve, steps, **draws)


def test_every_arm_gets_an_answer(site):
    table = arms_of(site).set_index("source")
    assert {"untouched", "coder", "mean", "output mean", *site.params.rewrite.calibrators} <= set(
        table.index
    )
    assert table.loc["coder", "windows"] == 30
    assert table.loc["shuffled explanations", "windows"] == 5
    assert table.loc["untouched", "CE"] == pytest.approx(site.training_curve["step16"].mean())
    assert table["as good as"].str.contains("of training").all()


def claim_about(found: claims.Found) -> claims.Claim:
    told = [claim for claim in claims.claimed(found) if "checkpoint" in claim.claim]
    [claim] = told
    return claim


def test_the_claim_about_checkpoints_has_this_answer(site):
    claim = claim_about(found_of(site))
    answer = arms_of(site).set_index("source").loc["coder", "as good as"]
    assert claim.ours.startswith(answer)
    assert claim.paper == "≈ 25 % of training" and claim.verdict != "not measured"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (2.0, 12.0, "same direction"),
        (12.0, 14.0, "same direction"),
        (2.0, np.inf, "not resolved"),
        (12.0, np.inf, "not resolved"),
        (np.inf, np.inf, "opposite direction"),
    ],
)
def test_the_claim_about_checkpoints_is_settled_by_its_interval(site, low, high, verdict):
    """Of 16 steps: surely before the end, perhaps, surely not. Once [75 %, beyond] disagreed while
    [75 %, 87 %] agreed, though every step of the second is in the first."""
    found = found_of(site)
    at = found.checkpoint._replace(low=low, high=high)
    told = dataclasses.replace(found, checkpoint=at)
    assert at.final == 16 and claim_about(told).verdict == verdict


def test_the_curve_has_an_interval_at_every_step_and_is_drawn(site, drawing):
    draws = {"seed": site.params.seed, "resamples": site.params.rewrite.bootstrap}
    curve = verdicts.curve(site.training_curve, site.params.subject.steps, **draws)
    assert curve["step"].tolist() == [0, 4, 16]
    np.testing.assert_allclose(curve["CE"], site.training_curve.mean(), rtol=1e-6)
    assert (curve["CE_low"] <= curve["CE"]).all() and (curve["CE"] <= curve["CE_high"]).all()
    _, (axis,) = figures.panels(1)
    curves.checkpoints(axis, curve, arms_of(site), title="t")
    assert list(axis.lines[0].get_ydata()) == curve["CE"].tolist()
    drawn = {line.get_label() for line in axis.lines}
    assert {figures.label("coder"), figures.label("token table")} <= drawn


def test_the_figure_tells_one_answer_from_several_and_from_none(drawing):
    """One crossing: filled; three: hollow, first and last; none: a triangle at the edge."""
    steps = {"first_step": [50.0, 20.0, -np.inf], "last_step": [50.0, 80.0, -np.inf]}
    ends = {"step_low": [40.0, 10.0, -np.inf], "step_high": [60.0, np.inf, -np.inf]}
    arms = pd.DataFrame({**steps, **ends, "crossings": [1, 3, 0], "windows": 9})
    _, (axis,) = figures.panels(1)
    arms["source"] = ["coder", "mean", "output zero"]
    forests.training_shares(axis, arms, final=100, title="t")
    drawn = [(line.get_marker(), list(line.get_xdata())) for line in axis.lines[1::2]]
    assert drawn == [("<", [0.0, 0.0]), ("o", [0.2, 0.8]), ("o", [0.5, 0.5])]
    assert [list(line.get_xdata()) for line in axis.lines[::2]][1:] == [[0.1, 1.0], [0.4, 0.6]]
    assert [line.get_markerfacecolor() for line in axis.lines[1::2]][1] == "white"


def test_a_killed_stage_keeps_the_checkpoints_it_has(site, raw, tmp_path, monkeypatch):
    shutil.copytree(site.run.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "stages" / site.checkpoints_stage.folder.name)
    asked = []

    def loads(model, *, revision, **settings):
        asked.append(revision)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return load_subject(model, revision=revision, **settings)

    monkeypatch.setattr(reading, "load_subject", loads)
    again = open_sites(Run(parse(raw), tmp_path / "run"))["mlp"]
    with pytest.raises(KeyboardInterrupt):
        _ = again.training_curve
    assert again.training_curve.equals(site.training_curve)
    assert asked == ["step0", "step4", "step4", "step16"]


def test_a_checkpoint_that_is_not_there_is_named(site, raw, tmp_path):
    changed = raw | {"subject": raw["subject"] | {"checkpoints": ["step0", "step3"]}}
    again = open_sites(Run(parse(changed), site.run.folder))["mlp"]
    with pytest.raises(ValueError, match="no revision 'step3'; there are: step0, step4, step16"):
        _ = again.training_curve


def test_without_checkpoints_the_claim_says_so(site):
    """Nothing is looked up: the notebook hands over no curve."""
    claim = claim_about(dataclasses.replace(found_of(site), checkpoint=None))
    assert claim.ours == "this subject has no checkpoints" and claim.verdict == "not measured"

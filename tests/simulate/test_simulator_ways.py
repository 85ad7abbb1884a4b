"""Other ways to ask, screening and part of the work, on the whole run of the tiny model."""

import numpy as np
import pytest
import yaml
from stage_cases import FakeLLM, tokenizer_with_chat, used

from rewrite_utils.llm import opening
from rewrite_utils.llm.protocol import EngineDied, Usage
from rewrite_utils.params import Simulate
from rewrite_utils.report import forests, ratings, tables
from rewrite_utils.runs.run import Run
from rewrite_utils.simulate import Part, screening
from rewrite_utils.simulate.__main__ import main
from rewrite_utils.simulate.ways import WAYS
from rewrite_utils.site import open_sites


class Inside(FakeLLM):
    """The fake, and one that reads inside a prompt: the digits there follow from the prompt."""

    def _choices_inside(self, prompts, places, options):
        shape = len(places[0]), len(options)
        found = np.stack([self.probabilities(prompt, shape) for prompt in prompts])
        return np.log(0.9 * found).astype(np.float32), Usage(prompts=len(prompts))


@pytest.fixture(scope="module", autouse=True)
def once(architecture):
    """One architecture is enough here."""
    if architecture != "llama":
        pytest.skip("the same for every architecture")


@pytest.fixture
def asking(world, monkeypatch):
    """Opens the run anew with other parameters and an LLM that remembers what it was asked."""
    llm = Inside(tokenizer_with_chat(world.llm.tokenizer))
    monkeypatch.setattr(opening, "engine", lambda _: llm)

    def opened(**changed):
        return llm, open_sites(world.again(**changed))["mlp"]

    return opened


def test_new_options_leave_finished_stages_as_they_are(world):
    """Fields that were added later are hashed only when they are set."""
    later = Simulate().content()
    assert set(later) == {
        *("window_tokens", "first_position", "last_position", "show_rate", "show_score", "align")
    }
    cut = {"screen": 0.5, "screen_cut": "calibrate"}
    assert Simulate(screen=0.5).content() == later | cut
    assert Simulate(layout="original").content() == later | {"layout": "original"}
    assert Simulate(notes="ahead").content() == later | {"notes": "ahead"}


@pytest.mark.parametrize("other", [{"mode": "all"}, {"layout": "explanation_first"}])
def test_notes_ahead_need_a_prompt_that_shows_them(other):
    with pytest.raises(ValueError, match="use notes 'behind'"):
        Simulate(notes="ahead", **other)


def test_every_way_is_compared_with_the_plain_one_on_the_same_pairs(asking):
    names = [way for way in WAYS if way != "plain"]
    asked = {"studies__simulators": names, "studies__simulator_windows": 6}
    llm, site = asking(**asked, rewrite__bootstrap=100)
    compared = site.ways.comparison()
    table = compared.set_index(["way", "statistic"])
    assert set(table.index.get_level_values("way")) == set(WAYS)
    plain = site.ratings("calibrate").expected[:6]
    assert (table["windows"] == 6).all() and (table["pairs"] == plain.size).all()
    assert (table.loc["plain"]["minus plain"].dropna() == 0).all()
    np.testing.assert_array_equal(site.ways.rated("plain").expected, plain)
    asked = "\n".join(llm.texts)
    assert "responds to 1 in" in asked and "; score 0." in asked and "; not " in asked
    assert "Feature: " in asked and "Description: [fits " in asked
    ahead = site.ways.comparison("ahead").set_index(["way", "statistic"])
    assert (ahead.loc["ahead"]["minus ahead"].dropna() == 0).all()
    places = site.ways.everywhere()
    assert places["triples"].sum() == 2 * plain.size * 8  # two statistics
    whole = tables.stacked({"mlp": compared})
    assert set(WAYS) == set(forests.WAYS)
    shown = ratings.ways(whole)
    assert shown["way"].tolist() == [forests.WAYS[way] for way in WAYS]
    own = shown.set_index("way")["AUROC, − plain"]
    assert own["plain"] == "" and own.drop("plain").str.match(r"[+-]\d\.\d\d \[").all()
    assert "1–2" in set(ratings.everywhere(tables.stacked({"mlp": places}))["tokens"])
    facts = {way: stage.manifest["facts"] for way, stage in site.ways.stages.items()}
    assert len(tables.llm_costs(facts, what="prediction", first="way")) == len(WAYS)


def test_a_way_is_made_once(asking):
    changed = {"studies__simulators": ["rate"], "studies__simulator_windows": 4}
    _, site = asking(**changed)
    site.ways.comparison()
    llm, again = asking(**changed)
    before, since = len(llm.texts), len(again.run.journal)
    again.ways.comparison()
    assert len(llm.texts) == before
    assert used(again.run, since)["05_way_rate.mlp"] == {False}


def test_without_ways_nothing_is_asked(asking):
    llm, site = asking()
    assert site.ways.stages == {}
    assert site.ways.comparison().empty and site.ways.everywhere().empty
    assert llm.texts == []


def test_truth_at_every_token_ends_with_the_truth_at_the_last(asking):
    _, site = asking()
    true = site.true_everywhere("calibrate")
    assert true.shape == (*site.true("calibrate").shape, 8)
    np.testing.assert_array_equal(true[..., -1], site.true("calibrate"))
    assert (true > 0).any()


def test_the_screening_curve_needs_no_llm(asking):
    llm, site = asking(studies__shares=[0.2, 1.0])
    curve = site.screening_curves
    assert set(curve["screen"]) == {"lexical"} and (curve["windows"] == 9 + 5).all()
    assert llm.texts == []


def test_a_screened_run_asks_its_share_and_goes_through_to_the_verdict(asking):
    changed = {"simulate__screen": 0.4, "simulate__screen_by": "lexical"}
    llm, site = asking(**changed)
    texts = {split: site.telling.windows(split) for split in ("calibrate", "evaluate")}
    told = list(site.sentences.values())
    scores = screening.plausible(texts, told, by="lexical", cut="calibrate")
    sent = screening.sent(scores, share=0.4, cut="calibrate")
    for split, which in sent.items():
        np.testing.assert_array_equal(site.sent(split), which)
        np.testing.assert_array_equal(np.isnan(site.ratings(split).expected), ~which)
    assert (sent["calibrate"].sum(0) == round(0.4 * 9)).all()
    asked = sum("«" in text for text in llm.texts)
    assert asked == sum(int(which.sum()) for which in sent.values())
    estimates = site.estimates
    for name in site.params.rewrite.calibrators:
        values = estimates[name].values
        assert np.isfinite(values).all() and (values >= 0).all()
    assert np.isfinite(site.verdict["delta"]).all()
    for split in ("calibrate", "evaluate"):
        assert np.isfinite(ratings.quality(site.ranked(split), site.true(split))["mean E, silent"])


def test_all_positions_is_a_run_of_its_own(asking):
    llm, site = asking(simulate__mode="all")
    ratings = site.ratings("calibrate")
    assert ratings.expected.shape == site.true("calibrate").shape
    assert np.isfinite(ratings.expected).all()
    assert llm.texts == []


# ── part of the work, from the command line ───────────────────────────────────────────────────


@pytest.fixture
def command(world, asking, monkeypatch, tmp_path):
    """``python -m rewrite_utils.simulate`` on the tiny run, in a folder where seed 5 is new."""
    llm, _ = asking()
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(world.raw))
    asked = {"simulate__window_tokens": 9}
    run = world.again(**asked)
    monkeypatch.setattr(
        "rewrite_utils.simulate.__main__.open_run",
        lambda name, overrides: Run(world.again(**asked).params, run.folder),
    )
    return llm, lambda *words: main([str(file), "--site", "mlp", *words])


def test_limit_and_latents_do_part_of_the_work_and_the_rest_follows(command, world, capsys):
    llm, run = command
    site = open_sites(world.again(simulate__window_tokens=9))["mlp"]
    latents = list(site.sentences)
    assert run("--limit", "1", "--latents", f"{latents[0]},{latents[1]}") == 0
    assert "kept, not yet whole" in capsys.readouterr().out
    assert len(llm.texts) == 2 * (4 + 4)
    assert run() == 0
    assert "05_simulation.mlp" in capsys.readouterr().out
    assert len(llm.texts) == len(set(llm.texts)) == len(latents) * (9 + 5)
    assert run() == 0
    assert len(llm.texts) == len(latents) * (9 + 5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--latents", "4711"), "sites.mlp has latents 0 … 11, not 4711"),
        (("--latents", "-1"), "sites.mlp has latents 0 … 11, not -1"),
        (("--site", "attic"), "no site 'attic'; there are mlp, sae"),
    ],
)
def test_a_mistake_is_one_clear_line(command, capsys, words, says):
    llm, run = command
    assert run("-p", "seed", "22", *words) == 1
    assert says in capsys.readouterr().err
    assert not [text for text in llm.texts if "«" in text]


def test_a_server_that_is_not_there_is_said_before_anything_is_made(
    world, monkeypatch, tmp_path, capsys
):
    def nobody(llm):
        raise EngineDied(f"the server at {llm.address} did not answer")

    run = world.again(tmp_path, simulator__engine="server", simulator__address="http://x/v1")
    monkeypatch.setattr(opening, "engine", nobody)
    monkeypatch.setattr("rewrite_utils.simulate.__main__.open_run", lambda *_: run)
    assert main(["params/smoke.yaml"]) == 1
    assert "the server at http://x/v1 did not answer" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_latent_without_a_sentence_is_named_and_nothing_is_asked(command, world, capsys):
    llm, run = command
    described = open_sites(world.again())["mlp"].simulated
    other = next(latent for latent in range(12) if latent not in described)
    assert run("--latents", str(other)) == 1
    assert f"latent {other} has no sentence here; use some of" in capsys.readouterr().err
    assert not [text for text in llm.texts if "«" in text]


@pytest.mark.parametrize("words", [("--limit", "0"), ("--limit", "x"), ("--latents", "a")])
def test_impossible_numbers_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        main(["params/smoke.yaml", *words])
    assert "use" in capsys.readouterr().err


def test_part_is_everything_by_default():
    assert Part() == (None, ())

"""From text to verdict on tiny random models of both architectures, the LLM played by a hash."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from stage_cases import REFUSED, SITES, STAGES, finish, made, used

from rewrite_utils.explain.floor import derangement
from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.controls import token_table, word_list
from rewrite_utils.latents.stage import LATENTS, SIMULATED
from rewrite_utils.latents.windows import window_values
from rewrite_utils.params import ParameterError
from rewrite_utils.report.verdicts import whole
from rewrite_utils.runs.run import DamagedStageWarning
from rewrite_utils.runs.stage import Results
from rewrite_utils.simulate import Layout, Ratings, described
from rewrite_utils.site import SiteStages, open_sites
from rewrite_utils.subject.splice import hooked
from rewrite_utils.subject.stage import CACHED_SPLITS

# ── from text to verdict ──────────────────────────────────────────────────────────────────────


def test_every_stage_is_made_once(world):
    events = [event["stage"] for event in world.run.journal if event["made"]]
    assert sorted(events) == sorted(["00_corpus", *(f"{s}.{n}" for s in STAGES for n in SITES)])


def test_the_coder_is_trained_for_its_hookpoint(site):
    config = site.coder.config
    assert config.hookpoint == site.hookpoint.name == SITES[site.name]
    assert (config.transcode, config.num_latents, config.k) == (site.name == "mlp", 12, 3)
    assert site.training["tokens"].iloc[-1] == 46 * 64 and site.training["fvu"].iloc[-1] < 0.95
    assert not (site.coder_stage.folder / "harvest").exists()


def test_quality_has_every_arm_and_the_coder_is_better_than_nothing(site):
    fvu = site.quality.set_index("arm")["fvu"]
    assert list(fvu.index) == [
        "coder",
        "latents at mean",
        "latents at zero",
        "output at mean",
        "output at zero",
    ]
    assert fvu["coder"] < fvu["output at mean"] < fvu["output at zero"]
    assert fvu["output at mean"] == pytest.approx(1, abs=0.25)


def test_the_cache_is_what_the_coder_says_of_the_rows(site):
    for split in ("explain", "evaluate"):
        cache = site.cache(split)
        assert torch.equal(torch.from_numpy(cache.tokens), site.corpus.rows(split))
        acts = hooked(site.subject, site.corpus.rows(split)[:2], site.hookpoint)
        inputs = acts.inputs[:, 1:].flatten(0, 1)
        expected = site.coder.dense(site.coder.encode(inputs)).detach().numpy()
        ends = np.tile(np.arange(1, 40), 2)
        windows = Windows(np.repeat([0, 1], 39), ends)
        np.testing.assert_allclose(cache.dense(windows), expected, atol=1e-4)


def test_the_described_latents_are_those_that_carry_most_among_the_live_ones(site):
    alive = site.cache("explain").counts >= 5
    left = np.setdiff1d(np.flatnonzero(alive), site.described)
    assert len(site.described) == 5 and alive[site.described].all()
    assert len(left) == 0 or site.energy[left].max() <= site.energy[site.described].min()


def test_a_refusal_is_a_missing_sentence_and_is_asked_again_but_never_simulated(world):
    tables = [site.explanations for site in world.sites.values()]
    assert [len(table) for table in tables] == [5, 5]
    first = tables[0].iloc[0]
    assert (
        first["reply"] == REFUSED
        and first["attempts"] == 3
        and first["sentence"] != first["sentence"]
    )
    assert tables[0]["sentence"].isna().sum() == 1 and not tables[1]["sentence"].isna().any()
    site = world.sites["mlp"]
    assert site.simulated == tables[0]["latent"].tolist()[1:]
    assert set(site.judgements["latent"]) == set(site.simulated)
    assert site.explanations_stage.manifest["facts"]["failures"] == 1


def test_scores_are_of_windows_in_which_the_latent_fires_or_not(site):
    cache = site.cache("score")
    for row in site.judgements.itertuples():
        window = Windows(np.array([row.row]), np.array([row.end]))
        values = window_values(cache, row.latent, window, 8)
        assert (values > 0).any() == row.active
    assert len(site.scores) == len(site.simulated)


def test_a_rating_is_the_answer_to_its_own_window_and_sentence(world, site):
    layout = Layout(world.llm.tokenizer, align=4)
    for split, count in (("calibrate", 9), ("evaluate", 5)):
        ratings, windows = site.ratings(split), site.telling.windows(split)
        assert ratings.expected.shape == (count, len(site.simulated)) == site.true(split).shape
        for place, window in enumerate(windows):
            for column, (latent, sentence) in enumerate(site.sentences.items()):
                prompt = layout.prompt(window, described(sentence, latent=latent))
                digits = world.llm.probabilities(prompt, (1, 10))[0]
                found = ratings.expected[place, column]
                assert found == pytest.approx(digits @ np.arange(10), abs=0.01)


def test_the_rated_token_is_the_one_whose_activation_is_called_true(site):
    windows, cache = site.simulated_windows("evaluate"), site.cache("evaluate")
    texts = [window.text for window in site.telling.windows("evaluate")]
    for place, (row, end) in enumerate(zip(*windows, strict=True)):
        ids = cache.tokens[row, end - 7 : end + 1]
        last = site.quoted(ids)[-1]
        assert texts[place] == "".join(site.quoted(ids)[:-1]) + f"«{last}»"
        for column, latent in enumerate(site.simulated):
            fired = cache.of(latent)
            at = (fired.rows == row) & (fired.positions == end)
            assert site.true("evaluate")[place, column] == fired.values[at].sum()


def test_prompts_quote_every_sentence_and_have_no_braces_left(world):
    told = [text for text in world.llm.texts if "«" in text]
    for site in world.sites.values():
        assert all(any(sentence in text for text in told) for sentence in site.sentences.values())
    assert told and not [text for text in world.llm.texts if "{" in text]


def test_controls_are_measured_everywhere_and_sentences_at_the_first_windows(site):
    told = {*site.params.rewrite.calibrators, "shuffled explanations"}
    free = {"coder", "zero", "mean", "token table", "word list", "output zero", "output mean"}
    assert set(site.losses["source"]) == told | free
    for (source, *_), table in site.losses.groupby(["source", "count", "order"]):
        assert sorted(table["window"]) == list(range(5 if source in told else 9))
    rows, ends = site.windows("evaluate")
    assert (site.simulated_windows("evaluate").rows == rows[:5]).all()
    assert (site.simulated_windows("evaluate").ends == ends[:5]).all()


def test_controls_are_of_the_explain_rows_and_means_of_the_calibrate_rows(site):
    """Neither the rows they are judged on, nor those of the calibration."""
    windows, evaluate = site.windows("evaluate"), site.cache("evaluate")
    table = token_table(site.cache("explain"), windows, evaluate)[:, site.simulated]
    np.testing.assert_array_equal(site.estimates["token table"].values, table)
    mean = site.cache("calibrate").mean[site.simulated].astype(np.float32)
    np.testing.assert_array_equal(site.estimates["mean"].values, np.tile(mean, (9, 1)))
    listed = word_list(site.cache("explain"), windows, evaluate)[:, site.simulated]
    said = site.estimates["word list"].values
    for column in range(len(site.simulated)):
        for side in (0, 1):
            assert len(np.unique(said[listed[:, column] == side, column])) <= 1


def test_the_base_loss_is_the_untouched_model_s_loss_at_that_window(site):
    table = site.losses[site.losses["source"].isin(["coder", site.params.rewrite.headline])]
    rows = site.corpus.rows("evaluate")
    windows = site.windows("evaluate")
    for item in table.itertuples():
        row, end = rows[windows.rows[item.window]], int(windows.ends[item.window])
        with torch.no_grad():
            logits = site.subject.bridge(row[None, : end + 1])[0, -1]
        expected = -logits.log_softmax(-1)[row[end + 1]].item()
        assert item.base_loss == pytest.approx(expected, abs=1e-3)


def test_a_source_is_spliced_in_with_its_own_estimates(site):
    """The squared error of a whole rewrite, computed by hand from the estimates."""
    source, latents = site.params.rewrite.headline, np.array(site.simulated)
    windows, estimate = site.simulated_windows("evaluate"), site.estimates[source].values
    acts = hooked(site.subject, site.corpus.rows("evaluate"), site.hookpoint)
    x, y = (part[windows.rows, windows.ends] for part in (acts.inputs, acts.outputs))
    z = site.coder.dense(site.coder.encode(x))
    z[:, latents] = torch.from_numpy(estimate)
    expected = (y - site.coder.decode_dense(z, x)).square().sum(-1).detach().numpy()
    table = site.losses[(site.losses["source"] == source) & (site.losses["order"] == "all")]
    np.testing.assert_allclose(table.sort_values("window")["squared_error"], expected, rtol=1e-3)


def test_the_verdict_is_finite_and_on_the_simulated_windows(site):
    table = site.verdict
    arms = table[table["count"] > 0]
    assert np.isfinite(arms[["delta", "minus_mean", "minus_zero", "kl", "fvu"]]).all(axis=None)
    assert set(table["windows"]) == {5}
    losses = site.losses[(site.losses["source"] == "coder") & (site.losses["window"] < 5)]
    coder = whole(site.verdict, "coder")
    assert coder["fvu"] == pytest.approx(
        losses["squared_error"].mean() / site.output_moments.variance
    )
    assert whole(site.verdict, site.params.rewrite.headline)["count"] == len(site.simulated)


def test_the_verdict_on_the_controls_uses_all_evaluate_windows(site):
    table = site.control_verdict
    assert set(table["windows"]) == {9} and "raw" not in " ".join(table["source"])
    coder = table.set_index("source").loc["coder"]
    losses = site.losses[site.losses["source"] == "coder"]
    assert coder["delta"] == pytest.approx((losses["loss"] - losses["base_loss"]).mean())


def test_the_shuffled_floor_gives_every_latent_another_s_ratings(site):
    headline = site.params.rewrite.headline
    floor, told = (site.estimates[s].values for s in ("shuffled explanations", headline))
    assert floor.shape == told.shape and not np.allclose(floor, told)
    order = derangement(len(site.simulated), site.params.seed)
    assert (order != np.arange(len(order))).all()
    fitted, asked = (Ratings(*(f[:, order] for f in site.ratings(s))) for s in SIMULATED)
    other = dataclasses.replace(site.evidence, ratings=fitted)
    np.testing.assert_array_equal(floor, other.calibrated(headline, asked))


def test_a_single_sentence_has_no_shuffled_floor_rather_than_itself(world):
    """One sentence has no other latent's sentence to be compared with."""
    alone = {"rewrite__calibrators": ["raw", "isotonic"], "rewrite__headline": "isotonic"}
    site = SiteStages(world.again(sites__sae__described=1, **alone), "sae")
    assert len(site.simulated) == 1
    assert "shuffled explanations" not in site.estimates
    assert set(site.params.rewrite.calibrators) <= set(site.estimates)


# ── reuse ─────────────────────────────────────────────────────────────────────────────────────


def test_opened_again_every_stage_is_reused(world):
    since, asked = len(world.run.journal), len(world.llm.texts)
    finish(open_sites(world.again()))
    found = used(world.run, since)
    assert len(found) == 1 + len(STAGES) * len(SITES) and set().union(*found.values()) == {False}
    assert len(world.llm.texts) == asked


@pytest.mark.parametrize("name", ["simulator__threads", "explainer__threads", "figures", "name"])
def test_what_changes_no_result_remakes_nothing(world, name):
    since = len(world.run.journal)
    finish(open_sites(world.again(**{name: 2 if "threads" in name else "other"})))
    assert made(world.run, since) == set()


@pytest.mark.parametrize(
    ("change", "remade"),
    [
        ({"simulate__window_tokens": 7}, {"05_simulation", "07_rewrite"}),
        ({"rewrite__fractions": [1.0]}, {"07_rewrite"}),
        ({"score__random": 5}, {"04_scores", "07_rewrite"}),
        ({"rewrite__bootstrap": 200}, set()),
    ],
)
def test_only_what_depends_on_a_parameter_is_remade(world, change, remade):
    since = len(world.run.journal)
    finish(open_sites(world.again(**change)))
    assert made(world.run, since) == {f"{stage}.{name}" for stage in remade for name in SITES}


def test_drawn_by_name_another_name_is_another_draw_with_the_same_coder(world, tmp_path):
    """Rows and windows of a larger run of the same seed do not begin with those of a smaller."""
    runs = [world.again(tmp_path / name, name=name, corpus__draw="name") for name in ("a", "b")]
    sites = [SiteStages(run, "mlp") for run in runs]
    for same in (lambda site: site.corpus.rows("train"), lambda site: site.coder.W_dec):
        assert torch.equal(*map(same, sites))
    assert not torch.equal(*(site.corpus.rows("evaluate") for site in sites))
    ends = [site.windows("evaluate").ends.tolist() for site in sites]
    assert ends[0] != ends[1]
    assert sites[0].latents_stage.hash != sites[1].latents_stage.hash


def test_a_change_of_one_site_leaves_the_other_alone(world):
    since = len(world.run.journal)
    finish(open_sites(world.again(sites__sae__evaluate_windows=4)))
    assert made(world.run, since) == {"05_simulation.sae", "07_rewrite.sae"}


def test_a_truncated_stage_is_reported_and_made_again_with_the_same_result(world, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(world.run.folder, folder)
    before = world.sites["mlp"].losses
    stage = world.sites["mlp"].scores_stage.folder.name
    file = folder / "stages" / stage / "judgements.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    again = world.again(folder)
    since = len(again.journal)
    with pytest.warns(DamagedStageWarning, match=r"judgements\.parquet has \d+ bytes instead of"):
        site = SiteStages(again, "mlp")
        assert site.scores.equals(world.sites["mlp"].scores)
        assert site.losses.equals(before)
    assert made(again, since) == {"04_scores.mlp"}


def test_a_run_is_the_same_when_made_again_elsewhere(world, tmp_path):
    site = SiteStages(world.again(tmp_path), "mlp")
    first = world.sites["mlp"]
    assert site.losses.equals(first.losses)
    for one, other in zip(site.ratings("evaluate"), first.ratings("evaluate"), strict=True):
        assert np.array_equal(one, other)


# ── known to be stale (reported to the lead; a mend changes what stages hash or draw) ────────────


def test_more_control_windows_leave_the_rated_windows_where_they_are(world):
    """Also when there are more of them than rows."""
    first = world.sites["mlp"]
    again = SiteStages(world.again(sites__mlp__control_windows=30), "mlp")
    same = all(
        np.array_equal(one, other)
        for one, other in zip(
            first.simulated_windows("evaluate"), again.simulated_windows("evaluate"), strict=True
        )
    )
    assert same or again.simulation_stage.hash != first.simulation_stage.hash


def test_another_headline_gives_another_floor(world):
    """The shuffled arm is calibrated by the headline: it is made anew, not found stale."""
    first = world.sites["mlp"]
    again = SiteStages(world.again(rewrite__headline="quantile:type8"), "mlp")
    floors = [site.estimates["shuffled explanations"].values for site in (first, again)]
    assert not np.allclose(*floors)
    assert again.rewrite_stage.hash != first.rewrite_stage.hash


# ── errors ────────────────────────────────────────────────────────────────────────────────────


def test_fewer_live_latents_than_asked_for_is_an_error_that_says_the_fix(world):
    site = SiteStages(world.again(explain__min_firings=100_000), "mlp")
    with pytest.raises(ParameterError, match=r"described = 5, but only 0 latents fire.*lower"):
        _ = site.explanations


def test_no_live_latent_at_all_is_an_error_too(world):
    changed = {"explain__min_firings": 100_000, "sites__mlp__described": 0}
    with pytest.raises(ParameterError, match=r"described = 0, but only 0 latents fire"):
        _ = SiteStages(world.again(**changed), "mlp").described


def test_a_hookpoint_that_the_model_lacks_is_an_error_that_names_the_range(world):
    site = SiteStages(world.again(sites__mlp__hookpoint="layers.3.mlp"), "mlp")
    with pytest.raises(
        ValueError, match=r"'layers.3.mlp' is not in this model \(layers.0 … layers.2\)"
    ):
        _ = site.coder


def test_a_split_without_a_row_is_an_error_that_names_it(world, tmp_path):
    shares = {"corpus__train": 0.49999, "corpus__score": 0.10001}
    site = SiteStages(world.again(tmp_path, corpus__row_tokens=20_000, **shares), "mlp")
    with pytest.raises(ValueError, match=r"split '\w+' is empty: its share of .* shorten the rows"):
        _ = site.corpus


def test_a_split_without_a_share_is_an_error_that_names_it(world, tmp_path):
    shares = {"corpus__train": 0.6, "corpus__score": 0.0}
    site = SiteStages(world.again(tmp_path, **shares), "mlp")
    with pytest.raises(ValueError, match="no split 'score'"):
        _ = site.cache("explain")


def test_more_windows_than_there_are_places_is_an_error(world):
    site = SiteStages(world.again(sites__mlp__control_windows=10_000), "mlp")
    with pytest.raises(ValueError, match=r"10000 windows asked for.*lower the number of windows"):
        site.windows("evaluate")


def test_an_unknown_site_is_an_error_that_names_the_known(world):
    with pytest.raises(ParameterError, match="no site 'early' in run 'tiny'; it has mlp, sae"):
        SiteStages(world.run, "early")


def test_a_kill_after_the_last_cache_is_written_does_not_bar_the_way(site, tmp_path):
    """The folder of finished batches is gone by then."""
    for file in site.latents_stage.folder.glob("*.safetensors"):
        shutil.copy(file, tmp_path)
    made = Results(site).call(LATENTS.make, tmp_path)
    assert set(made) == set(CACHED_SPLITS)

"""The studies around the rewrite: corrupted oracle, estimators, false alarms, fewer windows."""

import numpy as np
import pandas as pd
import pytest
from latent_cases import cache_of
from report_cases import even_of, losses_in_latent_space, measured_of, odds_of

from rewrite_utils.calibrate import Target
from rewrite_utils.calibrate.oracle import rating_shape
from rewrite_utils.params.measuring import Studies
from rewrite_utils.report import calibrations, verdicts
from rewrite_utils.report import studies as reported
from rewrite_utils.rewrite import studies, study_stages
from rewrite_utils.rewrite.arms import Estimate
from rewrite_utils.rewrite.estimates import KEPT, REFITTED
from rewrite_utils.rewrite.measure import losses_of
from rewrite_utils.rewrite.studies import ALL_TOKENS, FLOOR, SAME_WINDOWS, Material, averaged
from rewrite_utils.simulate import screening
from rewrite_utils.site import SiteStages, open_sites

STUDIES = {
    "latents": 10,
    "sizes": [10, 40],
    "draws": 2,
    "held_windows": 30,
    "aurocs": [0.7, 0.9],
    "calibrators": ["quantile:type7+topk", "isotonic_pooled"],
    "specificities": [0.0, 0.9, 0.999],
    "fewer": 0.4,
}


@pytest.fixture(scope="module")
def material() -> Material:
    """Sixty rows a split; six latents that fire in 2 to 40 % of the tokens, one that never does."""
    caches = [cache(seed) for seed in (0, 1)]
    generator = np.random.default_rng(5)
    ratings = 4 + generator.normal(0, 0.5, (40, 1)) + generator.normal(0, 0.5, (40, 7))
    return Material(*caches, np.arange(6), rating_shape(ratings), (5, 30), 22)


def cache(seed: int):
    generator = np.random.default_rng(seed)
    rate = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.0])
    active = generator.random((60, 32, 7)) < rate
    dense = np.where(active, generator.gamma(3.0, 1.0, active.shape), 0).astype(np.float32)
    dense[:, 0] = 0
    return cache_of(dense, generator.integers(1, 50, (60, 32)))


# ── without a model ───────────────────────────────────────────────────────────────────────────


def test_fewer_windows_are_the_first_of_more(material):
    few, many = (material.windows(material.calibrate, n, 2, 0) for n in (20, 300))
    np.testing.assert_array_equal(few.rows, many.rows[:20])
    np.testing.assert_array_equal(few.ends, many.ends[:20])
    other = material.windows(material.calibrate, 20, 2, 1)
    assert not np.array_equal(few.rows, other.rows)


@pytest.fixture(scope="module")
def mismatch(material):
    asked = Studies(aurocs=(0.7,), sizes=(30, 1000), held_windows=600, draws=2)
    return studies.estimator_mismatch(material, asked)


def test_the_mismatch_has_all_nine_estimators_at_every_size(mismatch):
    told = mismatch[mismatch["n"] > 0]
    counts = told.groupby(["target", "n", "draw"])["estimator"].nunique()
    assert len(counts) == 2 * 2 * 2 and (counts == 9).all()
    assert (mismatch["latents"] == 6).all()
    assert told["firings"].max() == pytest.approx(1000 * 1.07 / 6, rel=0.1)


def test_type_7_invents_maxima_where_type_8_does_not(mismatch):
    few = mismatch[(mismatch["n"] == 30) & (mismatch["target"] == ALL_TOKENS)]
    spurious = few.groupby("type")["spurious"].mean()
    assert spurious[7] > 0.05 and spurious[8] == 0


def test_more_windows_match_better_and_never_beat_the_floor_by_much(mismatch):
    told = mismatch[mismatch["n"] > 0].groupby(["target", "n"])["wasserstein"].mean().unstack()
    assert (told[1000] < told[30]).all()
    floor = mismatch.loc[mismatch["target"] == FLOOR, "wasserstein"].mean()
    assert 0 < floor < 1.5 * told[1000].min()


def test_continuous_types_are_one_without_a_larger_sample(mismatch):
    same = mismatch[(mismatch["target"] == SAME_WINDOWS) & (mismatch["type"] >= 4)]
    spread = same.groupby(["n", "draw"])["wasserstein"].agg(np.ptp)
    assert spread.max() < 1e-6


def test_oracle_estimates_are_fitted_on_calibrate_rows_alone(material):
    held = material.windows(material.evaluate, 50, 9)
    asked = Studies(aurocs=(0.7, 0.95), sizes=(20, 400), calibrators=("isotonic_pooled",))
    found = studies.oracle_estimates(material, held, asked)
    assert len(found) == 4 and all(values.shape == (50, 6) for values in found.values())
    true = material.true(material.evaluate, held)
    error = {
        (told["auroc"], told["n"]): np.square(true - values).sum()
        for name, values in found.items()
        for told in [studies.read_oracle_name(name)]
    }
    assert error[0.95, 400] < error[0.7, 400]


def test_names_of_sources_can_be_read_back():
    name = studies.oracle_name(0.85, 10_000, "quantile:type7+topk")
    assert name.endswith("+topk")
    told = {"auroc": 0.85, "n": 10_000, "calibrator": "quantile:type7+topk"}
    assert studies.read_oracle_name(name) == told
    for topk in (False, True):
        name = studies.alarm_name(0.9995, topk=topk)
        assert studies.read_alarm_name(name) == {"specificity": 0.9995, "topk": topk}
        assert name.endswith("+topk") == topk
    assert studies.read_alarm_name("mean") == studies.read_oracle_name("zero") == {}


def test_ablations_stand_beside_the_sources():
    mean = np.array([1.0, 2.0], np.float32)
    found = studies.with_ablations({"a": np.ones((3, 2))}, mean)
    assert list(found) == ["zero", "mean", "a"]
    np.testing.assert_array_equal(found["mean"].values, np.tile(mean, (3, 1)))
    assert all(estimate.values.dtype == np.float32 for estimate in found.values())


# ── as stages of a finished run ───────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def studied(world):
    """The sites of the finished run, with studies small enough for it."""
    return open_sites(world.again(**{f"studies__{key}": value for key, value in STUDIES.items()}))


@pytest.mark.parametrize("name", ["mlp", "sae"])
def test_all_windows_cost_what_the_rewrite_says(studied, name):
    """Figure A2's filled marks are the rewrite's own arms, measured once more."""
    here, table = studied[name], studied[name].fewer
    count, n = len(here.simulated), here.settings.calibrate_windows
    for source in here.params.rewrite.calibrators:
        theirs = losses_of(here.losses, source, count)
        np.testing.assert_allclose(losses_of(table, f"{n} windows: {source}", count), theirs, 1e-4)


@pytest.mark.parametrize("name", ["mlp", "sae"])
def test_screening_that_sends_all_pairs_costs_what_the_headline_costs(studied, name):
    """And what a first pass leaves out is the bin's mean, whatever it was rated."""
    here = studied[name]
    table, count = here.screened, len(here.simulated)
    every = losses_of(table, "1 by lexical", count)
    np.testing.assert_allclose(
        every, losses_of(here.losses, here.params.rewrite.headline, count), 1e-4
    )
    shares, _ = study_stages.screens(here.params, here.settings)
    texts = {split: here.telling.windows(split) for split in ("calibrate", "evaluate")}
    told, cut = list(here.sentences.values()), here.params.simulate.screen_cut
    scores = screening.plausible(texts, told, by="lexical", cut=cut)
    for share in shares[:-1]:
        found = here.screened_estimates[f"{share:g} by lexical"]
        same = np.array([np.unique(column, return_counts=True)[1].max() for column in found.T])
        left_out = ~screening.sent(scores, share=share, cut=cut)["evaluate"]
        assert (same >= left_out.sum(0)).all()
        assert not np.array_equal(losses_of(table, f"{share:g} by lexical", count), every)
    arms = reported.arms({name: here.judged(table)}, reported.read_share)
    arms = arms.dropna(subset=["share"])
    assert sorted(arms["share"]) == sorted(shares) and set(arms["screen"]) == {"lexical"}


def test_a_run_that_screened_is_asked_about_smaller_shares_only(world):
    asked = {"simulate__screen": 0.5, "simulate__screen_by": "both"}
    here = open_sites(world.again(**asked))["mlp"]
    shares, screens = study_stages.screens(here.params, here.settings)
    assert max(shares) <= 0.5 and screens == ["both"]


def test_a_study_is_made_once_and_follows_its_parameters(studied, world):
    for study in ("estimators", "oracle", "specificity", "fewer"):
        assert len(getattr(studied["mlp"], study))
        since = len(studied["mlp"].run.journal)
        assert len(getattr(SiteStages(studied["mlp"].run, "mlp"), study))
        assert not any(event["made"] for event in studied["mlp"].run.journal[since:])


def test_without_alarms_the_coder_is_left(studied):
    here = studied["mlp"]
    table = here.specificity
    latents = here.studied
    assert len(latents) <= STUDIES["latents"]
    coder = losses_of(table, "coder")
    rare = losses_of(table, "specificity 0.999", len(latents))
    always = losses_of(table, "specificity 0", len(latents))
    assert np.abs(rare - coder).mean() < np.abs(always - coder).mean()
    errors = [
        losses_of(table, f"specificity {level:g}", len(latents), column="squared_error").mean()
        for level in STUDIES["specificities"]
    ]
    assert errors[0] > max(errors[1:])  # rare alarms at nine windows may hit a true activation


def test_alarms_are_counted_for_every_true_activation(studied):
    odds = {name: odds_of(site) for name, site in studied.items()}
    even = {n: {topk: even_of(s, topk=topk) for topk in (False, True)} for n, s in studied.items()}
    even = reported.break_even_table(even, odds)
    for row in even.itertuples(index=False):
        level = 1 - row[3] / odds[row.site]
        if 0 <= level < 1:
            assert row[5] == f"{level:.4f}"
    assert len(even) == 4 and (even["windows"] == 9).all()


def test_without_a_k_no_arm_keeps_the_k_largest_and_no_break_even_is_said():
    target = Target.from_pairs(np.zeros(2, int), np.ones(2), latents=1, total=9)
    told = {"specificities": (0.0, 0.9), "seed": 0}
    true = np.ones((4, 1), np.float32)
    both, plain = (
        studies.alarm_estimates(true, target, topk=topk, **told) for topk in (True, False)
    )
    assert list(plain) == [name for name in both if not name.endswith("+topk")]
    losses = pd.DataFrame(
        [
            {
                "source": source,
                "count": 1,
                "order": "all",
                "window": window,
                "loss": float(window + row),
            }
            for row, source in enumerate(("mean", *plain))
            for window in range(4)
        ]
    )
    found = {
        topk: reported.break_even(losses, silent_to_active=9.0, topk=topk, seed=0)
        for topk in (False, True)
    }
    assert found[True].method == "undefined" and np.isnan(found[True].value)
    assert len(reported.break_even_table({"s": found}, {"s": 9.0})) == 1


@pytest.mark.parametrize("topk", [False, True])
def test_alarms_break_even_where_the_difference_is_zero(topk):
    """CE over mean ablation = log(share of false alarms / .2) ± noise of mean zero."""
    levels, odds = (0.0, 0.5, 0.9, 0.99), 15.0
    noise = np.array([-0.4, -0.1, 0.1, 0.4])
    rows = [("mean", 0.0)] + [
        (studies.alarm_name(level, topk=topk), np.log((1 - level) / 0.2)) for level in levels
    ]
    table = pd.concat(
        [
            pd.DataFrame({"window": range(4), "source": source, "loss": 2 + cost + noise * bool(k)})
            for k, (source, cost) in enumerate(rows)
        ]
    ).assign(count=5, order="all")
    found = reported.break_even(table, silent_to_active=odds, topk=topk, seed=0)
    expected = 0.2 * odds
    assert found.value == pytest.approx(expected) and found.n == 4
    assert 0.66 * expected < found.low < expected < found.high < 1.5 * expected


def test_oracle_arms_say_what_they_are(studied):
    judged = {name: site.judged(site.oracle) for name, site in studied.items()}
    arms = reported.arms(judged, studies.read_oracle_name)
    told = arms.dropna(subset=["auroc"])
    assert len(told) == 2 * 2 * 2 * 2  # sites, qualities, sizes, calibrators
    assert set(told["n"]) == {10, 40} and set(told["calibrator"]) == set(STUDIES["calibrators"])
    assert told["minus_mean"].notna().all() and "smallest visible" in reported.visible(arms)


def test_latent_losses_are_those_of_the_estimates(studied):
    here = studied["sae"]
    names = ["raw", "isotonic", "centred+standardised+capped+isotonic_pooled"]
    found = losses_in_latent_space(here, names)
    assert set(found["where"]) == {
        "evaluate", "evaluate, top k", "calibrate, held out", "calibrate, in-sample",
    }  # fmt: skip
    decoder = here.coder.W_dec.detach().double().numpy()[here.simulated]
    true, mean = here.true("evaluate"), here.cache("calibrate").mean[here.simulated]
    raw_estimate = here.evidence.calibrated("raw", here.ratings("evaluate"))
    error, ablated = (
        np.square((true - e).astype(float) @ decoder).sum(1).mean() for e in (raw_estimate, mean)
    )
    row = found[(found["source"] == "raw") & (found["where"] == "evaluate")].iloc[0]
    assert row["difference"] == pytest.approx(error / ablated - 1, rel=1e-4)
    assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    own = found[found["where"] == "calibrate, in-sample"].set_index("source")["difference"]
    held = found[found["where"] == "calibrate, held out"].set_index("source")["difference"]
    assert own["isotonic"] < held["isotonic"]


def test_top_k_in_latent_space_is_the_splices(studied):
    """Keeping the k largest of the true latents changes nothing; the loss then has no error."""
    here = studied["mlp"]
    measured, true = measured_of(here), here.true("evaluate")
    assert measured.after_topk(true).estimate.max() < 1e-9
    zeros = measured.after_topk(np.zeros_like(true))
    plain = measured.loss(true, np.zeros_like(true))
    np.testing.assert_allclose(zeros.estimate, plain.estimate, rtol=1e-5)


def test_a_factor_of_nothing_is_mean_ablation_on_the_calibrate_windows(studied):
    here = studied["mlp"]
    table, count = here.shrink, len(here.simulated)
    assert table["window"].nunique() == here.settings.calibrate_windows
    for name in ("quantile:type8", here.params.rewrite.headline):
        nothing = losses_of(table, f"0 of {name}", count)
        np.testing.assert_allclose(nothing, losses_of(table, "mean", count), rtol=1e-5)
        whole = losses_of(table, f"1 of {name}", count)
        assert not np.allclose(whole, nothing)
    best = reported.best_factors(table, seed=here.params.seed)
    assert best["best factor"].isin(here.params.studies.factors).all() and len(best) == 2


@pytest.fixture(scope="module")
def truncated(world) -> dict:
    """The run with a headline that keeps the k largest, as params/pythia-160m.yaml declares one."""
    names = ["quantile:type7", "raw+topk"]  # raw: every latent is above 0, so TopK takes some away
    changed = {"rewrite__calibrators": names, "rewrite__headline": names[-1]}
    studied = STUDIES | {"shares": [1.0], "factors": [0.0, 1.0]}
    return open_sites(world.again(**changed, studies=studied))


def test_the_studies_of_a_headline_with_top_k_splice_it_as_the_rewrite_does(truncated):
    """Once the screened arms kept all latents, and factor 0 kept the k largest of the means."""
    here, name = truncated["mlp"], "raw+topk"
    table, count = here.shrink, len(here.simulated)
    nothing = losses_of(table, "0 of raw", count)
    np.testing.assert_allclose(nothing, losses_of(table, "mean", count), rtol=1e-5)
    sources = here.screened["source"].unique().tolist()
    assert "1 by lexical+topk" in sources
    judged = here.judged(here.screened)
    arms = reported.arms({"mlp": judged}, reported.read_share)
    assert set(arms["screen"].dropna()) == {"lexical"} and set(arms["share"].dropna()) == {1.0}
    floor = here.estimates["shuffled explanations"]
    assert floor.topk and not here.estimates[name].topk


def test_the_floor_of_a_headline_with_top_k_keeps_the_k_largest_too(truncated):
    here = truncated["mlp"]
    values = here.estimates["shuffled explanations"].values
    named = {"a": Estimate(values, ("top",)), "b+topk": Estimate(values, ("top",))}
    windows, latents = here.simulated_windows("evaluate"), np.array(here.simulated)
    table = here.splicer.losses(windows, named, latents, "t", seed=here.params.seed)
    count = len(here.simulated)
    floor = losses_of(here.losses, "shuffled explanations", count)
    np.testing.assert_allclose(floor, losses_of(table, "b+topk", count), rtol=1e-4)
    assert not np.allclose(floor, losses_of(table, "a", count), rtol=1e-4)


def test_condition_has_the_simulator_and_the_oracles(studied):
    tables = []
    for name, site in studied.items():
        matched = site.evidence.calibrated("quantile:type8", site.ratings("evaluate"))
        own = calibrations.condition(site.true("evaluate"), matched, site.evidence.target.mean)
        tables.append(own.assign(site=name, what="simulator"))
        material = site.material
        own = calibrations.oracle_condition(material, auroc=0.9, windows=40, held=30)
        tables.append(own.assign(site=name, what="oracle of AUROC 0.9"))
    found = pd.concat(tables, ignore_index=True)
    assert set(found["what"]) == {"simulator", "oracle of AUROC 0.9"}
    assert found["rho"].dropna().between(-1, 1).all() and (found["loss"] >= 0).all()
    table = calibrations.condition_table(found)
    assert table["windows"].tolist() == [5, 30, 5, 30]
    own = table[table["what"] == "simulator"].set_index("site")
    for name, site in studied.items():
        assert own.loc[name, "latents"] == (site.true("evaluate") > 0).any(0).sum()


def test_a_latent_whose_match_never_fires_counts_as_no_better_than_the_mean():
    """Left out, only latents with a guess were counted: 13 of the 23 that fire, in one run."""
    true = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    estimate = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    found = calibrations.condition(true, estimate, true.mean(0))
    assert found["rho"].tolist() == [1.0, pytest.approx(np.nan, nan_ok=True)]  # the third is silent
    assert found["loss"].tolist() == [0.0, pytest.approx(1 / 0.75)]
    row = calibrations.condition_table(found.assign(site="a", what="simulator")).iloc[0]
    assert (row["latents"], row["with_rho"]) == (2, 1)
    assert (row["median_rho"], row["above_half"], row["beat_the_mean"]) == (1.0, 1, 1)


def test_choice_is_against_the_first_on_calibrate_windows(studied):
    told = [measured_of(site) for site in studied.values()]
    table = pd.concat([calibrations.choice(one, "isotonic", ["isotonic", "raw"]) for one in told])
    own = table[table["calibration"] == "isotonic"]
    assert (own["loss − isotonic's"] == 0).all() and (table["calibrate windows"] == 9).all()


def test_fewer_windows_are_fitted_on_the_first_and_leave_the_target_whole(studied):
    here = studied["mlp"]
    few = here.evidence.first(3)
    np.testing.assert_array_equal(few.true, here.true("calibrate")[:3])
    assert few.target is here.evidence.target and len(few.ratings.expected) == 3


def test_specificity_arms_are_spliced_at_the_same_windows_as_the_rewrite(studied):
    table, here = studied["mlp"].specificity, studied["mlp"]
    np.testing.assert_allclose(losses_of(table, "coder"), losses_of(here.losses, "coder"), 1e-4)


def test_both_floors_are_measured_over_several_derangements(studied):
    """The refitted curve of the first is the floor of the rewrite itself; the kept one can move."""
    here = studied["mlp"]
    count, table = len(here.simulated), here.floors
    names = {f"{floor}{n}" for floor in (REFITTED, KEPT) for n in ("", " 2", " 3")}
    assert set(table["source"]) == names | {"coder", "zero", "mean"}
    same = losses_of(here.losses, REFITTED, count)
    np.testing.assert_allclose(losses_of(table, REFITTED, count), same, 1e-3)
    each = [losses_of(table, KEPT + number, count) for number in ("", " 2", " 3")]
    mean = losses_of(averaged(table), KEPT, count)
    np.testing.assert_allclose(mean, np.mean(each, axis=0), 1e-5)
    shown = verdicts.shown(verdicts.final({"mlp": here.judged(averaged(table))}))
    assert set(shown["source"]) == {REFITTED, KEPT, "zero"}

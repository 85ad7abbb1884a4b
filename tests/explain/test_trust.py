"""Optional sentences and scores on the tiny run: own stages, floors, pairs, blind spots."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from report_cases import compared
from scipy.stats import spearmanr
from stage_cases import made

from rewrite_utils.explain.export import export
from rewrite_utils.explain.floor import derangement
from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.stage import Caches
from rewrite_utils.latents.windows import apart_from, window_values
from rewrite_utils.llm import embedding
from rewrite_utils.params import ParameterError
from rewrite_utils.report import scores, spreads, tables
from rewrite_utils.report.scores import nearest_cosine
from rewrite_utils.score.refine import held_out
from rewrite_utils.score.stage import KINDS as SCORE_KINDS
from rewrite_utils.score.stage import drawing
from rewrite_utils.site import SiteStages, open_sites

ALL = {"score__fuzzing": 2, "score__hard": 3, "score__shuffled": True, "score__hard_by": "decoder"}
pytestmark = pytest.mark.parametrize("architecture", ["llama"], indirect=True, scope="session")
"""One subject is enough: what is tested here never looks inside it."""
KINDS = ["embedding", "cofiring+refined", "logits"]


def letters_of(texts):
    """A made-up embedding: how often each letter stands in the text, as a unit vector."""
    counts = np.array([[text.count(letter) for letter in "aehinrst7"] for text in texts], float)
    counts[:, 0] += 0.1
    return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def judged(world):
    """The tiny run with every optional score, and three other kinds of sentences."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "embedder", lambda: letters_of)
        sites = open_sites(world.again(**ALL, explain__compared=KINDS))
        compared(sites)
        yield sites


# ── stages ────────────────────────────────────────────────────────────────────────────────────


def test_options_that_are_off_leave_every_stage_what_it_is(world, judged):
    for name, site in judged.items():
        assert site.explanations_stage.hash == world.sites[name].explanations_stage.hash
        assert site.scores_stage.hash == world.sites[name].scores_stage.hash
        assert site.variant("plain").sentences_stage.hash == site.sentences_stage.hash


def test_every_kind_has_artefacts_of_its_own(judged):
    site = judged["mlp"]
    found = site.variants
    assert list(found) == ["plain", *KINDS]
    assert len({one.sentences_stage.hash for one in found.values()}) == 4
    assert found["cofiring+refined"].sentences_stage.name == "03_refined.mlp"
    for one in found.values():
        assert one.latents_stage.hash == site.latents_stage.hash
        assert set(one.explanations["latent"]) == set(site.explanations["latent"])


def test_nothing_is_made_twice(world, judged):
    since, asked = len(world.run.journal), len(world.llm.texts)
    again = open_sites(world.again(**ALL, explain__compared=KINDS))
    compared(again)
    assert made(world.run, since) == set() and len(world.llm.texts) == asked


def test_a_refined_round_keeps_the_sentence_before_it(judged):
    table = judged["sae"].variant("refined").explanations
    assert table["before"].tolist() == judged["sae"].explanations["explanation"].tolist()
    changed = table["explanation"] != table["before"]
    assert (changed <= (table["misses"] + table["alarms"] > 0)).all() and changed.any()


def test_the_prompt_of_a_contrastive_kind_shows_counterexamples(judged):
    text = judged["mlp"].variant("embedding").shown()
    assert "No response:" in text and "No response:" not in judged["mlp"].shown()
    raised = judged["mlp"].variant("logits").shown()
    assert "Makes likelier: " in raised and "Makes less likely: " in raised


def test_the_shuffled_floor_judges_the_same_windows_by_another_sentence(judged):
    site = judged["mlp"]
    own, floor = site.judgements, site.judgements_of("shuffled")
    columns = ["latent", "row", "end", "active"]
    pd.testing.assert_frame_equal(own[columns], floor[columns])
    assert not np.allclose(own["probability"], floor["probability"])
    order = derangement(len(site.sentences), site.params.seed)
    assert (order != np.arange(len(order))).all()


def test_one_sentence_has_no_floor_and_the_error_says_so(world):
    site = SiteStages(world.again(**ALL, sites__sae__described=1), "sae")
    with pytest.raises(ValueError, match="needs 2 latents with a sentence or more, not 1"):
        site.judgements_of("shuffled")


def test_every_judged_window_fires_or_not_in_the_score_rows(judged):
    """Fuzzing's windows all fire; what is right or wrong there are the marks."""
    for site in judged.values():
        cache = site.cache("score")
        for kind in site.score_kinds:
            table = site.judgements_of(kind)
            assert set(table["latent"]) <= set(site.simulated)
            for row in table.itertuples():
                window = Windows(np.array([row.row]), np.array([row.end]))
                fires = (window_values(cache, row.latent, window, 8) > 0).any()
                assert fires == (row.active or kind == "fuzzing")
        fuzzed = site.judgements_of("fuzzing").groupby("latent")["active"]
        assert (fuzzed.size() <= 4).all() and (fuzzed.sum() >= fuzzed.size() / 2).all()


class Watched(Caches):
    """The caches of a site, and the splits that were asked for."""

    def __init__(self, caches: Caches, read: list[str]) -> None:
        self._caches, self._asked = caches, read

    def __call__(self, split: str) -> LatentCache:
        self._asked.append(split)
        return self._caches(split)


@pytest.mark.parametrize("kind", ["plain", *KINDS])
def test_sentences_are_written_from_the_explain_rows_alone(judged, monkeypatch, kind):
    """Windows, counterexamples, and those that a refined sentence is tried on."""
    for site in judged.values():
        one, read = site.variant(kind), []
        cache = one.cache
        monkeypatch.setattr(one, "cache", Watched(cache, read))
        latents = one.described.tolist()
        one.evidence_source.questions(latents)
        for latent in latents:
            held_out(one.evidence_source, latent)
        assert set(read) == {"explain"}


def test_sentences_are_tried_on_the_score_rows_alone(judged, monkeypatch):
    for site in judged.values():
        one, read = SiteStages(site.run, site.name), []
        cache = one.cache
        monkeypatch.setattr(one, "cache", Watched(cache, read))
        for kind in one.score_kinds:
            draw = drawing(kind, one.cache, one.coder, one.quoted, one.params)
            for latent in site.simulated:
                assert len(draw(latent, np.random.default_rng(0)).texts)
        assert set(read) == {"score"}


def test_held_out_rows_need_rows_that_are_not_scored(world):
    with pytest.raises(ParameterError, match=r"set explain\.refine = 0 or corpus\.faithful"):
        world.again(corpus__faithful=True, explain__refine=2)
    with pytest.raises(ParameterError, match="no kind of explanation 'embeding'"):
        world.again(explain__compared=["embeding"])


# ── tables ────────────────────────────────────────────────────────────────────────────────────


def every_test(site: SiteStages) -> pd.DataFrame:
    found = {SCORE_KINDS[kind].label: site.scores_of(kind) for kind in site.score_kinds}
    parts = [table.assign(test=label) for label, table in found.items()]
    return pd.concat(parts, ignore_index=True)


def test_scores_stand_beside_their_floors(judged):
    found = tables.stacked({name: every_test(site) for name, site in judged.items()})
    labels = {SCORE_KINDS[kind].label for kind in ("detection", "hard", "fuzzing", "shuffled")}
    assert set(found["test"]) == labels and set(found["site"]) == {"mlp", "sae"}
    table = scores.means(found, seed=0)
    assert len(table) == 2 * len(labels)
    row = table.iloc[0]
    mean = judged["mlp"].scores["auroc"].dropna().mean()
    assert row["AUROC"].startswith(f"{mean:.2f} [") and row["latents"] == len(judged["mlp"].scores)


def test_a_coder_with_random_weights_is_the_floor_of_its_hookpoint(world):
    raw = json.loads(json.dumps(world.raw))
    floor = raw["sites"]["mlp"] | {"coder": "random"}
    sites = world.again(sites__floor=floor).params.sites
    assert scores.trained(sites) == ["mlp", "sae"]
    assert scores.trained({"floor": sites["floor"]}) == ["floor"]
    assert scores.random_coder(sites, "mlp") == "floor"
    assert scores.random_coder(sites, "sae") is scores.random_coder(sites, "floor") is None


def test_pairs_are_of_the_same_latents(judged):
    every = compared(judged)
    found = scores.paired(every, seed=0)
    assert set(found["kind"]) == set(KINDS) and (found["latents"] <= 5).all()
    row = found[(found["site"] == "sae") & (found["test"] == "detection")].iloc[0]
    wide = every[(every["site"] == "sae") & (every["test"] == "detection")].pivot(
        index="latent", columns="kind", values="auroc"
    )
    by_hand = (wide[row["kind"]] - wide["plain"]).dropna()
    assert row["difference"] == pytest.approx(by_hand.mean())
    if by_hand.nunique() > 1:  # else there is no interval
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    assert (row["better"], row["worse"]) == ((by_hand > 0).sum(), (by_hand < 0).sum())
    text = scores.comparison(found)
    assert text.count("n = ") == len(found)
    assert "compared is empty" in scores.comparison(scores.paired(every[:0], seed=0))


def test_without_other_kinds_the_plain_one_is_the_run_itself(world):
    assert list(world.sites["mlp"].variants) == ["plain"]
    assert world.sites["mlp"].variants["plain"] is world.sites["mlp"]
    assert scores.paired(compared(world.sites), seed=0).empty


def columns_of(site: SiteStages) -> pd.DataFrame:
    kinds = [kind for kind in site.score_kinds if kind != "shuffled"]
    found = {kind: site.scores_of(kind).set_index("latent")["auroc"] for kind in kinds}
    expected, true = (
        np.concatenate([part(split) for split in ("calibrate", "evaluate")])
        for part in (lambda split: site.ratings(split).expected, site.true)
    )
    simulated = pd.Series(scores.simulation(expected, true), index=site.simulated)
    return pd.DataFrame(found | {scores.SIMULATION: simulated})


def test_agreement_is_spearmans_over_latents(judged):
    every = {name: columns_of(site) for name, site in judged.items()}
    table = scores.agreement(every, seed=0)
    assert {"simulation (correlation)"} <= {*table["score"], *table["other score"]}
    one, other = "detection", "fuzzing"
    both = every["sae"][[one, other]].dropna()
    row = table[
        (table["site"] == "sae") & (table["score"] == one) & (table["other score"] == other)
    ]
    assert row["latents"].item() == len(both)
    if len(both) >= 4 and both.nunique().min() > 1:
        expected = spearmanr(both[one], both[other]).statistic
        assert row["rank correlation"].iloc[0].startswith(f"{expected:+.2f} [")


def test_the_simulation_score_is_of_rating_and_truth(world):
    site = world.sites["mlp"]
    said = np.concatenate([site.ratings(s).expected for s in ("calibrate", "evaluate")])
    true = np.concatenate([site.true(s) for s in ("calibrate", "evaluate")])
    found = scores.simulation(said, true)
    for place in range(len(site.simulated)):
        if np.ptp(true[:, place]):
            expected = np.corrcoef(said[:, place].astype(float), true[:, place])[0, 1]
            assert found[place] == pytest.approx(expected)
        else:
            assert np.isnan(found[place])


def test_whether_ratings_are_there_is_asked_without_making_them(world):
    since = len(world.run.journal)
    other = SiteStages(world.again(simulate__window_tokens=6), "mlp")
    assert world.sites["mlp"].is_simulated and not other.is_simulated
    assert not {name for name in made(world.run, since) if name.startswith("05")}


# ── what a score cannot see ───────────────────────────────────────────────────────────────────


def test_traits_know_copies_near_copies_and_what_fits_everything(world):
    vectors = np.array([[1, 0], [0.6, 0.8], [1, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(nearest_cosine(vectors), [1, 0.8, 1, 0.8], atol=1e-6)
    assert np.isnan(nearest_cosine(vectors[:1])).all()
    site = world.sites["sae"]
    table = site.explanations.copy()
    table["explanation"] = ["The same.", "the same", "other words here", "a", "b"]
    table["sentence"] = table["explanation"] + " (x)"
    rates = site.score_intervals()
    traits = scores.traits(table, rates, embed=letters_of)
    assert traits["same text"].tolist() == [True, True, False, False, False]
    assert traits["words"].tolist() == [2, 2, 3, 1, 1]
    specificity = rates.set_index("latent")["specificity"]
    assert traits["specificity"].tolist() == specificity.reindex(traits["latent"]).tolist()
    row = scores.unseen(traits.assign(site="sae")).iloc[0]
    assert row["same text as another"].startswith("40% [12%, 77%]")
    assert row["sentences"] == 5 and row["words, longest"] == 3


def test_costs_have_a_line_a_stage(judged):
    site = judged["mlp"]
    stages = [site.written_stage, *(site.kind_stage(kind) for kind in site.score_kinds)]
    facts = {stage.name.partition(".")[0]: stage.manifest["facts"] for stage in stages}
    table = tables.llm_costs(facts, what="latent", first="stage")
    stages = {"03_explanations", "04_scores", "04_hard", "04_fuzzing", "04_shuffled"}
    assert set(table["stage"]) == stages and len(table) == len(stages)


def test_a_refined_sentence_costs_both_rounds(judged):
    one = judged["mlp"].variants["cofiring+refined"]
    names = [stage.name for stage in (one.explanations_stage, one.written_stage)]
    assert names == ["03_explanations.mlp", "03_refined.mlp"]


def test_best_and_worst_have_intervals_and_name_no_latent_twice(judged):
    for site in judged.values():
        told = site.scores.merge(site.score_intervals(), on="latent")
        told = told.assign(sentence=told["latent"].map(site.sentences))
        table = scores.extremes(told, each=3)
        assert table["latent"].is_unique and len(table) == min(6, len(site.scores.dropna()))
        for column in ("AUROC", "found of the firing", "left out of the silent"):
            assert table[column].str.contains(r"^\S+ \[\S+, \S+\]$").all()
        best = float(table["AUROC"].iloc[0].split()[0])
        assert best == pytest.approx(site.scores["auroc"].max(), abs=0.005)


@pytest.mark.usefixtures("drawing")
def test_the_figures_draw_every_latent(judged):
    site = judged["sae"]
    part = every_test(site)
    own = scores.traits(site.explanations, site.score_intervals(), embed=letters_of)
    figure, axes = plt.subplots(1, 3)
    spreads.floors(axes[0], part, title="sae")
    drawn = {line.get_label().partition(":")[0] for line in axes[0].lines[:-1]}
    assert drawn == {str(test).partition(":")[0] for test in part["test"]}
    dashed = [line for line in axes[0].lines if line.get_linestyle() == "--"]
    assert [("floor" in str(line.get_label())) for line in dashed] == [True] * len(dashed) != []
    spreads.near_copies(axes[1], own, alike=scores.ALIKE, title="sae")
    spreads.over_general(axes[2], own, title="sae")
    assert sum(bar.get_height() for bar in axes[1].patches) == own["nearest cosine"].notna().sum()
    figure.canvas.draw()


# ── delphi ────────────────────────────────────────────────────────────────────────────────────


def test_a_delphi_run_stands_for_sentences_and_scores(world, tmp_path):
    """What was exported from one run starts another at the simulator, and no explainer is asked."""
    first = world.sites["mlp"]
    assert export(first, tmp_path) == ["detection"]
    asked = len(world.llm.texts)
    again = SiteStages(world.again(explain__delphi=str(tmp_path)), "mlp")
    assert again.sentences == first.sentences
    pd.testing.assert_frame_equal(again.scores, first.scores)
    assert len(world.llm.texts) == asked
    assert again.sentences_stage.name == "03_delphi.mlp"
    assert again.scores_stage.name == "04_scores.mlp"
    assert again.simulated == first.simulated


def test_scores_of_a_delphi_run_are_not_exported_as_our_own(world, judged, tmp_path):
    assert export(judged["sae"], tmp_path / "ours") == ["detection", "fuzzing"]
    assert (tmp_path / "ours" / "scores" / "fuzz").is_dir()
    again = SiteStages(world.again(explain__delphi=str(tmp_path / "ours")), "sae")
    with pytest.raises(ParameterError, match="came from"):
        export(again, tmp_path / "theirs")


def test_shown_and_held_out_windows_of_a_real_run_are_apart(judged):
    source = judged["mlp"].variant("cofiring+refined").evidence_source
    for latent in judged["mlp"].simulated:
        shown, tried = source.chosen(latent), held_out(source, latent)
        assert apart_from(tried.windows, shown.firing, 8).all()
        assert apart_from(tried.windows, shown.counter.windows, 8).all()

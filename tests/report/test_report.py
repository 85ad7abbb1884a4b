"""What notebooks say of a run: numbers computed again from the stages, the words of a verdict."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from report_cases import coder_table, found_of, losses_in_latent_space, rates_of
from sklearn.metrics import roc_auc_score

from rewrite_utils import stats
from rewrite_utils.report import (
    calibrations,
    claims,
    display,
    figures,
    paper,
    ratings,
    scores,
    tables,
    verdicts,
)
from rewrite_utils.report.claims import OURS, _sign
from rewrite_utils.stats import Estimate


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high, n=9, unit="window", method="percentile")


@pytest.fixture
def made(world) -> figures.Provenance:
    return figures.Provenance.of(world.run.params, world.run.opened)


@pytest.fixture
def final(world) -> pd.DataFrame:
    return verdicts.final({name: site.verdict for name, site in world.sites.items()})


@pytest.fixture(scope="module")
def rates(world) -> pd.DataFrame:
    return tables.stacked({name: rates_of(site) for name, site in world.sites.items()})


@pytest.fixture(scope="module")
def found(world) -> list[claims.Found]:
    return [found_of(site) for site in world.sites.values()]


@pytest.fixture(scope="module")
def claimed(found) -> pd.DataFrame:
    return claims.table(found)


# ── tables ────────────────────────────────────────────────────────────────────────────────────


def test_the_final_arms_replace_every_latent_and_leave_out_their_own_yardstick(world, final):
    for name, site in world.sites.items():
        rows = final[final["site"] == name]
        assert set(rows["source"]) == {*site.estimates} - {"mean"}
        assert set(rows["count"]) == {len(site.simulated)}
        for row in rows.itertuples():
            losses = site.losses[(site.losses["order"] == "all") & (site.losses["window"] < 5)]
            pivot = losses[losses["count"] == row.count].pivot(
                index="window", columns="source", values="loss"
            )
            by_hand = (pivot[row.source] - pivot["mean"]).mean()
            assert row.minus_mean == pytest.approx(by_hand, abs=1e-6)


def test_the_verdict_table_gives_every_difference_with_its_interval(final):
    shown = verdicts.shown(final)
    assert len(shown) == len(final) and set(shown["windows"]) == {5}
    heads = {"ΔCE": "delta", "CE − mean ablation": "minus_mean", "CE recovered": "recovered"}
    heads |= {"KL": "kl", "FVU of the output": "fvu", "CE − zero ablation": "minus_zero"}
    assert set(shown["interval"]) <= {"BCa", "percentile", "constant", "Student's t"}
    for head, name in heads.items():
        ends = [name, f"{name}_low", f"{name}_high"]
        for text, row, room in zip(
            shown[head], final[ends].values, final["range_low"], strict=True
        ):
            if head == "CE recovered" and not room > 0:
                assert text == "–"
                continue
            told = [float(number) for number in re.findall(r"[+-]\d+\.\d+", text)]
            assert told == pytest.approx(row[~np.isnan(row)], abs=5.1e-4)
            assert ("no interval" in text) == np.isnan(row).any()
    assert shown["visible"].tolist() == final["detectable"].tolist()


def test_the_papers_statistics_are_of_the_same_losses(world, final):
    shown = verdicts.paper_statistics(final).set_index(["site", "source"])
    for name, site in world.sites.items():
        source = site.params.rewrite.headline
        rows = site.losses[(site.losses["source"] == source) & (site.losses["order"] == "all")]
        delta, base = rows["loss"] - rows["base_loss"], rows["base_loss"]
        told = shown.loc[(name, source)]
        assert told["v1: median |ΔCE|"].startswith(f"{delta.abs().median():+.3f} [")
        kept = delta[base >= 0.1]
        expected = f"{kept.mean():.3f} ± {kept.sem():.3f} (n = {len(kept)})"
        assert told["v2: mean ΔCE ± SE"] == expected


def test_rates_count_hits_and_false_alarms_of_each_latent(world, rates):
    for (name, source), table in rates.groupby(["site", "source"]):
        site = world.sites[name]
        cache, true = site.cache("calibrate"), site.true("evaluate")
        for place, row in enumerate(table.itertuples()):
            fired = cache.of(row.latent).values
            said = site.estimates[source].values[:, place] > 0.5 * fired.mean()
            silent = true[:, place] == 0
            assert row.active == (~silent).sum()
            if silent.any():
                assert row.specificity == pytest.approx((~said[silent]).mean())
            if not silent.all():
                assert row.sensitivity == pytest.approx(said[~silent].mean())
            else:
                assert np.isnan(row.sensitivity)


def test_mean_rates_have_intervals_over_latents(rates):
    table = ratings.means(rates).set_index(["site", "source"])
    for (name, source), part in rates.groupby(["site", "source"]):
        row = table.loc[(name, source.removesuffix("+topk"))]
        assert row["latents"] == len(part) and row["fire"] == part["sensitivity"].notna().sum()
        said = row["specificity"]
        found = stats.bootstrap(part["specificity"].to_numpy(), unit="latent", seed=0)
        assert said == f"{found.value:.2f} {stats.ends(found.low, found.high, '.2f')}"
        alarms = (1 - part["specificity"]).sum()
        assert row["false alarms a token"].startswith(f"{alarms:.2f} [")


def test_rating_quality_is_of_all_pairs(world):
    for site in world.sites.values():
        expected, active = site.ratings("calibrate").expected, site.true("calibrate") > 0
        row = ratings.quality(site.ranked("calibrate"), site.true("calibrate"))
        assert (row["n pairs"], row["active"]) == (active.size, active.sum())
        auroc = roc_auc_score(active.ravel(), expected.ravel().astype(float))
        assert row["AUROC"] == pytest.approx(auroc)


def test_the_latent_loss_is_the_outputs_squared_error_in_units_of_mean_ablations(world):
    told = {name: losses_in_latent_space(s, ["isotonic"]) for name, s in world.sites.items()}
    table = tables.stacked(told)
    assert not {"mean", "zero"} & set(table["source"])
    by_source = table[table["where"] == "evaluate"].set_index(["site", "source"])["difference"]
    for name, site in world.sites.items():
        true, mean = site.true("evaluate"), site.estimates["mean"].values[0]
        decoder = site.coder.W_dec[site.simulated].detach().numpy()
        values = site.estimates["token table"].values[:5]
        error, ablated = (
            np.square((true - told) @ decoder).sum(1).mean() for told in (values, mean)
        )
        found = by_source[name, "token table"]
        assert found == pytest.approx(error / ablated - 1, rel=1e-4)


def test_costs_are_of_the_stage_s_own_calls(world):
    facts = {n: site.simulation_stage.manifest["facts"] for n, site in world.sites.items()}
    table = tables.llm_costs(facts, what="prediction")
    pairs = [(9 + 5) * len(site.simulated) for site in world.sites.values()]
    assert table["predictions"].tolist() == pairs


def test_agreement_needs_four_latents_and_two_values():
    table = pd.DataFrame({"a": [1.0, 2, 3, 4, 5], "b": [2.0, 4, 6, 8, 9], "c": [1.0] * 5})
    found = scores.agreement({"x": table}, seed=0)["rank correlation"].tolist()
    assert found[0].startswith("+1.00 [") and found[1:] == ["", ""]
    assert scores.agreement({"x": table[:3]}, seed=0)["rank correlation"].tolist() == [""] * 3


# ── headlines ─────────────────────────────────────────────────────────────────────────────────


def test_a_headline_is_escaped_where_it_is_shown():
    shown = display.said("a < b", head=True)._repr_mimebundle_()
    assert shown == {"text/html": "<p><b>a &lt; b</b></p>", "text/plain": "a < b"}


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (-0.3, -0.1, "better than mean ablation"),
        (0.1, 0.3, "worse than mean ablation"),
        (-0.1, 0.1, "no difference to mean ablation seen"),
    ],
)
def test_the_rewrite_s_headline_says_what_its_interval_allows(world, low, high, says):
    verdict = world.sites["mlp"].verdict.assign(minus_mean_low=low, minus_mean_high=high)
    text = verdicts.headline({"mlp": verdict}, world.run.params.rewrite.headline)
    assert says in text and "n = 5 windows" in text and f"[{low:+.3f}, {high:+.3f}]" in text


def test_every_headline_has_its_n(world, rates):
    asked, seed = world.run.params.rewrite, world.run.params.seed
    names = [asked.headline.removesuffix("+topk")]
    losses = {name: losses_in_latent_space(site, names) for name, site in world.sites.items()}
    whole = tables.stacked(losses)
    unseen = whole[(whole["where"] == "evaluate") & (whole["source"] == names[0])]
    texts = [
        calibrations.headline(unseen),
        ratings.headline(rates, [asked.calibrators[0], asked.headline], seed=seed),
        verdicts.headline({n: site.verdict for n, site in world.sites.items()}, asked.headline),
        *(f"{n}: {tables.counted(s.scores['auroc'], seed=seed)}" for n, s in world.sites.items()),
    ]
    for text in texts[:3]:
        assert all(name in text for name in world.sites)
    assert all("n = " in part for text in texts for part in text.split("; "))
    assert tables.counted([0.5, np.nan], seed=0) == "not measurable (n = 1 latents)"


# ── claims ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("difference", "no_better", "costs"),
    [
        (estimate(-0.2, -0.3, -0.1), "opposite direction", "opposite direction"),
        (estimate(0.2, 0.1, 0.3), "same direction", "same direction"),
        (estimate(0.0, -0.1, 0.1), "not resolved", "not resolved"),
    ],
)
def test_a_claim_is_settled_only_by_an_interval_without_zero(
    found, monkeypatch, difference, no_better, costs
):
    assert _sign(difference, +1) == costs
    monkeypatch.setattr(claims.Found, "against", lambda self, source, other: difference)
    told = claims.table(found)
    rewrites = told[told["claim"].str.startswith("rewriting with")]
    assert set(rewrites["verdict"]) == {no_better}


def test_claims_give_number_interval_n_and_unit(world, claimed):
    table = claimed
    assert set(table["site"]) == set(world.sites)
    measured = table[table["verdict"] != "not measured"]
    assert measured["ours"].str.contains(r"n = \d+ (?:windows|latents)").all()
    coder = table[table["claim"] == "the coder costs cross-entropy"]
    assert coder["ours"].str.contains("n = 9 windows").all()  # no LLM: all control windows
    rewrites = table[table["claim"].str.startswith("rewriting with")]
    assert rewrites["ours"].str.contains("n = 5 windows").all()
    assert len(rewrites) == 2 * len(world.run.params.rewrite.calibrators)


def test_every_claim_of_the_paper_has_its_number_and_an_answer(world, claimed):
    table = claimed
    words = {"same direction", "opposite direction", "not resolved", "not measured", "not compared"}
    assert set(table["verdict"]) <= words | {"beyond the paper", "shown", "refuted"}
    for name in world.sites:
        mine = table[table["site"] == name].set_index("claim")
        assert mine.index.is_unique
        cost = mine.loc["the coder costs cross-entropy", "paper"]
        assert cost == ("+10 %" if name == "mlp" else "+33 %")
        assert mine.loc["the coder is as good as an unfinished checkpoint", "verdict"] == (
            "not measured"
        )
        assert mine.loc["a specificity of 99 % is not enough to beat ablation", "paper"] == (
            "99.9 % needed"
        )


def test_every_claim_is_read_in_its_own_direction(found, monkeypatch):
    monkeypatch.setattr(claims, "_sign", lambda found, sign: f"{sign:+d}")
    table = claims.table(found)
    for start, sign in (
        ("the coder costs cross-entropy", "+1"),
        ("ablating the latents costs more", "+1"),
        ("quantile:type7+topk brings the distributions together", "-1"),
        ("without normalisation the rewrite is worse", "+1"),
        ("normalisation makes the rewrite cheaper", "-1"),
        ("quantile:type7+topk fitted on fewer windows costs more", "+1"),
        ("specificity rises", "+1"),
        ("sensitivity drops", "-1"),
        ("better-scored latents", "+1"),
        ("our claim", "-1"),
    ):
        found = set(table.loc[table["claim"].str.startswith(start), "verdict"])
        rare = start in ("sensitivity drops", "better-scored latents")  # five windows, few firings
        assert found <= {sign, "not resolved"} and (rare or sign in found)


def test_rates_before_and_after_are_compared_latent_by_latent(world, claimed, rates):
    """Once subtracted by source and not by latent: all NaN, and the claim was silently gone."""
    table = claimed.set_index(["site", "claim"])
    raw, matched = "raw+topk", "quantile:type7+topk"
    for name in world.sites:
        own = rates[rates["site"] == name]
        for rate, claim in (("specificity", "rises"), ("sensitivity", "drops")):
            wide = own.pivot(index="latent", columns="source", values=rate)
            change = (wide[matched] - wide[raw]).dropna()
            if len(change) > 1:
                ours = table.loc[(name, f"{rate} {claim} with {matched}"), "ours"]
                assert ours.startswith(f"{change.mean():+.1%} [")
                assert f"n = {len(change)} latents" in ours
        assert (name, f"specificity rises with {matched}") in table.index


def test_claims_about_rewrites_compare_the_arms_that_they_name(world, claimed):
    table = claimed.set_index(["site", "claim"])
    raw, matched = "raw+topk", "quantile:type7+topk"
    pairs = {
        "without normalisation the rewrite is worse than zeroing the latents": (raw, "zero"),
        "normalisation makes the rewrite cheaper": (matched, raw),
    } | {
        f"rewriting with {source} is no better than mean ablation": (source, "mean")
        for source in world.run.params.rewrite.calibrators
    }
    for name, site in world.sites.items():
        losses = site.losses[(site.losses["order"] == "all") & (site.losses["window"] < 5)]
        wide = losses[losses["count"] > 0].pivot(index="window", columns="source", values="loss")
        for claim, (one, other) in pairs.items():
            difference = (wide[one] - wide[other]).to_numpy(np.float64).mean()
            assert table.loc[(name, claim), "ours"].startswith(f"{difference:+.3f} [")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1, 3, "same direction"), (5, 30, "not resolved"), (15, 30, "opposite direction")],
)
def test_the_specificity_needed_is_settled_at_ten_alarms(found, low, high, verdict):
    """99 % of the paper's 1,023 silent latents an active one leave 10.23 alarms."""
    even = Estimate(2.0, float(low), float(high), 9, "window", "percentile")
    told = [dataclasses.replace(one, even=even) for one in found]
    table = claims.table(told).set_index("claim")
    rows = table.loc[["a specificity of 99 % is not enough to beat ablation"]]
    assert set(rows["verdict"]) == {verdict}
    assert (
        rows["ours"]
        .str.contains("extrapolated to 32 of 32,768 latents 99.80% [", regex=False)
        .all()
    )


def test_our_own_claim_is_answered_like_the_papers(world, claimed):
    """Lower is better: the report says so where the rewrite does not win."""
    table = claimed.set_index(["site", "claim"])
    headline = world.run.params.rewrite.headline
    for name, site in world.sites.items():
        losses = site.losses[(site.losses["order"] == "all") & (site.losses["window"] < 5)]
        wide = losses[losses["count"] > 0].pivot(index="window", columns="source", values="loss")
        for other, said in OURS.items():
            row = table.loc[(name, f"our claim: {headline} {said}")]
            difference = (wide[headline] - wide[other]).to_numpy(np.float64)
            found = stats.bootstrap(difference, unit="window", seed=22, resamples=100)
            assert row["ours"] == f"{found} nat"
            assert (row["verdict"] == "shown") == (found.high < 0)
            assert (row["verdict"] == "refuted") == (found.low > 0)


def test_fewer_windows_are_compared_with_all_of_them(world, claimed):
    table = claimed.set_index(["site", "claim"])
    for name, site in world.sites.items():
        row = table.loc[(name, "quantile:type7+topk fitted on fewer windows costs more")]
        losses = site.fewer
        few, most = (
            losses[losses["source"] == f"{count} windows: quantile:type7+topk"]["loss"].mean()
            for count in (2, 9)
        )
        assert row["ours"].startswith(f"{few - most:+.3f} [")
        assert "2 against 9 calibrate windows" in row["ours"]


def test_false_alarms_are_counted_over_windows_and_latents(world, claimed):
    table = claimed.set_index(["site", "claim"])
    for name, site in world.sites.items():
        cache, true = site.cache("calibrate"), site.true("evaluate") > 0
        threshold = [0.5 * cache.of(latent).values.mean() for latent in site.simulated]
        said = site.estimates["raw+topk"].values > np.array(threshold)
        expected = (said & ~true).sum() / true.sum()
        row = table.loc[(name, "false alarms a true activation before normalisation")]
        assert row["ours"].startswith(f"{expected:+.3f} [")


def report_of(folder, run: str, rows: list[tuple]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["site", "claim", "paper", "ours", "verdict"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "report.csv", index=False)
    (folder / "report.md").write_text(f"# Run {run}: the paper's claims\n")


def test_all_runs_stand_side_by_side(tmp_path):
    report_of(
        tmp_path,
        "one",
        [
            ("a", "x", "+10 %", "1 nat", "same direction"),
            ("b", "x", "+33 %", "2 nat", "opposite direction"),
        ],
    )
    report_of(tmp_path / "two", "two", [("a", "y", "no", "3 nat", "not resolved")])
    table = paper.across(tmp_path).set_index("claim")
    assert table.columns.tolist() == ["paper", "one, a", "one, b", "two, a"]
    assert table.loc["x", "paper"] == "+10 %; +33 %"
    assert (
        table.loc["x", "one, b"] == "opposite direction: 2 nat" and table.loc["x", "two, a"] == "–"
    )
    assert table.loc["y", "two, a"] == "not resolved: 3 nat"


def test_without_any_report_there_is_an_empty_table(tmp_path):
    assert paper.across(tmp_path).empty


def test_the_report_is_written_as_a_page_and_as_data(world, made, claimed):
    table, coders = claimed, coder_table(world.sites)
    paper.write(made, table, coders, {"07_rewrite": "what was found"})
    folder = world.run.params.figures
    page = (world.run.folder / folder / "report.md").read_text()
    assert page.endswith("- **07_rewrite**: what was found\n")
    drawn = paper.figures(made.folder)
    assert page.count("\n| ") == len(table) + 1 + len(coders) + 1 + len(drawn) + 1
    assert f"| {drawn['our file'][0]} |" in page
    again = pd.read_csv(world.run.folder / folder / "report.csv")
    assert again["ours"].tolist() == table["ours"].tolist()


def test_a_kept_figure_has_its_data_and_where_it_came_from(world, made, final):
    figure, _ = figures.panels(1)
    figures.keep(made, "99_test", figure, final, unit="window", n=10)
    folder = world.run.folder / world.run.params.figures
    about = json.loads((folder / "99_test.json").read_text())
    assert (about["n"], about["unit"], about["seed"]) == (10, "window", world.run.params.seed)
    assert about["stages"]["07_rewrite.mlp"] == world.sites["mlp"].rewrite_stage.hash
    assert len(pd.read_csv(folder / "99_test.csv")) == len(final)
    assert (folder / "99_test.png").stat().st_size > 1000

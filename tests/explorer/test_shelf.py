"""What the explorer knows of a latent: one latent alone, and numbers by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from reading_cases import ReadSite
from splice_cases import HOOKPOINTS, coder_for

from rewrite_utils.explain import logits
from rewrite_utils.explorer import Shelf, headline, stage, windows
from rewrite_utils.explorer.desk import Desk
from rewrite_utils.latents import neighbours
from rewrite_utils.rewrite.layer_stage import LAYER
from rewrite_utils.score.rates import auroc, auroc_value
from rewrite_utils.site import SiteStages
from rewrite_utils.subject.splice import GivenLatents, OneLatent, Site, TrueLatents

ATTACK = '<script>alert("x")</script>'


def test_one_latent_overwritten_is_the_general_splice_with_one_column():
    coder = coder_for(HOOKPOINTS[0])
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, coder.config.d_in, generator=generator)
    site = Site(coder, x, x, torch.arange(6), torch.ones(6).long(), 6)
    values = torch.rand(6, generator=generator)
    mask = torch.zeros(coder.config.num_latents, dtype=torch.bool)
    mask[2] = True
    wide = torch.zeros(6, coder.config.num_latents)
    wide[:, 2] = values
    with torch.no_grad():
        ours = OneLatent(2, values).output(site)
        expected = GivenLatents(wide, mask.expand(6, -1)).output(site)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_latent_at_its_own_truth_costs_nothing_more():
    coder = coder_for(HOOKPOINTS[0])
    x = torch.randn(5, coder.config.d_in, generator=torch.Generator().manual_seed(3))
    site = Site(coder, x, x, torch.arange(5), torch.ones(5).long(), 5)
    with torch.no_grad():
        kept = OneLatent(1, site.dense[:, 1]).output(site)
        assert torch.equal(kept, TrueLatents().output(site))


def test_zero_in_a_silent_latent_s_place_is_the_truth(shelf):
    held = shelf.rated["split"] == "evaluate"
    for place, latent in enumerate(shelf.latents):
        mine = shelf.losses[latent].pivot(index="window", columns="arm", values="loss")
        silent = shelf.true[held, place] == 0
        np.testing.assert_allclose(mine["zero"][silent], mine["truth"][silent], atol=1e-5)


def test_the_verdict_is_paired_against_the_truth(shelf):
    latent = shelf.latents[0]
    mine = shelf.losses[latent]
    table_ = shelf.reading(latent).alone.set_index("arm")
    assert list(table_.index) == list(stage.ARMS)
    for arm in ("sentence", "mean"):
        loss = mine[mine["arm"] == arm].sort_values("window")["loss"].to_numpy()
        truth = mine[mine["arm"] == "truth"].sort_values("window")["loss"].to_numpy()
        assert table_.loc[arm, "over_truth"].value == pytest.approx((loss - truth).mean(), abs=1e-6)
    assert table_.loc["truth", "over_truth"].value == 0


def test_auroc_by_hand_and_its_interval_holds_it():
    active, score = np.array([1, 1, 0, 0, 0], bool), np.array([3.0, 1.0, 1.0, 0.0, 2.0])
    value, low, high = auroc(active, score, seed=0)
    assert value == pytest.approx((3 + 1.5) / 6) == auroc_value(active, score)
    assert 0 <= low <= value <= high <= 1


@pytest.mark.parametrize("active", [np.zeros(3, bool), np.ones(3, bool)])
def test_auroc_of_one_class_is_not_a_number(active):
    assert np.isnan(auroc(active, np.arange(3.0), seed=0)).all()


def test_worst_errors_come_first_and_every_window_has_one_kind(shelf):
    rated = shelf.reading(shelf.latents[1]).rated
    kinds = windows.errors(rated)
    gap = np.abs(rated["predicted"] - rated["true"]).to_numpy()
    for chosen in kinds.values():
        assert (np.diff(gap[chosen]) <= 0).all()
    everything = np.concatenate(list(kinds.values()))
    assert len(set(everything.tolist())) == len(everything) <= len(gap)
    assert (rated["true"][kinds["worst false positives"]] == 0).all()
    assert (rated["true"][kinds["worst misses"]] > 0).all()


def test_the_readings_are_the_run_s_own_numbers(shelf):
    site, latent = shelf.site, shelf.latents[2]
    rated = shelf.reading(latent).rated
    held = rated[rated["split"] == "evaluate"]
    np.testing.assert_array_equal(held["true"], site.true("evaluate")[:, 2])
    headline = site.estimates[site.params.rewrite.headline].values[:, 2]
    np.testing.assert_allclose(held["predicted"], headline)


def test_cofiring_is_the_jaccard_overlap(shelf):
    dense = np.zeros((shelf.cache.tokens.size, shelf.cache.n_latents), bool)
    for latent in range(shelf.cache.n_latents):
        own = shelf.cache.of(latent)
        dense[own.rows * shelf.cache.tokens.shape[1] + own.positions, latent] = True
    first = dense[:, [3]]
    expected = (first & dense).sum(0) / np.maximum((first | dense).sum(0), 1)
    np.testing.assert_allclose(neighbours.cofiring(shelf.cache, 3), expected)


def test_a_latent_is_not_its_own_neighbour(shelf):
    values = neighbours.cosines(shelf.site.coder, 4)
    assert values[4] == pytest.approx(1, abs=1e-5)
    assert 4 not in dict(neighbours.nearest(values, 4, count=20))


def test_logits_follow_the_direct_path(shelf):
    site = shelf.site
    found = logits.promoted(site.subject, site.coder, 1, count=3)
    effect = logits.direct_effect(site.subject, site.coder.W_dec[1].detach())
    assert effect.mean().abs() < 1e-4 and effect.std() == pytest.approx(1, abs=1e-3)
    values = [value for _, value in found.raised]
    assert values == sorted(values, reverse=True) and found.lowered[0][1] < 0 < values[0]


def test_f1_and_its_interval_are_cut_where_the_run_cuts(world):
    """A judge whose every yes is below one half: F1 and interval 0 at ½, not at the prior's cut."""
    found = []
    for run in (world.again(), world.again(score__threshold="prior")):
        shelf = Shelf(SiteStages(run, "mlp"))
        judged = shelf.site.judgements_of("detection")
        weak = judged.assign(probability=np.where(judged["active"], 0.4, 0.1))
        shelf.site.judgements_of = lambda kind, weak=weak: weak
        found.append(shelf.reading(shelf.latents[0]).scores[2])
    assert [one.name for one in found] == ["detection F1 at 0.50", "detection F1 at 0.40"]
    assert [one.found for one in found] == [(0, 0, 0), (1, 1, 1)]


def test_scores_have_floors(shelf):
    reading = shelf.reading(shelf.latents[0])
    names = [one.name for one in reading.scores]
    assert names == ["rating AUROC", "detection AUROC", "detection F1 at 0.50"]
    share = reading.scores[2].firing / (reading.scores[2].firing + reading.scores[2].silent)
    assert reading.scores[2].floor == pytest.approx(2 * share / (1 + share))


def test_what_a_text_of_one_s_own_writes_is_text(shelf):
    ids = Desk(shelf).ids("write <bos> here")
    assert shelf.site.subject.bos not in ids
    assert shelf.site.subject.tokenizer.decode(ids) == "write <bos> here"


def test_a_text_is_read_as_the_cache_was(shelf):
    tokenizer = shelf.site.subject.tokenizer
    rows = shelf.cache.tokens[:, 1:].tolist()
    texts = [tokenizer.decode(row) for row in rows]
    same = [tokenizer.encode(text, add_special_tokens=False) == row
            for text, row in zip(texts, rows, strict=True)]  # fmt: skip
    chosen = same.index(True)
    own = Desk(shelf).own(texts[chosen])
    for latent in shelf.latents:
        firings = shelf.cache.of(latent)
        mine = firings.rows == chosen
        expected = np.zeros(len(rows[chosen]))
        expected[firings.positions[mine] - 1] = firings.values[mine]
        np.testing.assert_allclose(own.true[:, latent], expected, atol=1e-4)


def test_a_run_without_simulation_opens_by_its_reader(world, read_site, monkeypatch):
    monkeypatch.setattr(SiteStages, "is_simulated", False)
    site = ReadSite(world.again(), "mlp").like(read_site)
    shelf = Shelf(site)
    assert not shelf.latents and "notebook 05 does it" in shelf.missing
    assert shelf.rows["rating AUROC"].isna().all() and shelf.rows["at stake"].isna().all()
    assert "notebook 05 does it" in headline({"mlp": shelf})


def test_what_the_whole_layer_costs_is_shared_out_where_no_latent_was_measured(
    world, read_site, monkeypatch
):
    monkeypatch.setattr(SiteStages, "is_simulated", False)
    site = ReadSite(world.again(), "mlp").like(read_site)
    losses = {"coder": 3.0, "mean": 5.0, "token table": 4.0}
    site.layer_losses = pd.DataFrame(
        {"text": text, "source": source, "row": row, "loss": loss + extra + row}
        for text, extra in (("evaluate", 0), ("embedded/recipes", 9))
        for source, loss in losses.items()
        for row in range(2)
    )
    finished = site.finished
    monkeypatch.setattr(site, "finished", lambda one: one is LAYER or finished(one), raising=False)
    worth = Shelf(site).worth
    assert worth["at stake"].sum() == pytest.approx(5.0 - 3.0) and not worth["measured"].any()


def test_a_run_without_ratings_and_without_its_llm_opens_and_says_so(world, monkeypatch):
    def missing(*_):
        raise OSError("nowhere to be found")

    site = SiteStages(world.again(), "mlp")
    monkeypatch.setattr(site, "ratings", missing, raising=False)
    shelf = Shelf(site)
    assert not shelf.latents and "(nowhere to be found)" in shelf.missing
    assert len(shelf.rows) == 12

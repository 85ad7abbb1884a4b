"""The explorer on the tiny run of test_stages: numbers by hand, safe HTML, the edit loop."""

import html
import re
import shutil
import threading

import ipywidgets as widgets
import numpy as np
import pandas as pd
import pytest
import torch
from shown import FORBIDDEN, Shown
from splice_cases import HOOKPOINTS, coder_for

from rewrite_utils.explain import curated, logits
from rewrite_utils.explorer import (
    LatentExplorer,
    Session,
    Shelf,
    alone,
    browser,
    curve,
    marks,
    table,
    windows,
)
from rewrite_utils.explorer.browser import Controls
from rewrite_utils.explorer.card import card
from rewrite_utils.explorer.edit import Cancelled, NoSimulator, turn
from rewrite_utils.explorer.records import Reading
from rewrite_utils.explorer.shelf import calibrator_alone
from rewrite_utils.explorer.windows import Shown as Window
from rewrite_utils.latents import neighbours
from rewrite_utils.latents.windows import firing_windows
from rewrite_utils.params import ParameterError
from rewrite_utils.report.display import Html
from rewrite_utils.simulate import ExplanationError
from rewrite_utils.stages import SIMULATED, SiteStages, builders
from rewrite_utils.stats import auroc, auroc_value
from rewrite_utils.subject.splice import GivenLatents, OneLatent, Site, TrueLatents

ATTACK = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def shelf(world) -> Shelf:
    return Shelf(world.sites["mlp"])


@pytest.fixture
def explorer(world) -> LatentExplorer:
    return LatentExplorer(world.sites["mlp"], engine=world.llm)


def drawn(shelf: Shelf, reading: Reading) -> str:
    return card(shelf.known(reading.latent), reading).markup


# ── one latent alone ──────────────────────────────────────────────────────────────────────────


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
    assert list(table_.index) == list(alone.ARMS)
    for arm in ("sentence", "mean"):
        loss = mine[mine["arm"] == arm].sort_values("window")["loss"].to_numpy()
        truth = mine[mine["arm"] == "truth"].sort_values("window")["loss"].to_numpy()
        assert table_.loc[arm, "over_truth"].value == pytest.approx((loss - truth).mean(), abs=1e-6)
    assert table_.loc["truth", "over_truth"].value == 0


# ── numbers ───────────────────────────────────────────────────────────────────────────────────


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


def test_the_caveat_of_the_logits_says_how_many_layers_are_left_out(shelf):
    above = shelf.site.subject.n_layers - 1 - shelf.site.hookpoint.layer
    markup = drawn(shelf, shelf.reading(shelf.latents[0]))
    assert logits.caveat(above) in html.unescape(markup)
    assert "the whole of it" in logits.caveat(0) and "without the 29 layers" in logits.caveat(29)


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


def test_few_firing_windows_are_said_to_make_the_interval_too_narrow(shelf):
    reading = shelf.reading(shelf.latents[0])
    for firing in (2, 12):
        changed = reading._replace(scores=[reading.scores[0]._replace(firing=firing)])
        assert ("too narrow" in drawn(shelf, changed)) == (firing == 2)


def test_calibration_means_are_in_order_of_prediction():
    means = curve.binned(np.array([3.0, 1.0, 2.0, 4.0]), np.array([1.0, 0.0, 0.0, 3.0]), bins=2)
    np.testing.assert_allclose(means, [[1.5, 0.0], [3.5, 2.0]])


def test_scores_have_floors_and_detection_belongs_to_the_judged_sentence(shelf):
    reading = shelf.reading(shelf.latents[0])
    names = [one.name for one in reading.scores]
    assert names == ["rating AUROC", "detection AUROC", "detection F1 at 0.50"]
    share = reading.scores[2].firing / (reading.scores[2].firing + reading.scores[2].silent)
    assert reading.scores[2].floor == pytest.approx(2 * share / (1 + share))
    said = reading.rated["expected"].to_numpy(), reading.rated["predicted"].to_numpy()
    losses = shelf.losses[reading.latent]
    other = shelf.read(reading.latent, "another one", "yours", *said, losses)
    assert [one.name for one in other.scores] == ["rating AUROC"]
    assert other.scores[0] == reading.scores[0]


# ── table ─────────────────────────────────────────────────────────────────────────────────────


def test_the_table_sorts_and_filters(explorer):
    rows = explorer.table(sort="firing rate")
    assert (np.diff(rows["firing rate"]) <= 0).all()
    one = explorer.shelf.latents[1]
    assert explorer.table(text=str(one))["latent"].tolist().count(one) == 1
    assert explorer.table(text="no such words").empty
    rate, cost = explorer.rows["firing rate"], explorer.rows["CE sentence − mean"]
    low, high = np.sort(rate)[:2].mean(), np.sort(cost)[-2:].mean()
    inside = explorer.rows[(rate > low) & (cost < high)]["latent"].tolist()
    assert 0 < len(inside) < len(rate)
    bounds = f"fires > {100 * low:.8f}%, CE<{high:.10f}"
    assert explorer.table(text=bounds)["latent"].tolist() == inside
    words = explorer.rows.set_index("latent")["sentence"][inside[0]]
    assert inside[0] in explorer.table(text=f"{bounds} {words}")["latent"].tolist()
    assert explorer.table(text=f"{bounds} no such words").empty
    missing = explorer.rows.assign(**{"rating AUROC": np.nan})
    assert table.chosen(missing, text="rating<2").empty
    with pytest.raises(KeyError, match="cannot sort by 'colour'; columns: latent, rating AUROC"):
        explorer.table(sort="colour")


def test_next_goes_round_in_the_order_of_the_table(explorer):
    order = explorer.table(sort="firing rate")["latent"].tolist()
    explorer.select(order[-1])
    assert explorer.beside(1, sort="firing rate") == order[0]
    assert explorer.beside(-1, sort="firing rate") == order[-2]


def test_random_is_another_latent_and_the_same_in_every_session(explorer, world):
    again = LatentExplorer(world.sites["mlp"])
    drawn = [explorer.random() for _ in range(5)]
    assert drawn == [again.random() for _ in range(5)] and explorer.latent not in drawn


def test_a_latent_without_a_sentence_is_an_error_that_names_the_others(explorer):
    with pytest.raises(KeyError, match="latent 999 has no sentence in this run; those that do"):
        explorer.select(999)


# ── faces ─────────────────────────────────────────────────────────────────────────────────────

ALLOWED = {"div", "span", "table", "tr", "th", "td", "b", "code", "img", "details", "summary"}


def test_three_faces_and_nothing_that_jupyterlab_strips(explorer, monkeypatch):
    shown = []
    monkeypatch.setattr(browser, "display", lambda one, **_: shown.append(one))
    explorer._ipython_display_()
    live, static = shown
    assert set(live) == {"text/plain", browser.WIDGET} and "<details open>" in static.markup
    faces = explorer._repr_mimebundle_()
    assert set(faces) == {"text/plain", "text/html"} and live["text/plain"] == faces["text/plain"]
    markup = faces["text/html"]
    assert markup in static.markup
    assert not FORBIDDEN.search(markup)
    assert set(Shown(markup).tags) <= ALLOWED
    assert "\n" not in faces["text/plain"] and "rating AUROC" in faces["text/plain"]
    assert not re.search(r'(src|href)="(?!data:image/png;base64,)', markup)


def test_the_same_run_gives_the_same_bytes(explorer, world):
    again = LatentExplorer(SiteStages(world.again(), "mlp"))
    assert again.static.markup == explorer.static.markup


def test_a_script_in_a_sentence_or_a_token_is_shown_as_text(shelf):
    reading = shelf.reading(shelf.latents[0])._replace(sentence=ATTACK, origin=ATTACK)
    shown = Shown(drawn(shelf, reading))
    assert "script" not in shown.tags and ATTACK in shown.text
    values = np.array([1.0, 2.0])
    strip = Window([ATTACK, "\n"], values, values, ATTACK)
    window = Shown(marks.strips([strip], maximum=2.0, nothing=""))
    assert "script" not in window.tags and window.text.count(ATTACK) == 2 and "⏎" in window.text


def test_a_script_in_the_table_or_in_one_s_own_text_is_shown_as_text(explorer):
    rows = explorer.rows.assign(sentence=ATTACK)
    assert "script" not in Shown(table.html(rows).markup).tags
    shown = Shown(explorer.read(ATTACK + " the thin man").markup)
    assert "script" not in shown.tags and "alert" in shown.text


def test_the_numbers_of_the_card_have_their_n_and_their_unit(explorer):
    shown = Shown(explorer.card.markup).text
    rows = explorer.shelf.cache.n_tokens
    evaluate = explorer.shelf.site.settings.evaluate_windows
    assert f"of {rows:,})" in shown and f"nats, {evaluate} evaluate windows" in shown
    cache = explorer.shelf.cache
    firing, _ = firing_windows(cache, explorer.latent, window_tokens=windows.LENGTH)
    assert shown.count(f"of {len(firing.rows)} windows in which it fires") == 2
    assert re.search(r"windows(, Student's t)?\), nats$", repr(explorer))
    assert "nan" not in repr(explorer)


def test_truth_is_the_background_and_prediction_the_underline_on_one_scale():
    window = Window(["a", "b", "c"], np.array([0.0, 2.0, 4.0]), np.array([np.nan, 4.0, 0.0]), "")
    markup = marks.strips([window], maximum=4.0, nothing="")
    spans = [a for a in Shown(markup).attributes if "title" in a]
    shades = [re.search(r", (\d\.\d\d)\)", span["style"])[1] for span in spans]
    assert shades == ["0.00", "0.25", "0.50"]
    lines = [re.search(r"border-bottom: (\d)px", span["style"]) for span in spans]
    assert lines[0] is None and lines[1][1] == "6" and lines[2][1] == "1"


# ── the edit loop ─────────────────────────────────────────────────────────────────────────────


def test_the_same_sentence_again_gives_the_same_reading(explorer):
    old = explorer.reading
    explorer.attempt(old.sentence)
    new = explorer.draft
    pd.testing.assert_frame_equal(new.rated, old.rated, rtol=1e-5)
    pairs = zip(new.alone["over_truth"], old.alone["over_truth"], strict=True)
    assert all(a.value == pytest.approx(b.value, abs=1e-4) for a, b in pairs)


def test_another_sentence_is_put_to_the_simulator_on_the_run_s_windows(explorer, world):
    before, shares = len(world.llm.texts), []
    explorer.attempt("men in red hats", step=shares.append)
    asked = world.llm.texts[before:]
    assert len(asked) == len(explorer.shelf.rated) == 14
    assert all("men in red hats" in text for text in asked)
    assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares)
    assert explorer.draft.origin == "yours" and "yours" in explorer.comparison.markup
    assert not explorer.draft.rated.equals(explorer.reading.rated)
    truth = explorer.reading.alone.iloc[0]["delta"].value
    assert explorer.draft.alone.iloc[0]["delta"].value == pytest.approx(truth)


def test_an_empty_sentence_is_an_error(explorer):
    with pytest.raises(ExplanationError, match="has no explanation"):
        explorer.attempt("  ")


def test_cancelling_leaves_everything_as_it_was(explorer):
    def stop(share: float) -> None:
        if share > 0:
            raise Cancelled

    with pytest.raises(Cancelled):
        explorer.attempt("men in red hats", step=stop)
    assert explorer.draft is None and not explorer.kept


def test_the_new_sentence_is_judged_window_by_window_against_the_old_one(explorer):
    old = explorer.reading
    explorer.attempt("men in red hats")
    new = explorer.draft
    means = [
        reading.alone.set_index("arm")["over_truth"]["sentence"].value for reading in (old, new)
    ]
    expected = f"{means[1] - means[0]:+.3f} ["
    found = re.search(r"CE yours − explainer: (.*), nats, paired", explorer.comparison.markup)[1]
    assert found.startswith(expected) and f"(n = {len(old.losses)} evaluate windows" in found
    shown = Shown(explorer.comparison.markup).text
    assert shown.index("rating AUROC, yours") < shown.index("detection AUROC, explainer")


def test_keep_and_discard(explorer):
    old = explorer.reading
    explorer.attempt("men in red hats")
    explorer.keep()
    assert explorer.reading.sentence == "men in red hats" and explorer.draft is None
    explorer.attempt("women in blue hats")
    assert "CE yours − yours, kept:" in explorer.comparison.markup
    explorer.discard()
    assert explorer.reading.sentence == "men in red hats"
    explorer.discard()
    assert explorer.reading is old


def test_a_draft_does_not_survive_another_selection(explorer):
    explorer.attempt("men in red hats")
    explorer.select(next(one for one in explorer.shelf.latents if one != explorer.latent))
    assert explorer.draft is None and explorer.comparison.markup == ""


def test_without_an_engine_it_says_what_to_start(world, monkeypatch):
    def missing(_):
        raise OSError("nowhere to be found")

    monkeypatch.setattr(builders, "engine", missing)
    explorer = LatentExplorer(world.sites["mlp"])
    with pytest.raises(NoSimulator, match=r"rewrite_utils.assets.*Everything else works without"):
        explorer.attempt("men in red hats")
    assert "load the simulator" in explorer.price


def test_one_sentence_alone_is_not_centred():
    assert (
        calibrator_alone("centred+standardised+isotonic_pooled") == "standardised+isotonic_pooled"
    )
    assert calibrator_alone("quantile:type7+topk") == "quantile:type7"


# ── saving, and using what was saved ──────────────────────────────────────────────────────────


def test_a_saved_sentence_takes_the_explainer_s_place(world, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(world.run.folder, folder)
    site = SiteStages(world.again(folder), "mlp")
    explorer = LatentExplorer(site, engine=world.llm)
    with pytest.raises(ValueError, match="has no new sentence: try one first"):
        explorer.save()
    explorer.attempt("men in red hats")
    expected = explorer.draft.rated
    said = explorer.save()
    file = folder / curated.FILE
    assert str(file) in said and len(pd.read_parquet(file)) == 1
    chosen = SiteStages(world.again(folder, explain__curated=str(file)), "mlp")
    assert chosen.sentences == site.sentences | {explorer.latent: "men in red hats"}
    assert chosen.explanations_stage.hash == site.explanations_stage.hash
    assert chosen.simulation_stage.hash != site.simulation_stage.hash
    place = chosen.simulated.index(explorer.latent)
    rated = np.concatenate([chosen.ratings(split).expected[:, place] for split in SIMULATED])
    np.testing.assert_array_equal(rated.astype(np.float64), expected["expected"])
    assert Shelf(chosen).reading(explorer.latent).origin == "curated"


def test_the_parameter_alone_changes_no_hash(world, tmp_path):
    file = tmp_path / "other.parquet"
    curated.save(file, site="sae", coder="x", latent=1, sentence="a", replaced="b")
    site = SiteStages(world.again(explain__curated=str(file)), "mlp")
    assert site.simulation_stage.hash == world.sites["mlp"].simulation_stage.hash


def test_sentences_of_another_coder_are_refused(world, tmp_path):
    file = tmp_path / "other.parquet"
    curated.save(file, site="mlp", coder="0123", latent=1, sentence="a", replaced="b")
    site = SiteStages(world.again(explain__curated=str(file)), "mlp")
    with pytest.raises(ParameterError, match="were written for the coder 0123"):
        _ = site.sentences


def test_a_sentence_for_a_latent_that_is_not_described_is_refused(world, tmp_path):
    site = world.sites["mlp"]
    [silent, *_] = sorted(set(range(12)) - set(site.described.tolist()))
    file = tmp_path / "strange.parquet"
    stamp = site.coder_stage.hash
    curated.save(file, site="mlp", coder=stamp, latent=silent, sentence="a", replaced="")
    with pytest.raises(ParameterError, match=f"a sentence for latent {silent} of site 'mlp'"):
        _ = SiteStages(world.again(explain__curated=str(file)), "mlp").sentences


def test_a_second_save_replaces_the_first(tmp_path):
    file = tmp_path / curated.FILE
    for sentence in ("one", "two"):
        curated.save(file, site="a", coder="c", latent=3, sentence=sentence, replaced="zero")
    curated.save(file, site="a", coder="c", latent=1, sentence="three", replaced="zero")
    assert curated.read(file, site="a", coder="c") == {1: "three", 3: "two"}
    assert curated.read(file, site="b", coder="c") == {}
    with pytest.raises(ValueError, match="latent 3 is empty"):
        curated.save(file, site="a", coder="c", latent=3, sentence=" ", replaced="zero")


# ── your own text ─────────────────────────────────────────────────────────────────────────────


def test_a_text_is_read_as_the_cache_was(shelf):
    tokenizer = shelf.site.subject.tokenizer
    rows = shelf.cache.tokens[:, 1:].tolist()
    texts = [tokenizer.decode(row) for row in rows]
    same = [tokenizer.encode(text, add_special_tokens=False) == row
            for text, row in zip(texts, rows, strict=True)]  # fmt: skip
    chosen = same.index(True)
    own = shelf.own(texts[chosen])
    for latent in shelf.latents:
        firings = shelf.cache.of(latent)
        mine = firings.rows == chosen
        expected = np.zeros(len(rows[chosen]))
        expected[firings.positions[mine] - 1] = firings.values[mine]
        np.testing.assert_allclose(own.true[:, latent], expected, atol=1e-4)


def test_predictions_on_one_s_own_text_have_an_underline_at_every_token(explorer):
    text = "the thin man sat in a red hat"
    before, after = explorer.read(text), explorer.predict(text)
    assert "border-bottom" not in before.markup and "border-bottom" in after.markup
    assert "at most" in explorer.text_price(text) and "prediction" in explorer.text_price(text)
    explorer.attempt("men in red hats")
    explorer.keep()
    assert "men in red hats" in explorer.predict(text).markup
    with pytest.raises(ValueError, match="the text is empty"):
        explorer.read("")


# ── the widgets ───────────────────────────────────────────────────────────────────────────────


def test_moving_the_selector_changes_the_card(explorer):
    controls = Controls(explorer)
    before = controls.card.value
    controls.next.click()
    assert controls.card.value != before and controls.number.value == explorer.latent
    assert controls.sentence.value == explorer.reading.sentence
    controls.list.value = explorer.shelf.latents[0]
    assert explorer.latent == explorer.shelf.latents[0]
    controls.number.value = next(n for n in range(12) if n not in explorer.shelf.latents)
    assert "has no sentence" in controls.message.value


def test_a_sentence_tried_in_the_page_moves_the_numbers_beside_the_old_ones(explorer):
    controls = Controls(explorer)
    assert "14 predictions" in controls.try_it.description and controls.save.disabled
    controls.sentence.value = "men in red hats"
    controls.try_it.click()
    controls.thread.join(30)
    assert "men in red hats" in controls.beside.value and not controls.save.disabled
    controls.keep.click()
    assert "men in red hats" in controls.card.value and controls.beside.value == ""


def test_a_question_can_be_cancelled_from_the_page(explorer):
    controls = Controls(explorer)
    controls.sentence.value = "men in red hats"

    def slow(*, step) -> Html:
        controls.cancel.click()
        return explorer.attempt("men in red hats", step=step)

    controls.ask(controls.beside, slow)
    controls.thread.join(30)
    assert "cancelled" in controls.said.value and explorer.draft is None
    assert not controls.try_it.disabled and controls.cancel.disabled


def test_what_goes_wrong_is_said_on_the_page(explorer):
    controls = Controls(explorer)
    controls.sentence.value = " "
    controls.try_it.click()
    controls.thread.join(30)
    assert "has no explanation" in controls.said.value and not controls.try_it.disabled


def test_two_pages_compute_one_after_the_other_and_only_cancel_stays_live(explorer, world):
    """One subject serves all explorers of a process: the second waits, and can stop waiting."""
    started, go, order = threading.Event(), threading.Event(), []

    def slow(*, step) -> Html:
        with turn(step):
            started.set()
            go.wait(30)
            order.append("first")
        return Html("", "")

    first, second = Controls(explorer), Controls(Session(world.sites["sae"], engine=world.llm))
    first.ask(first.beside, slow)
    assert started.wait(30)
    buttons = [one for one in vars(first).values() if isinstance(one, widgets.Button)]
    live = [one.description for one in buttons if not one.disabled]
    assert live == ["cancel"] and len(buttons) == 11
    assert first.number.disabled and first.list.disabled and first.text.disabled
    second.text.value = "the thin man"
    second.fires.click()
    second.cancel.click()
    second.thread.join(30)
    assert "cancelled" in second.said.value and not second.read.value
    second.fires.click()
    assert second.thread.is_alive() and not second.read.value
    go.set()
    second.thread.join(30)
    order.append("second" if "latents fire" in second.read.value else second.said.value)
    assert order == ["first", "second"] and not first.fires.disabled


def test_a_price_needs_no_pass(explorer, monkeypatch):
    monkeypatch.setattr(Shelf, "own", lambda *_: pytest.fail("the subject was asked"))
    controls = Controls(explorer)
    controls.text.value = "the thin man"
    assert "at most" in controls.predict.description

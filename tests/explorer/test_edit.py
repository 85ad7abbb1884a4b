"""A description edited, read and judged at once; changed word by word; saved and used again."""

import shutil
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from reading_cases import ReadSite
from shown import Shown
from sklearn.ensemble import HistGradientBoostingRegressor

from rewrite_utils.explain import curated
from rewrite_utils.explain.described import parse
from rewrite_utils.explorer import LatentExplorer, Shelf, change
from rewrite_utils.explorer.change import Change, suggested, without
from rewrite_utils.explorer.desk import Cancelled
from rewrite_utils.params import ParameterError
from rewrite_utils.score.rates import auroc_value
from rewrite_utils.simulate import ExplanationError
from rewrite_utils.simulate.readers.competing import Competing, _together
from rewrite_utils.simulate.readers.reader import CrossFitted, dense
from rewrite_utils.site import SiteStages

WORDS = 'Fires strongly on " the", " man".'


def test_what_is_judged_is_what_the_reader_says_at_every_token(reading):
    shelf, latent = reading.shelf, reading.latent
    read = shelf.predictor
    judged = reading.desk.judge(latent, shelf.descriptions[latent])
    found = dense(read.reader.read(read._told, read.judged_on), read.judged_on)
    mine, true = found[:, 1:, read.place(latent)], read.true(latent)
    mine = np.where(np.isin(read.evaluate.tokens[:, 1:], read.evaluate.masked), 0, mine)
    r2 = 1 - np.square(true - mine).sum() / np.square(true - true.mean()).sum()
    assert judged.r2.value == pytest.approx(r2, abs=1e-5)
    assert judged.auroc.value == pytest.approx(auroc_value(true > 0, mine), abs=1e-6)
    assert judged.r2.n == len(read.judged_on.rows) and judged.r2.unit == "row"
    assert read.scores()[latent] == pytest.approx(r2, abs=1e-5)


def test_the_estimated_cost_is_the_part_of_the_stake_that_is_not_won(reading):
    judged = reading.desk.judge(reading.latent, reading.description)
    stake = reading.shelf.worth["at stake"][reading.latent]
    assert judged.cost.value == pytest.approx((1 - judged.r2.value) * stake)
    assert judged.cost.low <= judged.cost.value <= judged.cost.high or stake < 0


def test_one_latent_among_others_is_what_all_together_say():
    scores = np.random.default_rng(0).random((40, 12)).round(1).astype(np.float32)

    class Linear(HistGradientBoostingRegressor):
        def predict(self, x):
            return x @ np.arange(1, 7)

    for width in (12, 3, 1):
        reader, part = CrossFitted((), np.zeros(0, int)), scores[:, :width]
        competing = Competing(reader, Linear())
        whole = _together(part) @ np.arange(1, 7)
        alone = [competing.alone(part[:, [one]], part, one)[:, 0] for one in range(width)]
        np.testing.assert_allclose(np.stack(alone, axis=1), whole, rtol=1e-5)


def test_an_edit_stands_beside_the_run_s_description(reading):
    shown = Shown(reading.edit(WORDS).markup).text
    for said in (
        "R², the run's",
        "R², yours",
        "AUROC, yours",
        "estimated, yours",
        "right is better",
    ):
        assert said in shown
    assert reading.written == {reading.latent: WORDS} and reading.description == WORDS
    assert shown.count("Top") == 2 and "Words that carry it" in Shown(reading.words.markup).text
    reading.edit(reading.shelf.descriptions[reading.latent])
    assert not reading.written


def test_the_rewritten_model_reads_what_an_edit_shows(reading):
    read, desk = reading.shelf.predictor, reading.desk
    one, other = read.latents[:2].tolist()
    ids = torch.from_numpy(np.unique(read.evaluate.tokens)[1:])
    kinds = read.spell(ids.tolist())
    before, after = (desk.speaker(edited).read.values(ids) for edited in ({}, {one: WORDS}))
    for said, shown in ((read.descriptions[one], before), (WORDS, after)):
        expected = read.said(one, [said], kinds)[:, 0]
        np.testing.assert_allclose(shown[:, one], expected, atol=1e-6)
    assert not torch.equal(before[:, one], after[:, one]) and read.place(other) == 1


@pytest.mark.parametrize("nothing", ["", "  ", "…"])
def test_a_description_of_nothing_is_an_error_and_the_numbers_stay(reading, nothing):
    reading.edit(WORDS)
    with pytest.raises(ExplanationError, match="says nothing"):
        reading.edit(nothing)
    assert reading.description == WORDS and "yours" in reading.comparison.markup


def test_a_word_left_out_costs_what_it_carries(reading):
    judged = reading.desk.judge(reading.latent, WORDS)
    read, again = reading.shelf.predictor, {}
    for word in (" the", " man"):
        again[word] = reading.desk.judge(reading.latent, without(WORDS, word)).r2.value
    for word, lost in read.carried(judged):
        assert lost == pytest.approx(judged.r2.value - again[word], abs=1e-4)


def test_missed_words_come_by_mass_and_false_words_by_what_is_said_of_them():
    kinds, sums = ["a", "b", "c", "d", "\ufffd"], np.array([30.0, 8.0, 0.0, 0.0, 90.0])
    counts, said = np.array([10, 10, 10, 2, 10]), np.array([0.0, 0.6, 2.0, 2.0, 0.0])
    found = suggested('Fires on "c", "d".', kinds, sums, counts, said)
    assert [(one.word, one.strength) for one in found] == [("a", "strongly"), ("c", None)]
    assert found[0].share == pytest.approx(30 / 128)
    added = found[0].made('Men; fires on "c", "d"; raises "x".')
    assert added == 'Men; fires on "c", "d"; fires strongly on "a"; raises "x".'
    assert found[1].made(added) == 'Men; fires on "d"; fires strongly on "a"; raises "x".'


def test_one_click_changes_a_word_and_undo_takes_it_back(reading, monkeypatch):
    monkeypatch.setattr(change, "COVERED", 100)  # whatever fires is missed
    reading.edit('Fires strongly on "zzz".')
    assert reading.changes[0].strength
    before = reading.description
    reading.edit(reading.change(reading.changes[0]))
    assert reading.description != before
    assert reading.undo() == before
    with pytest.raises(ValueError, match="nothing to undo"):
        reading.undo()


def test_a_word_of_markup_quotes_and_direction_marks_can_be_added_and_taken_away():
    for word in ('<b>"\\', "\u202eabc", "\x07\t", "a, b; raises", "x" * 10_000):
        told = Change(word, "clearly", 0.5, 3).made("Men")
        assert [one.text for one in parse(told).words] == [word]
        assert without(told, word) == "Men"


def test_exact_costs_are_the_splice_s(reading):
    reading.edit(WORDS)
    shares = []
    shown = Shown(reading.exact(step=shares.append).markup).text
    assert "5 evaluate windows" in shown and "yours − the run’s, paired" in shown
    assert shares[-1] == 1 and "5 windows, at most" in reading.exact_price
    judged = [reading._run_s(reading.latent), reading._edited]
    over, gain = reading.desk.exactly(judged, step=lambda _: None)
    mean = reading.shelf.worth["at stake"][reading.latent]
    assert over["mean"].value == pytest.approx(mean, abs=1e-4)
    assert gain.value == pytest.approx(over["yours"].value - over["the run's"].value, abs=1e-6)


def test_an_exact_cost_can_be_cancelled(reading):
    def stop(share: float) -> None:
        raise Cancelled

    reading.edit(WORDS)
    with pytest.raises(Cancelled):
        reading.exact(step=stop)


def test_a_site_without_a_reader_opens_and_says_what_is_missing(explorer):
    said = "set sites.mlp.reader to 'c'"
    assert said in explorer.shelf.missing and said.replace("'", "&#x27;") in explorer.card.markup
    with pytest.raises(RuntimeError, match="has no reader, so an edited sentence is not judged"):
        explorer.edit("men in red hats")


def test_a_latent_that_never_fires_is_shown_and_judged_without_a_number(reading):
    silent = [one for one in range(12) if one not in reading.shelf.descriptions]
    if not silent:
        pytest.skip("every latent of this tiny run fires")
    shown = Shown(reading.select(silent[0]).markup).text
    assert "never" in shown and "not simulated" in repr(reading)
    with pytest.raises(ValueError, match="fires too seldom"):
        reading.edit(WORDS)


def test_a_silent_latent_s_r2_is_not_a_number_and_says_so(reading, monkeypatch):
    read = reading.shelf.predictor
    zeros = np.zeros(read.judged_on.rows[:, 1:].shape, np.float32)
    monkeypatch.setattr(type(read), "true", lambda *_: zeros)
    shown = Shown(reading.edit(WORDS).markup).text
    assert "nan" not in shown and "– [no interval]" in shown


def test_what_was_written_stays_until_it_is_discarded(reading):
    old = reading.description
    reading.edit(WORDS)
    reading.select(next(iter(set(reading.shelf.descriptions) - {reading.latent})))
    assert reading.description != WORDS
    reading.select(next(iter(reading.written)))
    assert reading.description == WORDS
    assert reading.discard() == old and not reading.written


def test_a_saved_sentence_takes_the_explainer_s_place(world, read_site, reading, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(world.run.folder, folder)
    site = ReadSite(world.again(folder), "mlp").like(read_site)
    explorer = LatentExplorer(site)
    explorer.select(explorer.shelf.latents[0])
    with pytest.raises(ValueError, match="has no new description: write one first"):
        explorer.save()
    explorer.edit("men in red hats")
    said, file = explorer.save(), folder / curated.FILE
    assert str(file) in said and len(pd.read_parquet(file)) == 1
    chosen = SiteStages(world.again(folder, explain__curated=str(file)), "mlp")
    assert chosen.sentences == world.sites["mlp"].sentences | {explorer.latent: "men in red hats"}
    assert Shelf(chosen).reading(explorer.latent).origin == "curated"


def test_two_explorers_that_save_at_once_lose_nothing(tmp_path):
    file = tmp_path / curated.FILE

    def save(first: int) -> None:
        for latent in range(first, first + 8):
            curated.save(file, site="a", coder="c", latent=latent, sentence="s", replaced="")

    threads = [threading.Thread(target=save, args=(first,)) for first in (0, 8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert list(curated.read(file, site="a", coder="c")) == list(range(16))


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

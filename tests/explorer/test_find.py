"""Finding latents, the pictures of them all, and the rewritten model that speaks."""

import numpy as np
import pandas as pd
import pytest
import torch
from latent_cases import cache_of, drawn
from shown import FORBIDDEN, Shown

from rewrite_utils.explorer import scatter, speak, table
from rewrite_utils.explorer.desk import Cancelled
from rewrite_utils.explorer.find import FIRES, MEANING, TEXT, WORDS, Finder
from rewrite_utils.explorer.scatter import Axes

ATTACK = '</title><script>alert("x")</script>'


def test_all_latents_are_listed_described_or_not(reading, explorer):
    for one in (reading, explorer):
        assert one.table()["latent"].tolist() == list(range(12))
    assert (explorer.rows["sentence"] != "").sum() == len(explorer.shelf.latents) < 12
    assert explorer.rows["R²"].isna().all() and not reading.rows["R²"].isna().all()


def test_by_meaning_the_description_itself_comes_first(reading):
    said = reading.shelf.descriptions
    for latent in list(said)[:3]:
        found = reading.table(mode=MEANING, text=said[latent][:120])["latent"].tolist()
        assert found[0] == latent and set(found) == set(said)


def test_by_a_word_those_that_fire_on_it_come_first(reading):
    found = reading.table(mode=FIRES, text="The")
    read = reading.shelf.predictor
    text, cache = read.suggested_from, reading.shelf.cache
    kind = text.kinds.index(" the")
    best = found["latent"].iloc[0]
    own = cache.of(int(best))
    assert (text.rows[own.rows, own.positions] == kind).any()
    assert reading.table(mode=FIRES, text="no such word").empty


def test_by_a_text_those_that_fire_strongest_and_next_keeps_the_search(reading):
    assert reading.table(mode=TEXT, text="the thin man").empty
    reading.read("the thin man sat in a red hat")
    found = reading.table(mode=TEXT)["latent"].tolist()
    peaks = reading.desk.own("the thin man sat in a red hat").true.max(0)
    assert set(found) == set(np.flatnonzero(peaks > 0).tolist())
    reading.select(found[0])
    assert reading.beside(1, mode=TEXT) == found[1 % len(found)]
    assert reading.beside(-1, mode=TEXT) == found[-1]


def test_at_stake_is_measured_where_the_run_did_and_in_proportion_elsewhere(reading):
    worth, losses = reading.shelf.worth, reading.shelf.losses
    latent = reading.shelf.latents[0]
    means = losses[latent].groupby("arm")["loss"].mean()
    assert worth["at stake"][latent] == pytest.approx(means["mean"] - means["truth"])
    other = worth[~worth["measured"] & (worth["share of output"] > 0)]
    per_share = other["at stake"] / other["share of output"]
    assert np.ptp(per_share) < 1e-9 * abs(per_share.mean()) or len(other) < 2
    rows = reading.rows
    np.testing.assert_allclose(rows["won back"] + rows["lost"], rows["at stake"])
    np.testing.assert_allclose(rows["won back"], rows["R²"] * rows["at stake"])


def test_without_a_reader_what_is_won_back_is_what_was_measured(explorer):
    rows = explorer.rows.set_index("latent").loc[explorer.shelf.latents]
    np.testing.assert_allclose(rows["won back"], -rows["CE sentence − mean"])
    assert explorer.work()["latent"].tolist()[0] == rows["lost"].idxmax()
    assert explorer.layer().count("<circle") == len(explorer.shelf.latents)


def test_the_work_list_is_what_loses_most(reading):
    lost = reading.work()["lost"]
    assert (np.diff(lost) <= 0).all() and len(lost) == reading.rows["lost"].notna().sum()


def test_two_pictures_name_every_latent_and_keep_markup_as_text(reading):
    points = pd.DataFrame(
        {"x": [0.0, 1.0, np.nan], "y": [1.0, 2.0, 3.0], "shade": [0.2, np.nan, 1.0],
         "said": [ATTACK, "\u202eabc" + "x" * 10_000, "gone"]},
        index=[3, 5, 9],
    )  # fmt: skip
    drawn_ = scatter.svg(points, Axes("n", "x", "y", True), selected=5, live=True)
    seen = Shown(drawn_)
    assert "script" not in seen.tags and seen.tags.count("circle") == 2 and len(drawn_) < 5000
    assert [a["data-latent"] for a in seen.attributes if "data-latent" in a] == ["3", "5"]
    assert "202E" in drawn_ and scatter.NUMBER in drawn_
    for one in (reading.map(), reading.layer()):
        assert not FORBIDDEN.search(scatter.picture(one, name="n"))
    shown = Shown(reading.map()).attributes
    found = {int(a["data-latent"]) for a in shown if "data-latent" in a}
    assert found == set(reading.shelf.descriptions)


@pytest.mark.parametrize("count", [0, 1])
def test_a_picture_of_nothing_and_of_one_latent(count):
    points = pd.DataFrame({"x": [1.0], "y": [2.0], "shade": [1.0], "said": ["a"]}).head(count)
    assert scatter.svg(points, Axes("n", "x", "y")).count("<circle") == count


def test_four_thousand_latents_are_listed_searched_and_drawn():
    """The size of a wide coder; benchmarks/explorer.py says how fast."""
    generator = np.random.default_rng(0)
    rows = pd.DataFrame({name: generator.random(4096) for name in table.SORTS})
    rows = rows.assign(latent=np.arange(4096), sentence="about words")
    assert len(table.lines(table.chosen(rows, sort="lost", text="r2>.5"))) < 4096
    dense, tokens = drawn()
    cache = cache_of(dense, tokens)
    finder = Finder(cache, {}, embed=lambda: None, spell=lambda ids: list(map(str, ids)))
    assert finder.plane.empty and finder.find(rows.head(5), WORDS, "", sort="latent").shape[0] == 5


# ── the rewritten model speaks ────────────────────────────────────────────────────────────────


def test_all_arms_continue_the_prompt_and_change_is_against_the_model(reading):
    spoken, shown = reading.speak("the thin man")
    assert [one.arm for one in spoken] == ["model", "coder", "rewrite", "mean ablation"]
    assert all("".join(one.texts).startswith("the thin man") for one in spoken)
    assert not spoken[0].change.any() and spoken[2].change.any()
    models, row = reading.speaker.arms, spoken[2].row[None]
    expected = models["model"].losses(row) - models["rewrite"].losses(row)
    np.testing.assert_allclose(spoken[2].change[1:], expected[0], atol=1e-5)
    assert "mean ablation" in Shown(shown.markup).text
    known = len(reading.shelf.site.subject.tokenizer)
    prompt = len(reading.desk.ids("the thin man"))
    for one in spoken:
        likeliest = models[one.arm].logits(one.row[None])[0, prompt:-1, :known].argmax(-1)
        assert torch.equal(likeliest.cpu(), one.row[prompt + 1 :])


def test_an_edited_description_changes_what_the_rewrite_says(reading):
    subject = reading.shelf.site.subject
    row = torch.tensor([[subject.bos, *reading.desk.ids("the thin man in a red hat")]])
    before = reading.speaker.arms["rewrite"].logits(row)
    reading.edit('Fires strongly on "e", "t", "n".')
    after = reading.speaker.arms["rewrite"].logits(row)
    assert not torch.allclose(before, after)
    reading.discard()
    assert torch.equal(reading.speaker.arms["rewrite"].logits(row), before)


def test_the_latents_that_made_the_difference_do_so_alone(reading):
    spoken = {one.arm: one for one in reading.speak("the thin man")[0]}["rewrite"]
    found = reading.speaker.why(spoken.row, 6)
    assert 0 < len(found) <= speak.NAMED
    sizes = [abs(change) for _, change in found]
    assert sizes == sorted(sizes, reverse=True)
    shown = Shown(reading.why(spoken, 6).markup).text
    assert "Δ logit" in shown and str(found[0][0]) in shown
    for at in (0, 1, len(spoken.row)):
        with pytest.raises(ValueError, match="has no text before it: choose 2"):
            reading.speaker.why(spoken.row, at)


def test_without_a_reader_three_arms_speak_and_an_empty_prompt_is_an_error(explorer):
    spoken, _ = explorer.speak("the thin man")
    assert [one.arm for one in spoken] == ["model", "coder", "mean ablation"]
    with pytest.raises(ValueError, match="the prompt is empty: give the text a beginning"):
        explorer.speak("")
    with pytest.raises(ValueError, match="there are no descriptions to look for"):
        explorer.why(spoken[0], 3)


def test_speaking_can_be_cancelled(reading):
    def stop(share: float) -> None:
        if share > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        reading.speak("the thin man", step=stop)

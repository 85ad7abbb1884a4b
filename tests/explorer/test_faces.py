"""What is drawn: the card, the table, one sort of mark; safe HTML."""

import html
import re

import numpy as np
import pytest
from shown import FORBIDDEN, Shown

from rewrite_utils.explain import logits
from rewrite_utils.explorer import LatentExplorer, Shelf, browser, marks, scatter, table, windows
from rewrite_utils.explorer.card import Reading, card
from rewrite_utils.explorer.windows import Shown as Window
from rewrite_utils.latents.windows import firing_windows
from rewrite_utils.site import SiteStages

ATTACK = '<script>alert("x")</script>'


def drawn(shelf: Shelf, reading: Reading) -> str:
    return card(shelf.known(reading.latent), reading, "", "").markup


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
    assert not re.search(r'(src|href)="(?!data:image/(png|svg\+xml);base64,)', markup)


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
    assert repr(explorer).endswith("(n = 5 windows, Student's t), nats")
    assert "nan" not in repr(explorer)


def test_truth_is_the_background_and_prediction_the_underline_on_one_scale():
    window = Window(["a", "b", "c"], np.array([0.0, 2.0, 4.0]), np.array([np.nan, 4.0, 0.0]), "")
    markup = marks.strips([window], maximum=4.0, nothing="")
    spans = [a for a in Shown(markup).attributes if "title" in a]
    shades = [re.search(r", (\d\.\d\d)\)", span["style"])[1] for span in spans]
    assert shades == ["0.00", "0.25", "0.50"]
    lines = [re.search(r"border-bottom: (\d)px", span["style"]) for span in spans]
    assert lines[0] is None and lines[1][1] == "6" and lines[2][1] == "1"


def test_the_caveat_of_the_logits_says_how_many_layers_are_left_out(shelf):
    above = shelf.site.subject.n_layers - 1 - shelf.site.hookpoint.layer
    markup = drawn(shelf, shelf.reading(shelf.latents[0]))
    assert logits.caveat(above) in html.unescape(markup)
    assert "the whole of it" in logits.caveat(0) and "without the 29 layers" in logits.caveat(29)


def test_few_firing_windows_are_said_to_make_the_interval_too_narrow(shelf):
    reading = shelf.reading(shelf.latents[0])
    for firing in (2, 12):
        changed = reading._replace(scores=[reading.scores[0]._replace(firing=firing)])
        assert ("too narrow" in drawn(shelf, changed)) == (firing == 2)


def test_calibration_means_are_in_order_of_prediction():
    points = np.array([(3.0, 1.0), (1.0, 0.0), (2.0, 0.0), (4.0, 3.0)])
    means = scatter.binned(points, bins=2)
    np.testing.assert_allclose(means, [[1.5, 0.0], [3.5, 2.0]])


def test_the_table_sorts_and_filters(explorer):
    rows = explorer.table(sort="firing rate")
    assert (np.diff(rows["firing rate"]) <= 0).all()
    one = explorer.shelf.latents[1]
    assert explorer.table(text=str(one))["latent"].tolist().count(one) == 1
    assert explorer.table(text="no such words").empty
    rate, cost = explorer.rows["firing rate"], explorer.rows["CE sentence − mean"]
    low, high = np.sort(rate)[:2].mean(), np.sort(cost.dropna())[-2:].mean()
    inside = explorer.rows[(rate > low) & (cost < high)]["latent"].tolist()
    assert 0 < len(inside) < len(rate)
    bounds = f"fires > {100 * low:.8f}%, CE<{high:.10f}"
    assert explorer.table(text=bounds)["latent"].tolist() == inside
    words = explorer.rows.set_index("latent")["sentence"][inside[0]]
    assert inside[0] in explorer.table(text=f"{bounds} {words}")["latent"].tolist()
    assert explorer.table(text=f"{bounds} no such words").empty
    missing = explorer.rows.assign(**{"rating AUROC": np.nan})
    assert table.chosen(missing, text="rating<2").empty
    with pytest.raises(KeyError, match="cannot sort by 'colour'; columns: latent, lost, won back"):
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


def test_a_latent_that_is_not_there_is_an_error_that_says_which_are(explorer):
    with pytest.raises(KeyError, match=r"latent 999 is not in this coder \(0 … 11\)"):
        explorer.select(999)
    with pytest.raises(KeyError, match="was not simulated in this run; those that were"):
        explorer.shelf.place(999)


def test_where_there_is_no_interval_it_is_said_and_nothing_is_drawn_but_the_value():
    nowhere = (0.5, float("nan"), float("nan"))
    assert marks.within(nowhere, 2) == "0.50 [no interval]"
    drawn = marks.interval(nowhere, ends=(0.0, 1.0), floor=float("nan"))
    assert "left: 60px; top: 6px; width: 1px" in drawn and "left: 57px" in drawn
    assert marks.interval((float("nan"),) * 3, ends=(0.0, 1.0), floor=0.0) == ""

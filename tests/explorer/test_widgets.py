"""The widgets: typing, buttons, threads, one computation at a time."""

import threading

import ipywidgets as widgets
import pytest

from rewrite_utils.explorer import Session, change
from rewrite_utils.explorer.controls import Controls
from rewrite_utils.explorer.desk import turn
from rewrite_utils.explorer.find import FIRES, TEXT
from rewrite_utils.report.display import Html
from rewrite_utils.rewrite.splicer import Splicer

WORDS = 'Fires strongly on " the", " man".'


def test_moving_the_selector_changes_the_card(explorer):
    controls = Controls(explorer)
    before = controls.card.value
    controls.next.click()
    assert controls.card.value != before and controls.number.value == explorer.latent
    assert controls.description.value == explorer.description
    controls.list.value = explorer.shelf.latents[0]
    assert explorer.latent == explorer.shelf.latents[0]
    silent = next(n for n in range(12) if n not in explorer.shelf.latents)
    controls.number.value = silent
    assert explorer.latent == silent and "not simulated" in controls.card.value
    controls.select(99)
    assert "latent 99 is not in this coder (0 … 11)" in controls.said.value


def test_what_is_typed_is_read_and_judged_beside_the_run_s(reading):
    controls = Controls(reading)
    assert "R², the run" in controls.beside.value and "yours" not in controls.beside.value
    assert controls.save.disabled and not controls.exact.disabled
    controls.description.value = WORDS
    assert "R², yours" in controls.beside.value and not controls.save.disabled
    assert "Words that carry it" in controls.words.value
    assert "5 windows, at most" in controls.exact.description
    controls.description.value = " "
    assert "says nothing" in controls.said.value and "R², yours" in controls.beside.value
    controls.discard.click()
    assert controls.description.value == reading.shelf.descriptions[reading.latent]
    assert "yours" not in controls.beside.value and controls.save.disabled


def test_one_click_adds_a_word_and_undo_takes_it_back(reading, monkeypatch):
    monkeypatch.setattr(change, "COVERED", 100)  # whatever fires is missed
    controls = Controls(reading)
    controls.description.value = 'Fires strongly on "zzz".'
    first = controls.changes[0]
    assert first.description.startswith("+ “") and first.layout.display == ""
    assert controls.undo.disabled
    first.click()
    assert controls.description.value != 'Fires strongly on "zzz".' and not controls.undo.disabled
    controls.undo.click()
    assert controls.description.value == 'Fires strongly on "zzz".' and controls.undo.disabled
    controls.next.click()
    shown = [one for one in controls.changes if one.layout.display == ""]
    assert len(shown) == len(reading.changes)


def test_the_exact_cost_comes_from_a_thread(reading):
    controls = Controls(reading)
    controls.description.value = WORDS
    controls.exact.click()
    controls.thread.join(60)
    assert "evaluate windows" in controls.measured.value


def test_a_search_orders_the_list_and_next_keeps_it(reading):
    controls = Controls(reading)
    controls.mode.value, controls.query.value = FIRES, "the"
    listed = [latent for _, latent in controls.list.options]
    assert listed == reading.table(mode=FIRES, text="the")["latent"].tolist()
    controls.select(listed[0])
    controls.next.click()
    assert reading.latent == listed[1 % len(listed)]
    controls.work.click()
    assert reading.latent == reading.work()["latent"].iloc[0] == controls.list.options[0][1]
    controls.query.value = "r2>7"
    assert controls.list.options == ()


def test_a_text_finds_its_latents(reading):
    controls = Controls(reading)
    controls.text.value = "the thin man"
    controls.fires.click()
    controls.thread.join(60)
    assert controls.mode.value == TEXT and "latents fire" in controls.read.value
    assert [one for _, one in controls.list.options] == reading.table(mode=TEXT)["latent"].tolist()


def test_the_rewritten_model_speaks_and_says_why(reading):
    controls = Controls(reading)
    assert controls.why.disabled
    controls.go.click()
    controls.thread.join(60)
    assert "mean ablation" in controls.spoken.value and not controls.why.disabled
    controls.why.click()
    controls.thread.join(60)
    assert "Δ logit" in controls.because.value


def test_a_question_can_be_cancelled_from_the_page(reading):
    controls = Controls(reading)

    def slow(*, step) -> Html:
        controls.cancel.click()
        return reading.exact(step=step)

    controls.ask(lambda _: pytest.fail("it was cancelled"), slow)
    controls.thread.join(30)
    assert "cancelled" in controls.said.value and not controls.measured.value
    assert not controls.go.disabled and controls.cancel.disabled


def test_what_goes_wrong_is_said_on_the_page(explorer):
    controls = Controls(explorer)
    controls.prompt.value = ""
    controls.go.click()
    controls.thread.join(30)
    assert "the prompt is empty" in controls.said.value and not controls.go.disabled


def test_two_pages_compute_one_after_the_other_and_only_cancel_stays_live(explorer, world):
    """One subject serves all explorers of a process: the second waits, and can stop waiting."""
    started, go, order = threading.Event(), threading.Event(), []

    def slow(*, step) -> Html:
        with turn(step):
            started.set()
            go.wait(30)
            order.append("first")
        return Html("", "")

    first, second = Controls(explorer), Controls(Session(world.sites["sae"]))
    first.ask(lambda _: None, slow)
    assert started.wait(30)
    live = [one for one in controls_of(first.widget) if not one.disabled]
    assert live == [first.cancel]
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


def test_a_price_needs_no_pass(reading, monkeypatch):
    monkeypatch.setattr(Splicer, "alone", lambda *_, **__: pytest.fail("the subject was asked"))
    controls = Controls(reading)
    assert "5 windows, at most" in controls.exact.description


def controls_of(widget: widgets.Widget) -> list[widgets.Widget]:
    """Everything on the page that can be used."""
    own = [widget] if hasattr(widget, "disabled") else []
    return own + [one for child in getattr(widget, "children", ()) for one in controls_of(child)]

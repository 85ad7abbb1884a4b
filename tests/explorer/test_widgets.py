"""The widgets: buttons, threads, one computation at a time."""

import threading

import ipywidgets as widgets
import pytest

from rewrite_utils.explorer import Session, Shelf
from rewrite_utils.explorer.browser import Controls
from rewrite_utils.explorer.edit import turn
from rewrite_utils.report.display import Html

ATTACK = '<script>alert("x")</script>'


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

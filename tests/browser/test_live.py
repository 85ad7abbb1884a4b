"""The explorer live: typed into, clicked, by keyboard alone, at several widths, in both themes.

JupyterLab in headless Chromium, on the tiny run of tests/conftest.py with a reader: no LLM, no
download. How long an edit takes from the key to the new numbers is measured in the page.
"""

import json
import re

import nbformat
import pytest
from playwright.sync_api import Locator, Page
from test_card import CUT
from test_explorer import MINUTES, command, opened, run_all, shot

from rewrite_utils.explain import curated
from rewrite_utils.params import ROOT

WORDS = 'Fires strongly on " the", " man".'
HOSTILE = [
    '<img src=x onerror="window.broken = 1"><script>window.broken = 1</script></textarea>',
    "\u202eright to left \u2067 \u05d0\u05d1\u05d2 \u0627\u0644",
    "\x07\x1b[31m\u200b\ufeff",
    "x" * 10_000,
]
TYPED = """([field, text, shown]) => new Promise(done => {
  const started = performance.now();
  const watch = new MutationObserver(() => {
    if (!shown.innerText.includes('yours')) return;
    watch.disconnect();
    done(performance.now() - started);
  });
  watch.observe(shown, {childList: true, subtree: true, characterData: true});
  field.value = text;
  field.dispatchEvent(new Event('input', {bubbles: true}));
})"""
"""Milliseconds from a key to the numbers of what it made."""
WIDTHS, TALL = (900, 1100, 1600), 7000
"""Pixels of the page; so tall that all of it is on the screenshots."""
SHOWN = {(900, "Light"), (1600, "Dark")}
"""Of which the screenshots are kept."""
ONE = pytest.mark.parametrize("architecture", ["llama"], indirect=True, scope="session")
pytestmark = [pytest.mark.usefixtures("architecture"), ONE]


@pytest.fixture(scope="module")
def live(browser, lab, world, tmp_path_factory):
    """A notebook with one cell, run; the page with the live explorer in it."""
    raw = tmp_path_factory.mktemp("raw") / "raw.json"
    raw.write_text(json.dumps(world.raw))
    source = (
        f"import sys\nsys.path[:0] = [{str(ROOT / 'tests')!r}]\nfrom reading_cases import opened\n"
        "from rewrite_utils.explorer import change\nchange.COVERED = 100  # all is missed\n"
        f"opened({str(raw)!r}, {str(world.run.folder)!r})"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
    nbformat.write(notebook, lab.folder / "live.ipynb")
    page = browser.new_context(viewport={"width": 1600, "height": TALL}).new_page()
    page.set_default_timeout(5 * MINUTES)
    opened(page, lab.page("live.ipynb"))
    run_all(page)
    found = page.locator(".explorer").first
    found.locator("svg").nth(1).wait_for(timeout=10 * MINUTES)  # the map comes last
    wait(page, "R², the run")
    yield page, found
    page.context.close()


def wait(page: Page, text: str) -> None:
    page.wait_for_function(
        "text => document.querySelector('.explorer').innerText.includes(text)",
        arg=text, timeout=5 * MINUTES,
    )  # fmt: skip


def field(found: Locator) -> Locator:
    return found.locator("textarea").first


def selected(found: Locator) -> int:
    return int(found.locator(".explorer-latent input").input_value())


def typed(page: Page, found: Locator, text: str) -> float:
    """Milliseconds until the numbers of ``text`` stand on the page."""
    shown = found.locator(".widget-html", has_text="What the description alone").first
    return page.evaluate(TYPED, [field(found).element_handle(), text, shown.element_handle()])


def cut(found: Locator) -> list[str]:
    """What is cut; lines of the list box may be longer than it, and its head is as long."""
    lists = "<option", "<select", "<pre"
    return [one for one in found.evaluate(CUT) if not one.startswith(lists)]


def test_every_key_is_answered(live):
    page, found = live
    times = [typed(page, found, f'Fires strongly on "{word}".') for word in ("a", " the", " man")]
    print(f"key to new numbers, in the page: {', '.join(f'{one:.0f} ms' for one in times)}")
    assert sorted(times)[1] < 1000  # 200 ms on a machine that does nothing else
    wait(page, "AUROC, yours")


def test_the_words_that_carry_it_are_those_of_the_description(live):
    page, found = live
    typed(page, found, WORDS)
    shown = found.locator(".widget-html", has_text="Words that carry it").first
    page.wait_for_function("node => node.innerText.includes('of 2 words carry less')",
                           arg=shown.element_handle())  # fmt: skip
    assert {"·the", "·man"} == set(shown.locator("code").all_inner_texts())


def test_one_click_adds_a_word_and_undo_takes_it_back(live):
    page, found = live
    typed(page, found, 'Fires strongly on "zzz".')
    found.get_by_role("button", name="+ “").first.click()
    page.wait_for_function("node => !node.value.endsWith('\"zzz\".')",
                           arg=field(found).element_handle())  # fmt: skip
    found.get_by_role("button", name="undo").click()
    page.wait_for_function("node => node.value.endsWith('\"zzz\".')",
                           arg=field(found).element_handle())  # fmt: skip


@pytest.mark.parametrize("picture", [0, 1], ids=["the whole layer", "the map"])
def test_a_click_on_a_picture_selects(live, picture):
    page, found = live
    before = selected(found)
    dot = found.locator(f"svg >> nth={picture} >> circle:not([data-latent='{before}'])").last
    wanted = int(dot.get_attribute("data-latent"))
    dot.dispatch_event("click")
    wait(page, f"latent {wanted} of")
    assert selected(found) == wanted != before


def test_a_search_orders_the_list_and_next_keeps_it(live):
    page, found = live
    found.locator("select").first.select_option("fires on a word")
    found.get_by_placeholder("words, a latent's number").fill("the")
    page.wait_for_timeout(2000)
    rows = found.locator(".widget-select select option").all_inner_texts()
    found.locator(".widget-select select").select_option(index=0)
    first = int(rows[0].split()[0])
    wait(page, f"latent {first} of")
    found.get_by_role("button", name="next").click()
    following = int(rows[1 % len(rows)].split()[0])
    wait(page, f"latent {following} of")


def listed(found: Locator) -> list[int]:
    """The latents of the list box, in order."""
    rows = found.locator(".widget-select select option").all_inner_texts()
    return [int(row.split()[0]) for row in rows]


def search(page: Page, found: Locator, mode: str, query: str) -> list[int]:
    """What a search lists."""
    found.locator("select").first.select_option(mode)
    found.get_by_placeholder("words, a latent's number").fill(query)
    page.wait_for_timeout(2000)
    return listed(found)


def test_latents_are_found_by_meaning_by_bounds_and_by_a_text(live):
    page, found = live
    every = search(page, found, "words, bounds", "")
    assert len(every) == 12
    for bound in ("fires>20%", "r2>.1", "lost>0"):
        assert 0 < len(search(page, found, "words, bounds", bound)) < 12
    said = field(found).input_value()
    assert search(page, found, "meaning", said[:120])[0] == selected(found)
    found.get_by_placeholder("paste a text").fill("the thin man")
    found.get_by_role("button", name="which latents fire?").click()
    wait(page, "latents fire on")
    page.wait_for_timeout(2000)
    assert found.locator("select").first.input_value() == "your text"
    assert 0 < len(listed(found)) <= 12


def test_the_work_list_begins_with_what_loses_most(live):
    page, found = live
    found.get_by_role("button", name="work list").click()
    page.wait_for_timeout(2000)
    assert listed(found)[0] == selected(found)
    assert found.locator("select").nth(1).input_value() == "lost"


def test_the_rewritten_model_speaks_and_an_edit_changes_what_it_says(live):
    page, found = live
    said = []
    for text in (WORDS, 'Fires strongly on "e", "t", "n", " ".'):
        typed(page, found, text)
        found.get_by_role("button", name="continue it").click()
        page.wait_for_function(
            "old => { const all = [...document.querySelectorAll('.explorer .widget-html')]"
            ".filter(one => one.innerText.includes('mean ablation') && one.innerText.includes("
            "'strongest at')); return all.length && all[0].innerHTML !== old; }",
            arg=said[-1] if said else "", timeout=5 * MINUTES,
        )  # fmt: skip
        shown = found.locator(".widget-html", has_text="strongest at").first
        said.append(shown.evaluate("node => node.innerHTML"))
    colours = set(re.findall(r"rgba\((?:30, 136, 210|230, 159, 0), 0\.[0-9]+\)", said[-1]))
    assert len(colours) > 3, "tokens are not coloured"
    found.get_by_role("button", name="why there?").click()
    wait(page, "Δ logit")


def test_the_exact_cost_and_the_file(live, world):
    page, found = live
    typed(page, found, WORDS)
    name = found.get_by_role("button", name="exact CE").inner_text()
    assert re.search(r"5 windows, at most \d+ s", name)
    found.get_by_role("button", name="exact CE").click()
    wait(page, "5 evaluate windows, nats")
    found.get_by_role("button", name="save").click()
    wait(page, "saved to")
    assert (world.run.folder / curated.FILE).exists()


def test_by_keyboard_alone(live):
    page, found = live
    found.locator(".explorer-latent input").focus()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(
            "() => document.activeElement.innerText || document.activeElement.placeholder"
            " || document.activeElement.tagName"
        ))  # fmt: skip
    for name in ("next ▶", "save", "continue it", "which latents fire?", "paste a text"):
        assert any(name in one for one in reached), f"no Tab reaches {name!r}: {reached}"
    found.get_by_role("button", name="random").focus()
    before = selected(found)
    page.keyboard.press("Enter")
    number = found.locator(".explorer-latent input").element_handle()
    page.wait_for_function("([node, old]) => node.value != old", arg=[number, before])


@pytest.mark.parametrize("theme", ["Light", "Dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_at_any_width(live, width, theme):
    page, found = live
    command(page, "apputils:change-theme", theme=f"JupyterLab {theme}")
    page.set_viewport_size({"width": width, "height": TALL})
    page.wait_for_timeout(1500)
    if (width, theme) in SHOWN:
        shot(page, found, f"explorer-{width}-{theme.lower()}")
    assert not cut(found)


def test_markup_control_characters_and_long_tokens_are_text(live):
    page, found = live
    page.set_viewport_size({"width": 1600, "height": TALL})
    for word in HOSTILE:
        typed(page, found, f"Men; fires on {json.dumps(word, ensure_ascii=False)}.")
    found.get_by_placeholder("paste a text").fill("\n".join(HOSTILE[:3]) + "x" * 2000)
    found.get_by_role("button", name="which latents fire?").click()
    wait(page, "latents fire on")
    assert page.evaluate("window.broken") is None
    assert not cut(found)


def test_reopened_without_its_kernel_the_pictures_are_there(live, lab, browser):
    page, _ = live
    command(page, "docmanager:save")
    page.wait_for_timeout(3000)
    command(page, "kernelmenu:shutdown")
    page.wait_for_timeout(2000)
    again = browser.new_context(viewport={"width": 1100, "height": TALL}).new_page()
    again.set_default_timeout(MINUTES)
    opened(again, lab.page("live.ipynb"))
    folded = again.locator("details", has_text="as it stays when the kernel is gone").first
    folded.locator("summary").first.click()
    folded.locator("summary", has_text="the whole layer").first.click()
    images = folded.locator("img[alt='the whole layer'], img[alt^='map of all']")
    widths = images.evaluate_all("all => all.map(one => one.naturalWidth)")
    again.context.close()
    assert len(widths) == 2 and min(widths) > 100

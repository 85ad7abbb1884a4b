"""The explorer where it is used: JupyterLab in a browser, with and without a kernel.

Needs Chromium (``make test-browser``). The notebooks open the published run, which has no reader;
test_live.py has one.
"""

import re
import time

import pytest
from playwright.sync_api import Locator, Page, expect

from rewrite_utils.params import ROOT

SHOTS = ROOT / "figures" / "screenshots"
MINUTES = 60_000
CONNECTED = (
    "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.connectionStatus"
    " === 'connected'"
)
"""Before that, running a cell asks which kernel to use."""


def command(page: Page, name: str, **arguments: object) -> None:
    """One of JupyterLab's own commands."""
    page.evaluate(
        "([name, given]) => window.jupyterapp.commands.execute(name, given)", [name, arguments]
    )


def opened(page: Page, url: str) -> None:
    page.goto(url)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=5 * MINUTES)
    page.wait_for_function("window.jupyterapp !== undefined")


def run_all(page: Page) -> Locator:
    """Run every cell; the live card once it is there."""
    page.wait_for_function(CONNECTED, timeout=5 * MINUTES)
    command(page, "notebook:run-all-cells")
    live = page.locator(".jp-OutputArea .widget-vbox").first
    live.wait_for(timeout=10 * MINUTES)
    live.scroll_into_view_if_needed()
    return live


def shot(page: Page, part: Locator, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    part.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    part.screenshot(path=SHOTS / f"{name}.png")


def card_of(live: Locator) -> Locator:
    return live.locator(".widget-html-content", has_text="This latent alone").first


def test_the_committed_notebook_shows_the_card_before_anything_is_run(page, lab):
    opened(page, lab.page("10_explorer.ipynb"))
    output = page.locator(".jp-OutputArea-output", has_text="This latent alone").first
    output.wait_for(state="attached")
    output.scroll_into_view_if_needed()
    expect(output).to_contain_text("Worst misses")
    backgrounds = output.evaluate(
        "node => [...node.querySelectorAll('span[title]')]"
        ".map(span => getComputedStyle(span).backgroundColor)"
    )
    assert len(set(backgrounds)) > 5, "the sanitiser took the colours away"
    assert output.locator("img[alt^='calibration curve']").count() == 1
    shot(page, output, "explorer-static")


@pytest.fixture(scope="module")
def edited(browser, lab):
    """One session from run-all to a saved notebook, its numbers kept for the tests below."""
    page = browser.new_context(viewport={"width": 1600, "height": 2600}).new_page()
    page.set_default_timeout(MINUTES)
    opened(page, lab.page("00_tour.ipynb"))
    live = run_all(page)
    found = {"page": page, "live": live}
    card = card_of(live)
    found["first"] = card.inner_text()
    started = time.perf_counter()
    live.get_by_role("button", name="next").click()
    page.wait_for_function("([node, old]) => node.innerText !== old",
                           arg=[card.element_handle(), found["first"]], polling="raf")  # fmt: skip
    found["seconds"] = time.perf_counter() - started
    found["second"] = card.inner_text()
    yield found
    page.context.close()


def test_moving_the_selector_redraws_the_card(edited):
    head = r"latent \d+ of \d+"
    assert re.search(head, edited["first"])[0] != re.search(head, edited["second"])[0]
    print(f"click to new card, in the page: {1000 * edited['seconds']:.0f} ms")
    assert edited["seconds"] < 5  # benchmarks/explorer.py says how fast it is


def test_without_a_reader_it_says_what_is_missing(edited):
    page, live = edited["page"], edited["live"]
    command(page, "apputils:change-theme", theme="JupyterLab Light")
    expect(card_of(live)).to_contain_text("has no reader")
    assert live.locator("textarea").first.is_disabled()
    shot(page, live, "explorer-live")


def test_the_list_of_latents_stands_in_columns(edited):
    letters = (
        edited["live"]
        .locator(".widget-select select")
        .first.evaluate("node => getComputedStyle(node).fontFamily")
    )
    assert letters == "monospace"


def test_dark_is_readable(edited):
    page = edited["page"]
    command(page, "apputils:change-theme", theme="JupyterLab Dark")
    page.wait_for_timeout(2000)
    card = card_of(edited["live"])
    shot(page, card, "explorer-dark")
    text, ground = page.evaluate(
        "node => [getComputedStyle(node).color,"
        " getComputedStyle(document.querySelector('.jp-Notebook')).backgroundColor]",
        card.element_handle(),
    )
    light, dark = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (text, ground))
    assert light > 450 > 150 > dark


def test_reopened_without_its_kernel_the_static_card_is_there(edited, lab, page):
    first = edited["page"]
    command(first, "docmanager:save")
    first.wait_for_timeout(3000)
    command(first, "kernelmenu:shutdown")
    first.wait_for_timeout(2000)
    opened(page, lab.page("00_tour.ipynb"))
    folded = page.locator("details", has_text="as it stays when the kernel is gone").first
    folded.wait_for(state="attached")
    folded.locator("summary").first.click()
    expect(folded).to_contain_text("This latent alone")
    assert folded.get_by_text("Worst misses").first.is_visible()

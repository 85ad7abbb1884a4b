"""The static card without JupyterLab: nothing of it is cut, nothing of it is fetched.

Needs Chromium, no kernel and no model: the tiny run of tests/conftest.py, in the style that
JupyterLab gives its outputs.
"""

import nbformat
import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Browser, Page, Route
from reading_cases import embedder, read

from rewrite_utils.explorer import LatentExplorer, desk

CUT = """node => {
  const end = node.getBoundingClientRect().right + 1;
  const hides = part => part.scrollWidth > part.clientWidth + 1
    && getComputedStyle(part).overflowX !== 'visible';
  return [...node.querySelectorAll('*')]
    .filter(part => part.getBoundingClientRect().right > end || hides(part))
    .map(part => part.outerHTML.slice(0, 120));
}"""
"""What stands out to the right of the output, or has to be scrolled to."""


@pytest.fixture(scope="module")
def faces(world) -> dict[str, str]:
    """The markup of everything that stands in a page, by name."""
    patch = pytest.MonkeyPatch()
    patch.setattr(desk, "embedder", embedder)
    explorer = LatentExplorer(read(world.sites["mlp"]))
    static = explorer.static.markup.replace("<details>", "<details open>")
    own = explorer.read("the thin man sat in a red hat").markup
    said = explorer.speak("the thin man")[1].markup
    edited = explorer.edit("men in red hats, " * 6).markup
    patch.undo()
    return {"card": static, "edited": edited, "own text": own, "said": said}


def in_lab(markup: str, theme: str) -> str:
    """A page with the markup as a cell's output, as JupyterLab styles it."""
    output = nbformat.v4.new_output("display_data", data={"text/html": markup})
    cell = nbformat.v4.new_code_cell("explorer", outputs=[output])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    return HTMLExporter(template_name="lab", theme=theme).from_notebook_node(notebook)[0]


def opened(browser: Browser, page: str, *, width: int = 1100) -> tuple[Page, list[str]]:
    """The page without a network, and what it asked for."""
    asked: list[str] = []

    def refuse(route: Route) -> None:
        if route.request.url.startswith("data:"):
            route.continue_()
            return
        asked.append(route.request.url)
        route.abort()

    shown = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    shown.route("**/*", refuse)
    shown.set_content(page, wait_until="load")
    return shown, asked


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [900, 1100, 1600])
def test_nothing_is_cut(browser, faces, width, theme):
    for name, markup in faces.items():
        page, _ = opened(browser, in_lab(markup, theme), width=width)
        cut = page.locator(".jp-OutputArea-output").first.evaluate(CUT)
        page.context.close()
        assert not cut, f"{name} at {width} px: {cut}"


def test_nothing_is_fetched(browser, faces):
    page, asked = opened(browser, "".join(faces.values()))
    pictures = page.locator("img").evaluate_all("all => all.map(one => one.naturalWidth)")
    page.context.close()
    assert not asked
    assert len(pictures) == 5 and min(pictures) > 100  # three curves, the layer, the map

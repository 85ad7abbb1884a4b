"""JupyterLab on a copy of the notebooks, and a page of headless Chromium that shows it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from rewrite_utils.params import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TOKEN = "explorer"
VIEW = {"width": 1600, "height": 2600}
"""Tall: a screenshot shows what is on the page."""


class Lab(NamedTuple):
    """A running JupyterLab."""

    url: str
    folder: Path

    def page(self, notebook: str) -> str:
        return f"{self.url}/lab/tree/{notebook}?token={TOKEN}&reset"


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    for name in ("00_tour.ipynb", "10_explorer.ipynb"):
        shutil.copy(ROOT / "notebooks" / name, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", f"--port={port}"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.expose_app_in_browser=True", "--allow-root", "--ip=127.0.0.1"]
    asks = folder / ".config" / "labconfig" / "page_config.json"  # no question about news
    asks.parent.mkdir(parents=True)
    asks.write_text(
        '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}'
    )
    where = {"JUPYTER_CONFIG_DIR": str(folder / ".config"), "PYTHONPATH": str(ROOT)}
    with (folder / "lab.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | where)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(f"{url}/api?token={TOKEN}", folder / "lab.log")
            yield Lab(url, folder)
        finally:
            process.terminate()  # it ends its kernels first, and a kernel its simulator
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH: apt install chromium")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport=VIEW)
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    yield opened
    context.close()


def _wait(url: str, log: Path, *, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"JupyterLab did not answer in {seconds} s:\n{log.read_text()[-2000:]}")

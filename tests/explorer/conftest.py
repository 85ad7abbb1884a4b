"""The shelf and the explorer of the tiny run of tests/stage_cases.py, without and with a reader."""

import pytest
from reading_cases import ReadSite, embedder, read

from rewrite_utils.explorer import LatentExplorer, Shelf, desk


@pytest.fixture(scope="module")
def shelf(world) -> Shelf:
    return Shelf(world.sites["mlp"])


@pytest.fixture
def explorer(world) -> LatentExplorer:
    return LatentExplorer(world.sites["mlp"])


@pytest.fixture(scope="module")
def read_site(world) -> ReadSite:
    return read(world.sites["mlp"])


@pytest.fixture
def reading(read_site, monkeypatch) -> LatentExplorer:
    """An explorer of a site that has a reader."""
    monkeypatch.setattr(desk, "embedder", embedder)
    return LatentExplorer(read_site)

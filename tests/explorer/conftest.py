"""The shelf and the explorer of the tiny run of tests/stage_cases.py."""

import pytest

from rewrite_utils.explorer import LatentExplorer, Shelf


@pytest.fixture(scope="module")
def shelf(world) -> Shelf:
    return Shelf(world.sites["mlp"])


@pytest.fixture
def explorer(world) -> LatentExplorer:
    return LatentExplorer(world.sites["mlp"], engine=world.llm)

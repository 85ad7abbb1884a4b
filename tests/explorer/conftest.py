"""The shelf and the explorer of the tiny run of tests/stage_cases.py, without and with a reader."""

import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from rewrite_utils.explain.described import Description
from rewrite_utils.explorer import LatentExplorer, Shelf, desk
from rewrite_utils.latents.words import Word
from rewrite_utils.simulate.readers.competing import Competing
from rewrite_utils.simulate.readers.features import Lexical, Likeness
from rewrite_utils.simulate.readers.reader import Calibrated, Reader
from rewrite_utils.simulate.readers.spaces import Remembering
from rewrite_utils.simulate.readers.text import Text, by_kind, truth
from rewrite_utils.site import SiteStages
from rewrite_utils.subject.model import spelled


def vector(text: str) -> np.ndarray:
    """The same for the same text, and nothing else."""
    found = np.random.default_rng(zlib.crc32(text.strip().lower().encode())).normal(size=16)
    return (found / np.linalg.norm(found)).astype(np.float32)


def embed(texts) -> np.ndarray:
    return np.stack([vector(text) for text in texts])


class ReadSite(SiteStages):
    """A site whose reader is given."""

    reader = level_texts = None


def read(site: SiteStages) -> ReadSite:
    """The site of a finished run with a reader of single tokens, fitted on its calibrate rows."""
    cache = site.cache("calibrate")
    ids = np.unique(cache.tokens)
    text = Text.of(cache.tokens, lambda kinds: spelled(site.subject.tokenizer, kinds.tolist()))
    true, latents = truth(cache), np.flatnonzero(cache.counts)
    mean = by_kind(true, text).toarray()[:, latents]
    assert len(ids) == len(text.kinds)
    told = {}
    for column, latent in enumerate(latents.tolist()):
        order = np.argsort(-mean[:, column])[:3]
        words = tuple(Word(text.kinds[kind], "strongly") for kind in order if mean[kind, column])
        told[latent] = Description(f"number {latent}", words, 40).text("c")
    said, own = list(told.values()), true[:, latents]
    space = Likeness(Remembering("fake", embed))
    reader = Reader((Lexical(), space), trees=10).cross_fit(said, text, own, np.arange(len(said)))
    whole = Calibrated.fit(Competing.fit(reader, said, text, own), said, text, own)
    found = ReadSite(site.run, site.name)
    found.settings = site.settings.model_copy(update={"reader": "c"})
    found.reader = SimpleNamespace(reader=whole, latents=latents, level="c")
    found.level_texts = {"c": told}
    return found


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
    monkeypatch.setattr(desk, "embedder", lambda: embed)
    return LatentExplorer(read_site)

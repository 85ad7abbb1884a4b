"""A site with a reader, made from a finished tiny run in a moment."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rewrite_utils.explain.described import Description
from rewrite_utils.explorer import LatentExplorer, desk
from rewrite_utils.latents.words import Word
from rewrite_utils.params import parse
from rewrite_utils.runs.run import Run
from rewrite_utils.simulate.readers.competing import Competing
from rewrite_utils.simulate.readers.features import Lexical, Likeness
from rewrite_utils.simulate.readers.kept import Kept
from rewrite_utils.simulate.readers.reader import Calibrated, Reader
from rewrite_utils.simulate.readers.spaces import Remembering
from rewrite_utils.simulate.readers.stage import text_of
from rewrite_utils.simulate.readers.text import by_kind, truth
from rewrite_utils.site import SiteStages


def embed(texts) -> np.ndarray:
    """A unit vector a text, the same for the same text."""
    return np.stack([_vector(text) for text in texts])


class ReadSite(SiteStages):
    """A site whose reader is given."""

    reader = level_texts = readers_stage = None

    def like(self, other: "ReadSite") -> "ReadSite":
        """With another site's reader."""
        self.settings, self.reader = other.settings, other.reader
        self.level_texts, self.readers_stage = other.level_texts, other.readers_stage
        return self


def read(site: SiteStages) -> ReadSite:
    """The site with a reader of single tokens, fitted on its calibrate rows."""
    cache = site.cache("calibrate")
    text, true = text_of(cache.tokens, site.subject), truth(cache)
    latents = np.flatnonzero(cache.counts)
    mean = by_kind(true, text).toarray()[:, latents]
    told = {}
    for column, latent in enumerate(latents.tolist()):
        order = [kind for kind in np.argsort(-mean[:, column])[:3] if mean[kind, column]]
        words = tuple(Word(text.kinds[kind], "strongly") for kind in order)
        told[latent] = Description(f"number {latent}", words, 40).text("c")
    said, own = list(told.values()), true[:, latents]
    features = Lexical(), Likeness(Remembering("fake", embed))
    reader = Reader(features, trees=10).cross_fit(said, text, own, np.arange(len(said)))
    whole = Calibrated.fit(Competing.fit(reader, said, text, own), said, text, own)
    found = ReadSite(site.run, site.name)
    found.settings = site.settings.model_copy(update={"reader": "c"})
    found.reader, found.level_texts = Kept(whole, latents, "c"), {"c": told}
    found.readers_stage = site.simulation_stage
    return found


def embedder() -> Callable:
    """In the place of the sentence encoder."""
    return embed


def opened(raw: Path, folder: Path) -> LatentExplorer:
    """The explorer of a finished run on disk, for a kernel of its own."""
    desk.embedder = embedder
    run = Run(parse(json.loads(Path(raw).read_text())), Path(folder))
    return LatentExplorer(read(SiteStages(run, "mlp")))


def _vector(text: str) -> np.ndarray:
    found = np.random.default_rng(zlib.crc32(text.strip().lower().encode())).normal(size=16)
    return (found / np.linalg.norm(found)).astype(np.float32)

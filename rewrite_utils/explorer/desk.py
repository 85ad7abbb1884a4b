"""What is computed on a site's latents while somebody looks: a description judged, a text read, the
model continued, one latent replaced.

In: a Shelf. Out: records and estimates. Draws nothing; whoever asks takes turns (``turn``).
"""

import contextlib
import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from rewrite_utils.explain import curated
from rewrite_utils.explorer.find import Finder
from rewrite_utils.explorer.owntext import LONGEST, OwnText
from rewrite_utils.explorer.prediction import Judged, Predictor
from rewrite_utils.explorer.shelf import Shelf
from rewrite_utils.explorer.speak import Speaker, own_ids
from rewrite_utils.llm.embedding import embedder
from rewrite_utils.rewrite.layer_stage import TokenReader
from rewrite_utils.stats import Estimate, bootstrap
from rewrite_utils.subject.splice import hooked

Step = Callable[[float], None]
"""Told the share that is done; raises Cancelled to stop."""


class Cancelled(Exception):
    """The person at the keyboard asked to stop."""


def silent(share: float) -> None:
    """A Step that tells nobody."""


_computing = threading.RLock()


@contextlib.contextmanager
def turn(step: Step = silent) -> Iterator[None]:
    """Compute alone; waits until no other thread computes, and ``step`` may raise meanwhile."""
    while not _computing.acquire(timeout=0.1):
        step(0.0)
    try:
        yield
    finally:
        _computing.release()


@dataclasses.dataclass(frozen=True)
class Desk:
    """Computes on what a shelf holds."""

    shelf: Shelf
    """What the run knows."""

    def judge(self, latent: int, description: str) -> Judged:
        """A description, read and judged; RuntimeError where the site has no reader."""
        reader = self.reads()
        stake = float(self.shelf.worth["at stake"][latent])
        kinds = (reader.spell(one.ids) for kind in self.shelf.known(latent).windows.values()
                 for one in kind.shown)  # fmt: skip
        more = [*itertools.chain(*kinds), *reader.firing_kinds(latent)]
        return reader.judge(latent, description, stake=stake, more=more)

    def reads(self) -> Predictor:
        """The predictor; RuntimeError saying what is missing where there is none."""
        if self.shelf.predictor is None:
            raise RuntimeError(self.shelf.missing)
        return self.shelf.predictor

    @functools.cached_property
    def finder(self) -> Finder:
        """What searches the latents."""
        return Finder(
            self.shelf.cache, self.shelf.descriptions, embed=embedder, spell=self.shelf.spell
        )

    def speaker(self, edited: Mapping[int, str]) -> Speaker:
        """The model and its rewrite, with some descriptions exchanged."""
        site, said, read = self.shelf.site, self.shelf.predictor, None
        means = np.asarray(site.latent_means, np.float32)
        if said is not None:
            texts = {**said.descriptions, **edited}
            read = TokenReader(site.reader, texts, site.subject, width=len(means))
        return Speaker(site.subject, site.hookpoint, site.coder, means, read)

    def exactly(
        self, judged: Sequence[Judged], *, step: Step
    ) -> tuple[dict[str, Estimate], Estimate]:
        """CE of each description and of the mean over the truth, measured, nats; and the last
        description's minus the first's."""
        site, latent, last = self.shelf.site, judged[-1].latent, judged[-1]
        windows, tokens = site.simulated_windows("evaluate"), site.cache("evaluate").tokens
        kinds = self.shelf.spell(tokens[windows.rows, windows.ends].tolist())
        values = self.reads().said(latent, [one.description for one in (judged[0], last)], kinds)
        sources = {(latent, "the run's"): values[:, 0], (latent, "yours"): values[:, 1]}
        sources[latent, "mean"] = np.full(len(kinds), site.latent_means[latent], np.float32)
        losses = site.splicer.alone(windows, sources, progress=step)
        loss = losses.pivot(index="window", columns="arm", values="loss")
        gaps = {arm: loss[arm] - loss["truth"] for _, arm in sources}
        found = {arm: self._over(gap) for arm, gap in gaps.items()}
        return found, self._over(gaps["yours"] - gaps["the run's"])

    def _over(self, gap: pd.Series) -> Estimate:
        options = {"seed": self.shelf.params.seed, "resamples": self.shelf.params.rewrite.bootstrap}
        return bootstrap(gap.to_numpy(), unit="evaluate window", **options)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text of one's own; ValueError when there is none."""
        return own_ids(self.shelf.site.subject, text, "the text is empty: paste some words")

    @torch.no_grad()
    def own(self, text: str) -> OwnText:
        """What subject and coder make of a text; ValueError when there is none."""
        site, ids = self.shelf.site, self.ids(text)
        rows = torch.tensor([[site.subject.bos, *ids[:LONGEST]]])
        inputs = hooked(site.collector, rows, site.hookpoint).inputs[0, 1:]
        true = site.coder.dense(site.coder.encode(inputs.float())).cpu().numpy()
        return OwnText(
            site.texts(np.array(ids[:LONGEST])), true, len(ids[LONGEST:]), tuple(ids[:LONGEST])
        )

    def save(self, latent: int, sentence: str) -> Path:
        """Put a sentence into the run's curated.parquet, and say where that is."""
        site, file = self.shelf.site, self.shelf.site.run.folder / curated.FILE
        who = {"site": site.name, "coder": site.coder_stage.hash, "latent": latent}
        curated.save(
            file, **who, sentence=sentence, replaced=self.shelf.descriptions.get(latent, "")
        )
        return file

"""LatentExplorer: one object, three faces (live widgets, a static card, one line of text).

In: the stages of a site. Out: what a notebook shows, and the same actions for code: select, try a
sentence, keep, discard, save, read a text. Holds what is selected and what was tried; computes and
draws nothing itself.
"""

import functools

import numpy as np
import pandas as pd
from IPython.display import DisplayHandle, display

from rewrite_utils.explain import curated
from rewrite_utils.explorer import card, edit, owntext, peaks, table
from rewrite_utils.explorer.asking import Simulator, Step, silent
from rewrite_utils.explorer.controls import Controls
from rewrite_utils.explorer.shelf import Reading, Shelf
from rewrite_utils.report.display import Html
from rewrite_utils.stages import SiteStages

WIDGET = "application/vnd.jupyter.widget-view+json"


class LatentExplorer:
    """All latents of one site that have a sentence, one of them selected."""

    def __init__(
        self, site: SiteStages, *, latent: int | None = None, simulator: Simulator | None = None
    ) -> None:
        """Select ``latent``, by default the one that carries most of the output.

        Raises KeyError when that latent has no sentence, ValueError when none has.
        """
        self.shelf = Shelf(site)
        if not self.shelf.latents:
            raise ValueError(
                f"no latent of site {site.name!r} has a sentence that was simulated: nothing to "
                "explore; notebook 03 shows what the explainer answered"
            )
        self.simulator = simulator or Simulator(site)
        self.kept: dict[int, Reading] = {}
        self.draft: Reading | None = None
        self.rows = table.frame(self.shelf)
        self._generator = np.random.default_rng(site.params.seed)
        self._peaks: dict[tuple[int, str], peaks.Kinds] = {}
        self._drawn: tuple[tuple[int, str, str, bool], Html] | None = None
        self._static: DisplayHandle | None = None
        self.latent = self.shelf.latents[int(self.shelf.order.argmax())]
        if latent is not None:
            self.select(latent)

    # ── which latent ─────────────────────────────────────────────────────────────────────────

    def select(self, latent: int) -> Html:
        """Make ``latent`` the selected one and return its card; a draft of another is dropped."""
        self.shelf.place(latent)
        if self.draft is not None and self.draft.latent != latent:
            self.draft = None
        self.latent = latent
        return self.card

    def random(self) -> int:
        """Any latent but the selected one; the same sequence in every session."""
        others = [one for one in self.shelf.latents if one != self.latent] or [self.latent]
        return int(self._generator.choice(others))

    def beside(self, step: int, *, sort: str = "latent", text: str = "") -> int:
        """The latent ``step`` rows further in the table as sorted and filtered, round and round."""
        shown = self.table(sort=sort, text=text)["latent"].tolist() or self.shelf.latents
        at = shown.index(self.latent) if self.latent in shown else -max(step, 0)
        return int(shown[(at + step) % len(shown)])

    def table(self, *, sort: str = "latent", text: str = "") -> pd.DataFrame:
        """The latents as a frame, sorted, those that contain ``text``."""
        return table.chosen(self.rows, sort=sort, text=text)

    # ── what is shown ────────────────────────────────────────────────────────────────────────

    @property
    def reading(self) -> Reading:
        """What is held of the selected latent: the kept sentence, or else the run's."""
        return self.kept.get(self.latent) or self.shelf.reading(self.latent)

    @property
    def card(self) -> Html:
        """The selected latent's card."""
        shown = self._peaks.get(self._said)
        key = (*self._said, self.reading.origin, shown is not None)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, card.card(self.shelf, self.reading, shown)
        return self._drawn[1]

    @property
    def comparison(self) -> Html:
        """The draft beside what was there before; empty without a draft."""
        if self.draft is None:
            return Html("", "")
        return card.comparison(self.shelf, self.reading, self.draft)

    def predict_peaks(self, *, step: Step = silent) -> Html:
        """The card with a prediction at the strongest token of every window of text."""
        shown = peaks.of(self.shelf, self.latent)
        found = peaks.predict(self.shelf, self.reading, shown, self.simulator, step=step)
        self._peaks[self._said] = found
        return self.card

    @property
    def peaks_price(self) -> str:
        """What ``predict_peaks`` costs, in words."""
        return peaks.price(self.simulator)

    # ── another sentence ─────────────────────────────────────────────────────────────────────

    @property
    def price(self) -> str:
        """What trying a sentence costs, in words."""
        return edit.price(self.shelf, self.simulator)

    def attempt(self, sentence: str, *, step: Step = silent) -> Html:
        """Simulate ``sentence`` for the selected latent and return it beside the old one.

        Raises ExplanationError (empty), NoSimulator (what to start), Cancelled.
        """
        self.draft = edit.resimulate(self.shelf, self.latent, sentence, self.simulator, step=step)
        return self.comparison

    def keep(self) -> Html:
        """Let the draft take the old sentence's place in this session; nothing is written."""
        if self.draft is not None:
            kept = self.draft._replace(origin="yours, kept")
            self.kept[kept.latent], self.draft = kept, None
        return self.card

    def discard(self) -> Html:
        """Drop the draft, or, without one, the kept sentence."""
        if self.draft is None:
            self.kept.pop(self.latent, None)
        self.draft = None
        return self.card

    def save(self) -> str:
        """Write the draft or the kept sentence to the run's curated.parquet; says where.

        Raises ValueError when there is neither.
        """
        reading, site = self.draft or self.kept.get(self.latent), self.shelf.site
        if reading is None:
            raise ValueError(f"latent {self.latent} has no new sentence: try one first")
        file = site.run.folder / curated.FILE
        curated.save(
            file,
            site=site.name,
            coder=site.coder_stage.hash,
            latent=reading.latent,
            sentence=reading.sentence,
            replaced=site.sentences[reading.latent],
        )
        self.kept[reading.latent] = reading._replace(origin="yours, saved")
        self.draft = None
        return f"saved to {file}; use it with explain.curated: {file}"

    # ── your own text ────────────────────────────────────────────────────────────────────────

    def read(self, text: str) -> Html:
        """Which latents fire where in ``text``."""
        own = owntext.read(self.shelf.site, text)
        return owntext.drawn(self.shelf, own, self._told(own))

    def predict(self, text: str, *, step: Step = silent) -> Html:
        """The same, with what the sentences of the shown latents predict at every token."""
        own = owntext.read(self.shelf.site, text)
        told = self._told(own)
        found = owntext.predict(self.shelf, own, told, self.simulator, step=step)
        return owntext.drawn(self.shelf, own, told, found)

    def text_price(self, text: str) -> str:
        """What ``predict`` costs, in words."""
        own = owntext.read(self.shelf.site, text)
        return self.simulator.price(len(own.texts), len(self._told(own)))

    @property
    def _said(self) -> tuple[int, str]:
        return self.latent, self.reading.sentence

    def _told(self, own: owntext.OwnText) -> dict[int, str]:
        """The latents to show on a text, with the sentences that stand for them now."""
        latents = owntext.strongest(self.shelf, own, first=self.latent)
        kept = {latent: reading.sentence for latent, reading in self.kept.items()}
        return {latent: kept.get(latent, self.shelf.site.sentences[latent]) for latent in latents}

    # ── three faces ──────────────────────────────────────────────────────────────────────────

    @property
    def static(self) -> Html:
        """The card, and the whole table below it, for readers without a kernel."""
        return Html(f"{self.card.markup}{self._listed}", repr(self.card))

    @functools.cached_property
    def _listed(self) -> str:
        """The folded table of all latents."""
        summary = f"all {len(self.rows)} latents with sentences"
        inner = table.html(self.rows).markup
        return f"<details><summary>{summary}</summary>{inner}</details>"

    def __repr__(self) -> str:
        return repr(self.card)

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        live = Controls(self).widget
        view = {"version_major": 2, "version_minor": 0, "model_id": live.model_id}
        return self.static._repr_mimebundle_() | {WIDGET: view}

    def _ipython_display_(self) -> None:
        """Live controls, and the static card as an output of its own.

        JupyterLab shows nothing of a bundle whose widget has lost its kernel, so the static card
        stands below, and folds itself away while a live one is on the page.
        """
        controls = Controls(self, seen=self._fold)
        view = {"version_major": 2, "version_minor": 0, "model_id": controls.widget.model_id}
        display({WIDGET: view, "text/plain": repr(self)}, raw=True)
        self._static = display(self._folding(opened=True), display_id=True)

    def _fold(self) -> None:
        """Fold the static card, brought up to date with what is selected."""
        if self._static is not None:
            self._static.update(self._folding(opened=False))

    def _folding(self, *, opened: bool) -> Html:
        static = self.static
        summary = "the card, as it stays when the kernel is gone"
        head = f"<details{' open' * opened}><summary>{summary}</summary>"
        return Html(f"{head}{static.markup}</details>", repr(static))

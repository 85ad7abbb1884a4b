"""One person's work on the latents of a site: what is selected, tried, kept and saved.

In: a site. Out: the card, the table, two sentences compared, a text that is read. Knows no widgets.
"""

import numpy as np
import pandas as pd

from rewrite_utils.explorer import card, owntext, table
from rewrite_utils.explorer.edit import Simulator, Step, silent, turn
from rewrite_utils.explorer.records import LONGEST, OwnText, Reading
from rewrite_utils.explorer.shelf import Shelf
from rewrite_utils.explorer.windows import EACH, Kind
from rewrite_utils.llm.engine import Engine
from rewrite_utils.report.display import Html
from rewrite_utils.site import SiteStages


class Session:
    """All latents of one site that have a sentence, one of them selected."""

    def __init__(
        self, site: SiteStages, *, latent: int | None = None, engine: Engine | None = None
    ) -> None:
        """Select ``latent``, by default the one that carries most of the output; ``engine`` is the
        simulator's if one is open already.

        Raises KeyError when that latent has no sentence, ValueError when none has.
        """
        self.shelf = Shelf(site)
        if not self.shelf.latents:
            raise ValueError(
                f"no latent of site {site.name!r} has a sentence that was simulated: nothing to "
                "explore; notebook 03 shows what the explainer answered"
            )
        with turn():
            self.rows = self.shelf.rows
        self.simulator = Simulator(self.shelf, engine)
        self.kept: dict[int, Reading] = {}
        self.draft: Reading | None = None
        self._predicted: dict[tuple[int, str], dict[str, Kind]] = {}
        self._drawn: tuple[object, object, Html] = None, None, Html("", "")
        self._generator = np.random.default_rng(site.params.seed)
        largest = int(self.rows["latent"][self.rows["share of output"].idxmax()])
        self.latent = largest if latent is None else latent
        self.shelf.place(self.latent)

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
        """The latents as a frame, sorted, those that contain ``text`` (``table.chosen``)."""
        return table.chosen(self.rows, sort=sort, text=text)

    # ── what is shown ────────────────────────────────────────────────────────────────────────

    @property
    def reading(self) -> Reading:
        """What is held of the selected latent: the kept sentence, or else the run's."""
        return self.kept.get(self.latent) or self.shelf.reading(self.latent)

    @property
    def card(self) -> Html:
        """The selected latent's card."""
        reading, known = self.reading, self.shelf.known(self.latent)
        windows = self._predicted.get((reading.latent, reading.sentence), known.windows)
        if self._drawn[0] is not reading or self._drawn[1] is not windows:
            drawn = card.card(known._replace(windows=windows), reading)
            self._drawn = reading, windows, drawn  # one selection asks for its card several times
        return self._drawn[2]

    @property
    def comparison(self) -> Html:
        """The draft beside what was there before; empty without a draft."""
        if (new := self.draft) is None:
            return Html("", "")
        old = self.kept.get(new.latent) or self.shelf.reading(new.latent)
        return card.comparison(self.shelf.known(new.latent), old, new, self.shelf.gain(old, new))

    # ── what is computed: each takes its turn, and ``step`` may stop it ──────────────────────

    @property
    def price(self) -> str:
        """What trying a sentence costs, in words."""
        return self.simulator.price(len(self.shelf.rated), more=self.shelf.replaced_seconds)

    def attempt(self, sentence: str, *, step: Step = silent) -> Html:
        """Simulate ``sentence`` for the selected latent and return it beside the old one.

        Raises ExplanationError (empty), NoSimulator (what to start), Cancelled.
        """
        with turn(step):
            self.draft = self.simulator.again(self.latent, sentence, step=step)
        return self.comparison

    @property
    def windows_price(self) -> str:
        """What ``predict_windows`` costs at most, in words."""
        return self.simulator.price(3 * EACH)

    def predict_windows(self, *, step: Step = silent) -> Html:
        """The card with a prediction at the strongest token of every window of text."""
        reading = self.reading
        with turn(step):
            found = self.simulator.in_windows(reading, step=step)
        self._predicted[reading.latent, reading.sentence] = found
        return self.card

    def text_price(self, text: str) -> str:
        """What ``predict`` costs at most, in words; nothing is computed for it."""
        tokens = min(len(self.shelf.ids(text)), LONGEST)
        return f"at most {self.simulator.price(tokens, owntext.SHOWN)}"

    def read(self, text: str, *, step: Step = silent) -> Html:
        """Which latents fire where in ``text``; ValueError without any."""
        with turn(step):
            own = self.shelf.own(text)
        return owntext.drawn(own, self._told(own), self.shelf.cache.maximum)

    def predict(self, text: str, *, step: Step = silent) -> Html:
        """``read``, with what the sentences of the shown latents predict at every token."""
        with turn(step):
            own = self.shelf.own(text)
            told = self._told(own)
            found = self.simulator.on_text(own, told, step=step)
        return owntext.drawn(own, told, self.shelf.cache.maximum, found)

    def _told(self, own: OwnText) -> dict[int, str]:
        """The latents to show on a text, with the sentences that stand for them now."""
        sentences = self.shelf.sentences | {one: kept.sentence for one, kept in self.kept.items()}
        maximum = self.shelf.cache.maximum
        latents = owntext.strongest(own, list(sentences), maximum, first=self.latent)
        return {latent: sentences[latent] for latent in latents}

    # ── what becomes of another sentence ─────────────────────────────────────────────────────

    def keep(self) -> Html:
        """Let the draft take the old sentence's place in this session; nothing is written."""
        if self.draft is not None:
            self.kept[self.draft.latent] = self.draft._replace(origin="yours, kept")
            self.draft = None
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
        reading = self.draft or self.kept.get(self.latent)
        if reading is None:
            raise ValueError(f"latent {self.latent} has no new sentence: try one first")
        file = self.shelf.save(reading.latent, reading.sentence)
        self.kept[reading.latent] = reading._replace(origin="yours, saved")
        self.draft = None
        return f"saved to {file}; use it with explain.curated: {file}"

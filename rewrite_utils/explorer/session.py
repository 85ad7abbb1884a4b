"""One person's work on the latents of a site: what is selected, searched, written and saved.

In: a site. Out: the card, the table, an edited description beside the run's, a text that is read, a
prompt that is continued. Knows no widgets.
"""

import functools

import numpy as np
import pandas as pd

from rewrite_utils.explorer import beside, card, owntext, scatter, speak
from rewrite_utils.explorer.change import Change
from rewrite_utils.explorer.desk import Desk, Step, silent, turn
from rewrite_utils.explorer.find import WORDS, Mode
from rewrite_utils.explorer.owntext import OwnText
from rewrite_utils.explorer.prediction import Judged
from rewrite_utils.explorer.scatter import Axes
from rewrite_utils.explorer.shelf import Shelf
from rewrite_utils.explorer.speak import Speaker, Spoken
from rewrite_utils.explorer.stage import ALONE
from rewrite_utils.report.display import Html
from rewrite_utils.site import SiteStages

WORK = 50
"""Descriptions in the work list."""
MAP = Axes("map of all descriptions", "alike descriptions lie together", "orange: R² 0, blue: R² 1")
LAYER = Axes("the whole layer", "at stake, nats →", "won back by its description, nats ↑", True)


class Session:
    """All latents of one site, one of them selected."""

    def __init__(self, site: SiteStages, *, latent: int | None = None) -> None:
        """Select ``latent``, by default the one that carries most of the output.

        Raises KeyError when the coder has no such latent.
        """
        self.shelf = Shelf(site)
        self.desk = Desk(self.shelf)
        with turn():
            self.rows = self.shelf.rows
        self.written: dict[int, str] = {}
        self._before: dict[int, list[str]] = {}
        self._edited: Judged | None = None
        self._peaks: np.ndarray | None = None
        self._generator = np.random.default_rng(site.params.seed)
        known = self.rows[self.rows["sentence"] != ""] if self.shelf.descriptions else self.rows
        largest = int(known["latent"][known["share of output"].idxmax()])
        self.latent = largest if latent is None else latent
        self.shelf.require(self.latent)

    # ── which latent ─────────────────────────────────────────────────────────────────────────

    def select(self, latent: int) -> Html:
        """Make ``latent`` the selected one and return its card."""
        self.shelf.require(latent)
        if latent != self.latent:
            self._edited = None
        self.latent = latent
        return self.card

    def random(self) -> int:
        """Any other latent of which something is said; the same sequence in every session."""
        known = list(self.shelf.descriptions) or self.rows["latent"].tolist()
        others = [one for one in known if one != self.latent] or [self.latent]
        return int(self._generator.choice(others))

    def beside(self, step: int, *, sort: str = "latent", text: str = "", mode: Mode = WORDS) -> int:
        """The latent ``step`` rows further in the table as searched, round and round."""
        shown = self.table(sort=sort, text=text, mode=mode)["latent"].tolist() or [self.latent]
        at = shown.index(self.latent) if self.latent in shown else -max(step, 0)
        return int(shown[(at + step) % len(shown)])

    def table(self, *, sort: str = "latent", text: str = "", mode: Mode = WORDS) -> pd.DataFrame:
        """The latents as a frame: those that match ``text``, the best match first (``Finder``)."""
        return self.desk.finder.find(self.rows, mode, text, sort=sort, peaks=self._peaks)

    def work(self) -> pd.DataFrame:
        """The descriptions that lose most of what is at stake, worst first."""
        return self.rows.dropna(subset=["lost"]).sort_values("lost", ascending=False).head(WORK)

    # ── what is shown ────────────────────────────────────────────────────────────────────────

    @property
    def description(self) -> str:
        """What is said of the selected latent now: yours, or the run's; "" where nothing is."""
        return self.written.get(self.latent, self.shelf.descriptions.get(self.latent, ""))

    @property
    def card(self) -> Html:
        """The selected latent's card."""
        return self._card(self.latent)

    @functools.lru_cache(maxsize=64)  # noqa: B019 (a session lives as long as its page)
    def _card(self, latent: int) -> Html:
        shelf = self.shelf
        reading = shelf.reading(latent) if latent in shelf.sentences else None
        said = shelf.descriptions.get(latent, "")
        return card.card(shelf.known(latent), reading, said, shelf.missing)

    def map(self, *, live: bool = False) -> str:
        """Every description as a dot, alike ones together, by R²; an SVG."""
        points = self.desk.finder.plane
        rows = self.rows.set_index("latent").loc[points.index]
        points = points.assign(shade=rows["R²"], said=rows["sentence"])
        return scatter.svg(points, MAP, selected=self.latent, live=live)

    def layer(self, *, live: bool = False) -> str:
        """What is at stake against what each description wins back, a latent a dot; an SVG."""
        rows = self.rows.set_index("latent")
        points = pd.DataFrame({"x": rows["at stake"], "y": rows["won back"], "shade": rows["R²"]})
        points["said"] = rows["sentence"]
        return scatter.svg(points, LAYER, selected=self.latent, live=live)

    @property
    def pictures(self) -> Html:
        """The whole layer and the map, as pictures that need no kernel."""
        both = [(LAYER, self.layer)] + [(MAP, self.map)] * (self.shelf.predictor is not None)
        drawn = "".join(scatter.picture(draw(), name=axes.name) for axes, draw in both)
        return Html(f"<div>{drawn}</div>", "; ".join(axes.name for axes, _ in both))

    # ── another description, at once ─────────────────────────────────────────────────────────

    def edit(self, description: str) -> Html:
        """Read and judge a description of the selected latent, beside the run's.

        ExplanationError where it says nothing, RuntimeError where the site has no reader.
        """
        self._edited = self.desk.judge(self.latent, description)
        if description != self.shelf.descriptions.get(self.latent):
            self.written[self.latent] = description
        else:
            self.written.pop(self.latent, None)
        return self.comparison

    @property
    def comparison(self) -> Html:
        """The edited description beside the run's; empty where nothing is read."""
        if (new := self._edited) is None:
            return Html("", "")
        old = self._run_s(self.latent)
        both = [new] if old is None or old.description == new.description else [old, new]
        return beside.beside(self.shelf.known(self.latent), both, spell=self.shelf.spell)

    @property
    def words(self) -> Html:
        """The words of the description that was judged last, by what each carries."""
        return beside.words(self.desk.reads().carried(self._edited) if self._edited else [])

    @property
    def comparison_there(self) -> bool:
        """Whether a description was judged."""
        return self._edited is not None

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def _run_s(self, latent: int) -> Judged | None:
        said = self.shelf.descriptions.get(latent)
        return self.desk.judge(latent, said) if said else None

    @property
    def changes(self) -> list[Change]:
        """Words to add and words to remove, one click each."""
        return self.desk.reads().changes(self._edited) if self._edited else []

    def change(self, change: Change) -> str:
        """The description with one change made; ``undo`` takes it back."""
        self._before.setdefault(self.latent, []).append(self.description)
        return change.made(self.description)

    def undo(self) -> str:
        """The description before the last change; ValueError where there was none."""
        if not self._before.get(self.latent):
            raise ValueError(f"nothing to undo: no word of latent {self.latent} was changed")
        return self._before[self.latent].pop()

    @property
    def can_undo(self) -> bool:
        """Whether a change was made."""
        return bool(self._before.get(self.latent))

    @property
    def exact_price(self) -> str:
        """What ``exact`` takes, in words: no longer than the run's own pass over all latents took;
        nothing is computed for it."""
        site, price = self.shelf.site, "time not yet known"
        if self.shelf.latents:
            price = f"at most {max(1, round(site.stage(ALONE).manifest['seconds']))} s"
        return f"{site.settings.evaluate_windows} windows, {price}"

    def exact(self, *, step: Step = silent) -> Html:
        """The measured CE of the edited description, the run's, and the mean in its place."""
        if self._edited is None:
            raise ValueError("there is no description to measure: write one")
        pair = [self._run_s(self.latent) or self._edited, self._edited]
        with turn(step):
            over, gain = self.desk.exactly(pair, step=step)
        return beside.exact(over, gain)

    # ── a text of your own, and what the model says ──────────────────────────────────────────

    def read(self, text: str, *, step: Step = silent) -> Html:
        """Which latents fire where in ``text``, and what is said of them there; searching by
        "your text" then finds those. ValueError without a text."""
        with turn(step):
            own = self.desk.own(text)
        self._peaks = own.true.max(0)
        told = self._told(own)
        maximum = self.shelf.cache.maximum
        return owntext.drawn(own, told, maximum, self._predicted(own, told))

    def _told(self, own: OwnText) -> dict[int, str]:
        """The latents to show on a text, with what is said of them now."""
        said = self.shelf.descriptions | self.written
        latents = owntext.strongest(own, list(said), self.shelf.cache.maximum, first=self.latent)
        return {latent: said.get(latent, "") for latent in latents}

    def _predicted(self, own: OwnText, told: dict[int, str]) -> np.ndarray | None:
        """What their descriptions mean at every token; None without a reader."""
        if (reader := self.shelf.predictor) is None:
            return None
        kinds = self.shelf.spell(own.ids)
        return np.stack(
            [
                reader.said(latent, [text], kinds)[:, 0]
                if latent in reader.descriptions and text
                else np.full(len(kinds), np.nan, np.float32)
                for latent, text in told.items()
            ],
            axis=1,
        )

    @property
    def speaker(self) -> Speaker:
        """The model and its rewrite by the descriptions as they stand in this session."""
        return self._speaker(tuple(self.written.items()))

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _speaker(self, written: tuple[tuple[int, str], ...]) -> Speaker:
        return self.desk.speaker(dict(written))

    def speak(self, prompt: str, *, step: Step = silent) -> tuple[list[Spoken], Html]:
        """The prompt continued by model, coder, rewrite and ablation."""
        with turn(step):
            spoken = self.speaker.speak(prompt, step=step)
        return spoken, speak.drawn(spoken, prompt)

    def why(self, spoken: Spoken, at: int, *, step: Step = silent) -> Html:
        """The latents whose descriptions made most of the difference at a token of it."""
        with turn(step):
            found = self.speaker.why(spoken.row, at)
        said = self.shelf.descriptions | self.written
        return speak.explained(found, said, spoken.texts[at - 1])

    # ── what becomes of it ───────────────────────────────────────────────────────────────────

    def discard(self) -> str:
        """Drop what was written on the selected latent; returns the run's description."""
        self.written.pop(self.latent, None)
        self._before.pop(self.latent, None)
        self._edited = None
        return self.description

    def save(self) -> str:
        """Write what you wrote to the run's curated.parquet; says where.

        Raises ValueError when nothing was written on the selected latent.
        """
        if self.latent not in self.written:
            raise ValueError(f"latent {self.latent} has no new description: write one first")
        file = self.desk.save(self.latent, self.written[self.latent])
        return f"saved to {file}; use it with explain.curated: {file}"

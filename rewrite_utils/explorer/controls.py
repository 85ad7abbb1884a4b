"""The live face of the explorer: ipywidgets around one LatentExplorer.

Every button calls one method of the explorer and shows what it returns. Questions to the simulator
run in a thread, so that the page stays alive, with progress and a cancel button.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets as widgets

from rewrite_utils.explorer import marks, table
from rewrite_utils.explorer.asking import Cancelled, Step
from rewrite_utils.report.display import Html

if TYPE_CHECKING:
    from rewrite_utils.explorer.browser import LatentExplorer

WIDE = widgets.Layout(width="98%")
NARROW = widgets.Layout(width="110px")
MONO = "latents-in-columns"
STYLE = f"<style>.{MONO} select {{ font-family: monospace; white-space: pre; }}</style>"
"""A list box has no style of its own for its letters."""


class Controls:
    """The widgets of one display of an explorer."""

    def __init__(
        self, explorer: "LatentExplorer", *, seen: Callable[[], None] | None = None
    ) -> None:
        """``seen`` is called once a page has drawn the widgets, and after each selection."""
        self.explorer = explorer
        self._seen, self._cancel = seen, threading.Event()
        self._busy = self._filling = False
        self._make()
        self.widget = widgets.VBox([self._chooser(), self.card, self._editor(), self._reader()])
        self._show()
        self._listen()
        if seen is not None:
            self.widget.set_trait("_view_count", 0)
            self.widget.observe(lambda change: change["new"] and seen(), "_view_count")

    # ── parts ────────────────────────────────────────────────────────────────────────────────

    def _make(self) -> None:
        explorer = self.explorer
        self.number = widgets.BoundedIntText(
            value=explorer.latent, min=0, max=explorer.shelf.cache.n_latents - 1,
            description="latent", layout=widgets.Layout(width="170px"),
        )  # fmt: skip
        self.previous, self.next, self.random = (
            widgets.Button(description=name, layout=NARROW)
            for name in ("◀ previous", "next ▶", "random")
        )
        self.sort = widgets.Dropdown(options=list(table.SORTS), description="sort by")
        self.filter = widgets.Text(
            placeholder="words, a latent's number, rating>.7, fires<5%, CE<0",
            description="filter", continuous_update=True, layout=widgets.Layout(width="460px"),
        )  # fmt: skip
        self.list = widgets.Select(rows=7, layout=WIDE)
        self.list.add_class(MONO)
        self.message = widgets.HTML()
        self.card = widgets.HTML(layout=WIDE)
        self.peaks = widgets.Button(layout=widgets.Layout(width="auto"))
        self.sentence = widgets.Textarea(layout=WIDE, rows=2)
        self.try_it, self.cancel, self.keep, self.discard, self.save = (
            widgets.Button(description=name)
            for name in ("try it", "cancel", "keep", "discard", "save")
        )
        self.try_it.layout = widgets.Layout(width="auto")
        self.progress = widgets.FloatProgress(min=0, max=1)
        self.said, self.beside = widgets.HTML(), widgets.HTML(layout=WIDE)
        self.text = widgets.Textarea(placeholder="paste a text", layout=WIDE, rows=3)
        self.fires = widgets.Button(description="which latents fire?")
        self.predict = widgets.Button(description="predict", layout=widgets.Layout(width="auto"))
        self.read = widgets.HTML(layout=WIDE)

    def _chooser(self) -> widgets.Widget:
        jump = widgets.HBox([self.number, self.previous, self.next, self.random])
        order = widgets.HBox([self.sort, self.filter])
        header = widgets.HTML(f"{STYLE}<pre style='margin: 0 0 0 6px'>{table.HEADER}</pre>")
        return widgets.VBox([jump, order, header, self.list, self.message])

    def _editor(self) -> widgets.Widget:
        head = widgets.HTML(marks.section("A better sentence?", ""))
        go = widgets.HBox([self.try_it, self.peaks])
        wait = widgets.HBox([self.cancel, self.progress])
        then = widgets.HBox([self.keep, self.discard, self.save])
        return widgets.VBox([head, self.sentence, go, wait, self.said, self.beside, then])

    def _reader(self) -> widgets.Widget:
        head = widgets.HTML(marks.section("Your own text", ""))
        return widgets.VBox([head, self.text, widgets.HBox([self.fires, self.predict]), self.read])

    # ── what happens ─────────────────────────────────────────────────────────────────────────

    def _listen(self) -> None:
        explorer = self.explorer
        self.number.observe(lambda change: self.select(change["new"]), "value")
        self.list.observe(lambda change: self._picked(change["new"]), "value")
        self.sort.observe(lambda change: self._fill(), "value")
        self.filter.observe(lambda change: self._fill(), "value")
        self.next.on_click(lambda _: self.select(self._beside(1)))
        self.previous.on_click(lambda _: self.select(self._beside(-1)))
        self.random.on_click(lambda _: self.select(explorer.random()))
        self.try_it.on_click(lambda _: self._start(self._attempt))
        self.peaks.on_click(lambda _: self._start(self._predict_peaks))
        self.cancel.on_click(lambda _: self._cancel.set())
        self.keep.on_click(lambda _: self._after(explorer.keep, "kept for this session"))
        self.discard.on_click(lambda _: self._after(explorer.discard, "discarded"))
        self.save.on_click(lambda _: self._saved())
        self.fires.on_click(lambda _: self._guarded(lambda: self._put(explorer.read)))
        self.text.observe(lambda change: self._text_price(), "value")
        self.predict.on_click(lambda _: self._start(self._predict))

    def select(self, latent: int) -> None:
        """Show another latent; a latent without a sentence is said, and the old one stays."""
        if latent == self.explorer.latent:
            return
        try:
            self.explorer.select(int(latent))
        except KeyError as error:
            self.message.value = marks.note(str(error.args[0]))
            return
        self.message.value = ""
        self._show()

    def _show(self) -> None:
        """Everything that depends on the selected latent."""
        explorer = self.explorer
        self.card.value = explorer.card.markup
        self.number.value = explorer.latent
        self.sentence.value = explorer.reading.sentence
        self.beside.value = explorer.comparison.markup
        self.said.value = ""
        self._fill()
        self._buttons()
        if self._seen is not None and (self.widget._view_count or 0) > 0:
            self._seen()

    def _fill(self) -> None:
        """The list box, as sorted and filtered."""
        shown = self.explorer.table(sort=self.sort.value, text=self.filter.value)
        options = table.lines(shown)
        inside = self.explorer.latent in shown["latent"].tolist()
        self._filling = True  # new options select the first of them: that is nobody's choice
        self.list.options = options
        self.list.value = self.explorer.latent if inside else None
        self._filling = False

    def _picked(self, latent: int | None) -> None:
        if latent is not None and not self._filling:
            self.select(latent)

    def _beside(self, step: int) -> int:
        return self.explorer.beside(step, sort=self.sort.value, text=self.filter.value)

    def _buttons(self) -> None:
        """Which buttons can be pressed, and what pressing costs."""
        explorer, busy = self.explorer, self._busy
        self.try_it.description = f"try this sentence ({explorer.price})"
        tried = explorer.draft is not None
        held = explorer.latent in explorer.kept
        self.peaks.description = f"predict in the windows of text ({explorer.peaks_price})"
        self.try_it.disabled = self.predict.disabled = self.peaks.disabled = busy
        self.cancel.disabled = not busy
        self.keep.disabled = busy or not tried
        self.discard.disabled = self.save.disabled = busy or not (tried or held)
        chooser = (self.number, self.previous, self.next, self.random, self.list)
        for one in chooser:
            one.disabled = busy

    def _after(self, act: Callable[[], Html], said: str) -> None:
        act()
        self._show()
        self.said.value = marks.note(said)

    def _saved(self) -> None:
        said = self.explorer.save()
        self._show()
        self.said.value = marks.note(said)

    # ── questions to the simulator ───────────────────────────────────────────────────────────

    def _attempt(self, step: Step) -> None:
        self.beside.value = self.explorer.attempt(self.sentence.value, step=step).markup

    def _predict_peaks(self, step: Step) -> None:
        self.card.value = self.explorer.predict_peaks(step=step).markup

    def _predict(self, step: Step) -> None:
        self.read.value = self.explorer.predict(self.text.value, step=step).markup

    def _put(self, read: Callable[[str], Html]) -> None:
        self.read.value = read(self.text.value).markup

    def _text_price(self) -> None:
        words = self.text.value.strip()
        price = f" ({self.explorer.text_price(words)})" if words else ""
        self.predict.description = f"predict{price}"

    def _start(self, work: Callable[[Step], None]) -> None:
        """Do the work in a thread; one at a time."""
        if self._busy:
            return
        self._busy = True
        self._cancel.clear()
        self._buttons()
        self.said.value = marks.note("asking the simulator …")
        self.thread = threading.Thread(target=self._work, args=(work,), daemon=True)
        self.thread.start()

    def _work(self, work: Callable[[Step], None]) -> None:
        self._guarded(lambda: self._done(work))
        self._busy = False
        self.progress.value = 0
        self._buttons()
        self._text_price()

    def _done(self, work: Callable[[Step], None]) -> None:
        work(self._step)
        self.said.value = ""

    def _step(self, share: float) -> None:
        self.progress.value = share
        if self._cancel.is_set():
            raise Cancelled

    def _guarded(self, act: Callable[[], None]) -> None:
        """Whatever goes wrong is said on the page: a callback's traceback would be lost."""
        try:
            act()
        except Cancelled:
            self.said.value = marks.note("cancelled; nothing has changed")
        except Exception as error:
            self.said.value = marks.note(str(error))

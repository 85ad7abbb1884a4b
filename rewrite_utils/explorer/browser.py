"""LatentExplorer: a session with three faces (live widgets, a static card, one line of text).

Every control calls one method of the session and shows what it returns. Whatever computes runs in a
thread, so that the page stays alive, with progress and a cancel button; until it is done all other
controls are disabled.
"""

import functools
import threading
from collections.abc import Callable

import ipywidgets as widgets
from IPython.display import DisplayHandle, display

from rewrite_utils.explorer import marks, table
from rewrite_utils.explorer.edit import Cancelled
from rewrite_utils.explorer.session import Session
from rewrite_utils.report.display import Html

WIDGET = "application/vnd.jupyter.widget-view+json"
WIDE = widgets.Layout(width="98%")
MONO = "latents-in-columns"
STYLE = f"<style>.{MONO} select {{ font-family: monospace; white-space: pre; }}</style>"
"""A list box has no style of its own for its letters."""


class Controls:
    """The widgets of one display of a session."""

    def __init__(self, session: Session, *, seen: Callable[[], None] | None = None) -> None:
        """``seen`` is called once a page has drawn the widgets, and after each selection."""
        self.session, self._seen = session, seen
        self._cancel, self._busy, self._filling = threading.Event(), False, False
        self.card = widgets.HTML(layout=WIDE)
        self.widget = widgets.VBox([self._chooser(), self.card, self._editor(), self._reader()])
        self._show()
        self.number.observe(lambda change: self.select(change["new"]), "value")
        self.list.observe(lambda change: self._filling or self.select(change["new"]), "value")
        self.sort.observe(lambda _: self._fill(), "value")
        self.filter.observe(lambda _: self._fill(), "value")
        self.text.observe(lambda _: self._buttons(), "value")
        if seen is not None:
            self.widget.set_trait("_view_count", 0)
            self.widget.observe(lambda change: change["new"] and seen(), "_view_count")

    # ── parts ────────────────────────────────────────────────────────────────────────────────

    def _chooser(self) -> widgets.Widget:
        session = self.session
        self.number = widgets.BoundedIntText(
            value=session.latent, min=0, max=session.shelf.cache.n_latents - 1,
            description="latent", layout=widgets.Layout(width="170px"),
        )  # fmt: skip
        self.sort = widgets.Dropdown(options=list(table.SORTS), description="sort by")
        self.filter = widgets.Text(
            placeholder="words, a latent's number, rating>.7, fires<5%, CE<0",
            description="filter", layout=widgets.Layout(width="460px"),
        )  # fmt: skip
        self.list, self.message = widgets.Select(rows=7, layout=WIDE), widgets.HTML()
        self.list.add_class(MONO)
        self.previous = self._button("◀ previous", lambda: self.select(self._beside(-1)))
        self.next = self._button("next ▶", lambda: self.select(self._beside(1)))
        self.random = self._button("random", lambda: self.select(session.random()))
        jump = widgets.HBox([self.number, self.previous, self.next, self.random])
        header = widgets.HTML(f"{STYLE}<pre style='margin: 0 0 0 6px'>{table.HEADER}</pre>")
        order = widgets.HBox([self.sort, self.filter])
        return widgets.VBox([jump, order, header, self.list, self.message])

    def _editor(self) -> widgets.Widget:
        session, head = self.session, widgets.HTML(marks.section("A better sentence?", ""))
        self.sentence = widgets.Textarea(layout=WIDE, rows=2)
        self.beside, self.said = widgets.HTML(layout=WIDE), widgets.HTML()
        self.progress = widgets.FloatProgress(min=0, max=1)
        self.try_it = self._button(
            "", lambda: self.ask(self.beside, session.attempt, self.sentence.value)
        )
        self.windows = self._button("", lambda: self.ask(self.card, session.predict_windows))
        self.cancel = self._button("cancel", self._cancel.set)
        self.keep = self._button("keep", lambda: self._after(session.keep, "kept for this session"))
        self.discard = self._button("discard", lambda: self._after(session.discard, "discarded"))
        self.save = self._button("save", lambda: self._after(session.save))
        go = widgets.HBox([self.try_it, self.windows])
        wait = widgets.HBox([self.cancel, self.progress])
        then = widgets.HBox([self.keep, self.discard, self.save])
        return widgets.VBox([head, self.sentence, go, wait, self.said, self.beside, then])

    def _reader(self) -> widgets.Widget:
        session, head = self.session, widgets.HTML(marks.section("Your own text", ""))
        self.text = widgets.Textarea(placeholder="paste a text", layout=WIDE, rows=3)
        self.read = widgets.HTML(layout=WIDE)
        self.fires = self._button(
            "which latents fire?", lambda: self.ask(self.read, session.read, self.text.value)
        )
        self.predict = self._button(
            "", lambda: self.ask(self.read, session.predict, self.text.value)
        )
        return widgets.VBox([head, self.text, widgets.HBox([self.fires, self.predict]), self.read])

    def _button(self, name: str, act: Callable[[], None]) -> widgets.Button:
        button = widgets.Button(description=name, layout=widgets.Layout(width="auto"))
        button.on_click(lambda _: self._guarded(act))
        return button

    # ── what happens ─────────────────────────────────────────────────────────────────────────

    def select(self, latent: int | None) -> None:
        """Show another latent; a latent without a sentence is said, and the old one stays."""
        if latent is None or latent == self.session.latent:
            return
        try:
            self.session.select(int(latent))
        except KeyError as error:
            self.message.value = marks.note(str(error.args[0]))
        else:
            self._show()

    def _show(self) -> None:
        """Everything that depends on the selected latent."""
        session = self.session
        self.card.value = session.card.markup
        self.number.value = session.latent
        self.sentence.value = session.reading.sentence
        self.beside.value = session.comparison.markup
        self.said.value = self.message.value = ""
        self._fill()
        self._buttons()
        if self._seen is not None and (self.widget._view_count or 0) > 0:
            self._seen()

    def _fill(self) -> None:
        """The list box, as sorted and filtered."""
        shown = self.session.table(sort=self.sort.value, text=self.filter.value)
        inside = self.session.latent in shown["latent"].tolist()
        self._filling = True  # new options select the first of them: that is nobody's choice
        self.list.options = table.lines(shown)
        self.list.value = self.session.latent if inside else None
        self._filling = False

    def _beside(self, step: int) -> int:
        return self.session.beside(step, sort=self.sort.value, text=self.filter.value)

    def _buttons(self) -> None:
        """Which controls can be used, and what pressing them costs."""
        session, busy, words = self.session, self._busy, self.text.value.strip()
        price = f" ({session.text_price(words)})" if words else ""
        self.predict.description = f"predict{price}"
        self.try_it.description = f"try this sentence ({session.price})"
        self.windows.description = f"predict in the windows of text ({session.windows_price})"
        for one in (self.number, self.previous, self.next, self.random, self.list, self.sentence,
                    self.try_it, self.windows, self.text, self.fires, self.predict):  # fmt: skip
            one.disabled = busy
        nothing = session.draft is None and session.latent not in session.kept
        self.discard.disabled = self.save.disabled = busy or nothing
        self.keep.disabled = busy or session.draft is None
        self.cancel.disabled = not busy

    def _after(self, act: Callable[[], Html | str], said: str = "") -> None:
        done = act()
        self._show()
        self.said.value = marks.note(said or str(done))

    # ── what takes its time ──────────────────────────────────────────────────────────────────

    def ask(self, target: widgets.HTML, question: Callable[..., Html], *words: str) -> None:
        """Put a question to the session in a thread, its answer into ``target``; one at a time."""
        if self._busy:
            return

        def work() -> None:
            self._guarded(answer)
            self._busy, self.progress.value = False, 0
            self._buttons()

        def answer() -> None:
            target.value = question(*words, step=self._step).markup
            self.said.value = ""

        self._busy, self.said.value = True, marks.note("computing …")
        self._cancel.clear()
        self._buttons()
        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

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


class LatentExplorer(Session):
    """All latents of one site that have a sentence, one of them selected, in a notebook."""

    @property
    def static(self) -> Html:
        """The card, and the whole table below it, for readers without a kernel."""
        return Html(f"{self.card.markup}{self._listed}", repr(self))

    @functools.cached_property
    def _listed(self) -> str:
        """The folded table of all latents."""
        summary = f"all {len(self.rows)} latents with sentences"
        return f"<details><summary>{summary}</summary>{table.html(self.rows).markup}</details>"

    def __repr__(self) -> str:
        return repr(self.card)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return self.static._repr_mimebundle_()

    def _ipython_display_(self) -> None:
        """Live controls, and the static card as an output of its own.

        JupyterLab shows nothing of a bundle whose widget has lost its kernel, so the static card
        stands below, and folds itself away while a live one is on the page.
        """
        below: list[DisplayHandle] = []
        controls = Controls(self, seen=lambda: [one.update(self._folding("")) for one in below])
        live = {"version_major": 2, "version_minor": 0, "model_id": controls.widget.model_id}
        display({WIDGET: live, "text/plain": repr(self)}, raw=True)
        below.append(display(self._folding(" open"), display_id=True))

    def _folding(self, opened: str) -> Html:
        """The static card, brought up to date with what is selected, under a line that folds it."""
        head = f"<details{opened}><summary>the card, as it stays when the kernel is gone</summary>"
        return Html(f"{head}{self.static.markup}</details>", repr(self))

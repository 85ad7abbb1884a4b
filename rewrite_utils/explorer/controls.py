"""The live widgets of a session: every control calls one method of it and shows what it returns.

What is typed is answered at once; what asks the subject runs in a thread, with progress and a
cancel button, and until it is done all other controls are disabled.
"""

import threading
from collections.abc import Callable
from functools import partial
from itertools import zip_longest

import ipywidgets as widgets

from rewrite_utils.explorer import marks, scatter, table
from rewrite_utils.explorer.change import SHOWN, WORD, Change
from rewrite_utils.explorer.desk import Cancelled
from rewrite_utils.explorer.find import MODES, TEXT
from rewrite_utils.explorer.session import Session
from rewrite_utils.explorer.speak import Spoken
from rewrite_utils.report.display import NO_TEXT, Html

WIDE = widgets.Layout(width="98%")
STYLE = """<style>
.explorer select, .explorer pre {font-family: monospace; white-space: pre; min-width: 0}
.explorer svg {max-width: 100%; height: auto}
.explorer .widget-hbox {flex-wrap: wrap}
.explorer .widget-box > * {max-width: 100%}
.explorer .widget-html-content {width: 100%; min-width: 0}
</style>"""
"""What no trait sets."""


class Controls:
    """The widgets of one display of a session."""

    def __init__(self, session: Session, *, seen: Callable[[], None] | None = None) -> None:
        """``seen`` is called once a page has drawn the widgets, and after each selection."""
        self.session, self._seen = session, seen or (lambda: None)
        self._cancel, self._busy, self._filling = threading.Event(), False, False
        self._ready = seen is None  # a page that nobody sees is not read for
        self._spoken: Spoken | None = None
        self._changes: list[Change] = []
        self.card, self.said = widgets.HTML(layout=WIDE), widgets.HTML()
        parts = [self._chooser(), self.card, self._editor(), self._reader(), self._speaker()]
        self.widget = widgets.VBox([*parts, self._whole()])
        self.widget.add_class("explorer")
        self._show()
        self.number.observe(lambda change: self.select(change["new"]), "value")
        self.list.observe(lambda change: self._filling or self.select(change["new"]), "value")
        for one in (self.sort, self.mode, self.query):
            one.observe(lambda _: self._guarded(self._fill), "value")
        self.description.observe(lambda _: self._filling or self._typed(), "value")
        if seen is not None:
            self.widget.set_trait("_view_count", 0)
            self.widget.observe(lambda change: change["new"] and self._drawn(), "_view_count")

    # ── parts ────────────────────────────────────────────────────────────────────────────────

    def _chooser(self) -> widgets.Widget:
        self.number = widgets.BoundedIntText(
            value=self.session.latent, min=0, max=self.session.shelf.cache.n_latents - 1,
            description="latent", layout=widgets.Layout(width="170px"),
        )  # fmt: skip
        self.number.add_class(scatter.NUMBER)
        self.mode = widgets.Dropdown(options=list(MODES), description="find by")
        self.sort = widgets.Dropdown(options=list(table.SORTS), description="sort by")
        self.query = widgets.Text(
            placeholder="words, a latent's number, R2>.7, fires<5%, lost>0",
            description="find", layout=widgets.Layout(width="460px"),
        )  # fmt: skip
        self.list = widgets.Select(rows=7, layout=WIDE)
        self.previous = self._button("◀ previous", lambda: self._move(-1))
        self.next = self._button("next ▶", lambda: self._move(1))
        self.random = self._button("random", lambda: self.select(self.session.random()))
        self.cancel = self._button("cancel", self._cancel.set)
        self.progress = widgets.FloatProgress(min=0, max=1, layout=widgets.Layout(width="160px"))
        jump = [self.number, self.previous, self.next, self.random, self.cancel, self.progress]
        header = widgets.HTML(f"{STYLE}<pre style='margin: 0 0 0 6px'>{table.HEADER}</pre>")
        order = widgets.HBox([self.mode, self.query, self.sort])
        return widgets.VBox([widgets.HBox([*jump, self.said]), order, header, self.list])

    def _editor(self) -> widgets.Widget:
        head = _head("A better description?", "every keystroke is read and judged, without an LLM")
        self.description = widgets.Textarea(layout=WIDE, rows=4)
        self.beside, self.measured, self.words = (widgets.HTML(layout=WIDE) for _ in range(3))
        self.changes = [
            self._button("", lambda at=at: self._write(self.session.change(self._changes[at])))
            for at in range(2 * SHOWN)
        ]
        self.suggested = widgets.HTML()
        self.undo = self._button("undo", lambda: self._write(self.session.undo()))
        self.exact = self._button(
            "", lambda: self.ask(partial(_put, self.measured), self.session.exact)
        )
        self.discard = self._button("discard", lambda: self._write(self.session.discard()))
        self.save = self._button("save", lambda: _say(self.said, self.session.save()))
        then = widgets.HBox([self.undo, self.discard, self.save, self.exact])
        offers = widgets.HBox([self.suggested, *self.changes])
        below = [offers, then, self.measured, self.words, self.beside]
        return widgets.VBox([head, self.description, *below])

    def _reader(self) -> widgets.Widget:
        self.text = widgets.Textarea(placeholder="paste a text", layout=WIDE, rows=3)
        self.read = widgets.HTML(layout=WIDE)
        self.fires = self._button(
            "which latents fire?", lambda: self.ask(self._found, self.session.read, self.text.value)
        )
        line = widgets.HBox([self.fires])
        return widgets.VBox([_head("Your own text"), self.text, line, self.read])

    def _speaker(self) -> widgets.Widget:
        head = _head("The rewritten model speaks", "with the descriptions as they stand above")
        self.prompt = widgets.Text(value="The river", description="prompt", layout=WIDE)
        self.spoken, self.because = (widgets.HTML(layout=WIDE) for _ in range(2))
        self.go = self._button(
            "continue it", lambda: self.ask(self._heard, self.session.speak, self.prompt.value)
        )
        self.token = widgets.Dropdown(options=[], description="token")
        self.why = self._button("why there?", self._ask_why)
        line = widgets.HBox([self.go, self.token, self.why])
        return widgets.VBox([head, self.prompt, line, self.spoken, self.because])

    def _whole(self) -> widgets.Widget:
        head = _head("The whole layer", "a click selects; at stake: measured, or shared by output")
        self.map, self.layer = widgets.HTML(), widgets.HTML()
        self.work = self._button("work list: what loses most", self._worst)
        return widgets.VBox([head, widgets.HBox([self.layer, self.map]), widgets.HBox([self.work])])

    def _button(self, name: str, act: Callable[[], None]) -> widgets.Button:
        button = widgets.Button(description=name, layout=widgets.Layout(width="auto"))
        button.on_click(lambda _: self._guarded(act))
        return button

    # ── what happens ─────────────────────────────────────────────────────────────────────────

    def select(self, latent: int | None) -> None:
        """Show another latent; one that the coder does not have is said, and the old one stays."""
        if latent is None or latent == self.session.latent:
            return
        self._guarded(lambda: self.session.select(int(latent)))
        if self.session.latent == latent:
            self._show()

    def _show(self) -> None:
        """Everything that depends on the selected latent."""
        session = self.session
        self.card.value, self.number.value = session.card.markup, session.latent
        for one in (self.said, self.measured, self.beside, self.words):
            one.value = ""
        self._changes = []
        self._write(session.description)
        self._fill()
        self.layer.value = session.layer(live=True)
        if session.desk.finder.drawn_already:
            self.map.value = session.map(live=True)
        if (self.widget._view_count or 0) > 0:
            self._seen()

    def _drawn(self) -> None:
        """A page is there: what is slow the first time is made now, map and reading."""
        self._seen()
        if not self.map.value:
            self.ask(self._warm, lambda step: Html(self.session.map(live=True), ""))

    def _warm(self, drawn: Html) -> None:
        self.map.value, self._ready = drawn.markup, True
        self._typed()

    def _fill(self) -> None:
        """The list box, as sorted and searched."""
        found = self.session.table(**self._search)
        inside = self.session.latent in found["latent"].tolist()
        self._filling = True  # new options select the first of them: that is nobody's choice
        self.list.options = table.lines(found)
        self.list.value = self.session.latent if inside else None
        self._filling = False
        self._buttons()

    def _move(self, step: int) -> None:
        self.select(self.session.beside(step, **self._search))

    @property
    def _search(self) -> dict[str, str]:
        return {"sort": self.sort.value, "text": self.query.value, "mode": self.mode.value}

    def _write(self, text: str) -> None:
        """Put a description into its field, and read it."""
        self._filling, self.description.value, self._filling = True, text, False
        self._typed()

    def _typed(self) -> None:
        """Judge what stands in the field; what is wrong with it is said, the numbers stay."""
        if self.session.shelf.predictor is not None and self._ready and not self._busy:
            self._guarded(self._judge)
        self._buttons()

    def _judge(self) -> None:
        text = self.description.value
        if not text and not self.session.description:
            _say(self.said, "nothing is said of this latent yet: write a description")
            return
        self.beside.value = self.session.edit(text).markup
        self.said.value, self._changes = "", self.session.changes
        self._offer()
        self.words.value = self.session.words.markup  # last: it takes as long as all the rest

    def _worst(self) -> None:
        self.mode.value, self.query.value, self.sort.value = MODES[0], "", "lost"
        self.select(next(iter(self.session.work()["latent"]), None))

    def _buttons(self) -> None:
        """Which controls can be used, what pressing them costs, and what could be changed."""
        session, busy = self.session, self._busy
        self.exact.description = f"exact CE ({session.exact_price})"
        for one in (self.number, self.previous, self.next, self.random, self.list, self.mode,
                    self.query, self.sort, self.description, self.text, self.fires, self.prompt,
                    self.go, self.work, *self.changes):  # fmt: skip
            one.disabled = busy
        unread = session.shelf.predictor is None
        self.description.disabled = busy or unread
        self.exact.disabled = busy or unread or not session.comparison_there
        self.undo.disabled = busy or not session.can_undo
        self.discard.disabled = self.save.disabled = busy or session.latent not in session.written
        self.why.disabled = self.token.disabled = busy or self._spoken is None
        self.cancel.disabled = not busy
        self._offer()

    def _offer(self) -> None:
        for button, change in zip_longest(self.changes, self._changes):
            button.layout.display = "" if change else "none"
            if change is not None:
                button.description = change.offer
                button.tooltip = f"{change.share:.1%} of its firing, seen {change.seen} times"
        self.suggested.value = "<b>What should I change?</b>" if self._changes else ""

    # ── what takes its time ──────────────────────────────────────────────────────────────────

    def ask(self, show: Callable, question: Callable, *words: object) -> None:
        """Put a question to the session in a thread and ``show`` its answer; one at a time."""
        if self._busy:
            return

        def work() -> None:
            found: list[object] = []
            self._guarded(lambda: found.append(question(*words, step=self._step)))
            self._busy, self.progress.value = False, 0
            if found:
                self.said.value = ""
                self._guarded(lambda: show(found[0]))
            self._buttons()

        _say(self.said, "computing …")
        self._busy = True
        self._cancel.clear()
        self._buttons()
        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def _found(self, found: Html) -> None:
        self.read.value, self.mode.value = found.markup, TEXT
        self._fill()

    def _heard(self, found: tuple[list[Spoken], Html]) -> None:
        spoken, drawn = found
        read = self._spoken = {one.arm: one for one in spoken}.get("rewrite")
        self.spoken.value, self.because.value = drawn.markup, ""
        if read is not None:
            words = [marks.plain(text, WORD) or NO_TEXT for text in read.texts[1:]]
            self.token.options = [(f"{at}: {word}", at) for at, word in enumerate(words, 2)]
            self.token.value = int(abs(read.change[1:]).argmax()) + 2

    def _ask_why(self) -> None:
        show = partial(_put, self.because)
        self.ask(show, self.session.why, self._spoken, self.token.value)

    def _step(self, share: float) -> None:
        self.progress.value = share
        if self._cancel.is_set():
            raise Cancelled

    def _guarded(self, act: Callable[[], None]) -> None:
        """Whatever goes wrong is said on the page: a callback's traceback would be lost."""
        try:
            act()
        except Cancelled:
            _say(self.said, "cancelled; nothing has changed")
        except Exception as error:
            _say(self.said, str(error.args[0] if error.args else error))


def _head(title: str, remark: str = "") -> widgets.HTML:
    return widgets.HTML(marks.section(title, "", remark=remark))


def _put(target: widgets.HTML, found: Html) -> None:
    target.value = found.markup


def _say(target: widgets.HTML, text: str) -> None:
    target.value = marks.note(text)

"""LatentExplorer: a session with three faces (live widgets, a static card, one line of text)."""

import functools

from IPython.display import DisplayHandle, display

from rewrite_utils.explorer import table
from rewrite_utils.explorer.controls import Controls
from rewrite_utils.explorer.session import Session
from rewrite_utils.report.display import Html

WIDGET = "application/vnd.jupyter.widget-view+json"


class LatentExplorer(Session):
    """All latents of one site, one of them selected, in a notebook."""

    @property
    def static(self) -> Html:
        """The card, and below it the layer, the map and the table, for readers without a kernel."""
        return Html(f"{self.card.markup}{self._listed}", repr(self))

    @functools.cached_property
    def _listed(self) -> str:
        """The folded pictures and the folded table of all latents."""
        found = table.chosen(self.rows, sort="share of output")
        return (
            f"<details><summary>the whole layer</summary>{self.pictures.markup}</details>"
            f"<details><summary>all {len(found)} latents</summary>{table.html(found).markup}"
            "</details>"
        )

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

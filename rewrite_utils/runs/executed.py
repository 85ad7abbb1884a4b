"""When a notebook of the series need not run again: same code, same parameters, all still there.

In: a run and the notebook's output. A record a notebook in runs/<name>/executed/: what it was made
from, the stages it read and the figures it wrote. Anything else than before, and it runs.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewrite_utils.runs.run import Run, damage, write_json

PACKAGE = Path(__file__).parents[1]
KEPT = {".py", ".txt"}


def fingerprint(run: Run, notebooks: Sequence[Path]) -> str:
    """Hash of the parameters, of every notebook of the series and of the whole package.

    Of all notebooks, because the report shows what the others found.
    """
    parts = [run.params.model_dump_json(), code()]
    parts += [f"{path.name} {_hash(path.read_bytes())}" for path in notebooks]
    return _hash("\n".join(parts).encode())


@functools.cache
def code() -> str:
    """Hash of the package's sources and prompts."""
    files = sorted(path for path in PACKAGE.rglob("*") if path.suffix in KEPT)
    listed = [f"{path.relative_to(PACKAGE)} {_hash(path.read_bytes())}" for path in files]
    return _hash("\n".join(listed).encode())


def keep(
    run: Run,
    output: Path,
    made_from: str,
    events: Sequence[dict[str, Any]],
    figures: Sequence[Path],
) -> None:
    """Remember a notebook that ran to its end, by the stages of its ``events`` and its figures."""
    stages = sorted({f"{event['stage']}-{event['hash']}" for event in events})
    files = [str(path) for path in figures]
    record = {"made_from": made_from, "stages": stages, "figures": files}
    write_json(_record(run, output), record)


def unchanged(run: Run, output: Path, made_from: str) -> int | None:
    """How many stages ``output`` rests on, if it and all of them are as they were; else None."""
    file = _record(run, output)
    if not (file.exists() and output.exists()):
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # damaged: as if it were not there
        return None
    whole = (
        record["made_from"] == made_from
        and all(Path(figure).exists() for figure in record["figures"])
        and not any(damage(run.folder / "stages" / stage) for stage in record["stages"])
    )
    return len(record["stages"]) if whole else None


def forget(run: Run, output: Path) -> None:
    """It runs again: until it has ended there is no record."""
    _record(run, output).unlink(missing_ok=True)


def _record(run: Run, output: Path) -> Path:
    return run.folder / "executed" / f"{output.stem}.json"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

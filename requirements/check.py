"""Is everything in the lock really installed, in the pinned version, and does the package import?

``python requirements/check.py requirements/lock-cpu.txt``: pip has been seen to install nothing and
to exit 0. Standard library only, so that it can say what is missing in any environment. With the
CUDA lock, torch must be a CUDA build too.
"""

import importlib
import importlib.metadata
import sys
from pathlib import Path


def complaints(lock: Path) -> list[str]:
    """One line for each pin of the lock that is missing or has another version."""
    pins = [line.split("==") for line in lock.read_text(encoding="utf-8").split()]
    found = []
    for name, version in pins:
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "missing"
        if installed != version:
            found.append(f"{name}: {installed} instead of {version}")
    return found


def main() -> int:
    """0 if all is there; else 1 and the list."""
    lock = Path(sys.argv[1])
    wrong = complaints(lock)
    for line in wrong:
        sys.stderr.write(f"  {line}\n")
    if not wrong:
        torch = importlib.import_module("torch")  # the one package that is not in the lock
        if "cuda" in lock.name and torch.version.cuda is None:
            sys.stderr.write(
                f"  torch {torch.__version__} has no CUDA: pip knows of a CPU build here; undo "
                "that, remove .venv and run make env again\n"
            )
            return 1
        package = importlib.import_module("rewrite_utils")
        sys.stdout.write(f"  torch {torch.__version__}; {package.__file__}\n")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())

"""Every page that is made of committed data, anew: ``python -m rewrite_utils.report``.

In: figures/**/report.csv and .json, and the data of the verdicts. Out: report.md of every run,
figures/runs.md and .csv, and the table in README.md. No stage is read and no LLM asked.
"""

import sys
from pathlib import Path

from rewrite_utils.params import ROOT
from rewrite_utils.report import paper, protocol

README = ROOT / "README.md"


def made() -> dict[Path, str]:
    """Every page as it ought to be, by file."""
    return paper.pages() | {README: protocol.renewed(README.read_text(encoding="utf-8"))}


def main() -> int:
    """Write what differs; returns the exit code."""
    for file, text in made().items():
        old = file.read_text(encoding="utf-8") if file.is_file() else ""
        file.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{file.relative_to(ROOT)}: {'as it was' if old == text else 'renewed'}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

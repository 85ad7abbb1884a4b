"""Fetch the embedded models and text before they are needed.

`python -m rewrite_utils.assets` makes what the default experiment needs, `… NAME …` the named ones;
`--list` says what there is, with licence and place.
"""

import argparse
import sys
from collections.abc import Sequence

from rewrite_utils.assets import ASSETS, Asset, asset, cache_folder
from rewrite_utils.assets.store import flaw, ready


def describe(entry: Asset) -> str:
    """Three or four lines about one asset: name, state, role, licence, note."""
    folder = cache_folder() / entry.name
    state = f"cached in {folder}" if flaw(entry, folder) is None else "not fetched"
    mark = ", default" if entry.default else ""
    lines = [f"{entry.name} ({state}{mark})", entry.role, f"licence: {entry.licence}"]
    lines += [entry.terms, entry.note]
    return "\n  ".join(line for line in lines if line) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when every asset asked for is ready."""
    parser = argparse.ArgumentParser(prog="python -m rewrite_utils.assets", description=__doc__)
    parser.add_argument("names", nargs="*", help="embedded names (default: what a run needs)")
    parser.add_argument("--list", action="store_true", help="say what there is, fetch nothing")
    options = parser.parse_args(arguments)
    if options.list:
        sys.stdout.write("".join(describe(entry) for entry in ASSETS))
        return 0
    try:
        chosen = [asset(name) for name in options.names] or [a for a in ASSETS if a.default]
        for entry in chosen:
            sys.stdout.write(f"{entry.name}: {ready(entry)}\n")
    except (ValueError, RuntimeError, OSError) as error:
        parser.exit(1, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

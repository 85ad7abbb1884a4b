"""Milliseconds of everything a click or a keystroke asks of the kernel.

`python benchmarks/explorer.py` measures table, searches and map at 4,096 synthetic latents, with
the embedded sentence encoder; with a parameter file also every selection of a finished run, and
where its sites have a reader every edit: one word taken out of each description. What the page adds
is measured in tests/browser.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from rewrite_utils.explain.described import parse
from rewrite_utils.explorer import LatentExplorer, scatter, table
from rewrite_utils.explorer.change import without
from rewrite_utils.explorer.controls import Controls
from rewrite_utils.explorer.find import FIRES, MEANING, WORDS, Finder
from rewrite_utils.explorer.session import LAYER, MAP
from rewrite_utils.latents.cache import LatentCache
from rewrite_utils.llm.embedding import embedder
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import SiteStages, open_sites

WIDE, SELECT, EDIT = 300, 200, 200
"""Milliseconds that are aimed at."""
LATENTS, ROWS, LENGTH, KINDS, FIRINGS = 4096, 300, 128, 8000, 1_000_000
TIMES = 5


def timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - start)


def report(way: str, found: list[float], target: int) -> None:
    late = f"  above {target} ms" if max(found) > target else ""
    print(f"  {way:28} median {statistics.median(found):6.1f} ms, max {max(found):6.1f} ms{late}")


def synthetic(generator: np.random.Generator) -> tuple[LatentCache, dict[int, str], pd.DataFrame]:
    """Firings, descriptions and numbers of a wide coder."""
    tokens = generator.integers(1, KINDS, (ROWS, LENGTH))
    latent = np.sort(generator.integers(0, LATENTS, FIRINGS))
    start = np.searchsorted(latent, np.arange(LATENTS + 1))
    at = generator.integers(0, ROWS * (LENGTH - 1), FIRINGS)
    row, position = at // (LENGTH - 1), 1 + at % (LENGTH - 1)
    value = generator.gamma(2, 1, FIRINGS).astype(np.float32)
    cache = LatentCache(tokens, start, row.astype(np.int32), position.astype(np.int32), value)
    words = generator.integers(0, KINDS, (LATENTS, 16))
    said = {one: "fires on " + ", ".join(f'" w{word}"' for word in row)
            for one, row in enumerate(words.tolist())}  # fmt: skip
    rows = pd.DataFrame({name: generator.random(LATENTS) for name in table.SORTS})
    rows = rows.assign(latent=np.arange(LATENTS), sentence=list(said.values()))
    return cache, said, rows


def measure_wide() -> None:
    """Table, search and map of many latents."""
    cache, said, rows = synthetic(np.random.default_rng(0))
    finder = Finder(cache, said, embed=embedder, spell=lambda ids: [f" w{one}" for one in ids])
    opened = timed(lambda: finder.plane), timed(lambda: finder.find(rows, FIRES, "w7", sort=""))
    points = finder.plane.assign(shade=rows["R²"], said=rows["sentence"])
    layer = pd.DataFrame({"x": rows["at stake"], "y": rows["won back"], "shade": rows["R²"]})
    layer["said"] = rows["sentence"]
    print(
        f"{LATENTS:,} latents, {FIRINGS:,} firings; once: {opened[0] / 1000:.1f} s to embed the "
        f"descriptions, {opened[1] / 1000:.1f} s to sort the words"
    )
    for way, act in {
        "table, sorted and written": lambda: table.lines(table.chosen(rows, sort="lost")),
        "search by words and bounds": lambda: finder.find(rows, WORDS, "r2>.5 w77", sort="R²"),
        "search by meaning": lambda: finder.find(rows, MEANING, "a place", sort="R²"),
        "search by a word": lambda: finder.find(rows, FIRES, "w77", sort="R²"),
        "map": lambda: scatter.svg(points, MAP, selected=7, live=True),
        "whole layer": lambda: scatter.svg(layer, LAYER, selected=7, live=True),
    }.items():
        report(way, list(map(timed, [act] * TIMES)), WIDE)


def measure_site(site: SiteStages) -> None:
    """Every selection of a finished run, and every edit where it has a reader."""
    explorer = LatentExplorer(site)
    controls = Controls(explorer)
    latents = list(explorer.shelf.descriptions)[:64]
    for way in ("select, first time", "select, again"):
        report(way, [timed(functools.partial(controls.select, one)) for one in latents], SELECT)
    if explorer.shelf.predictor is None:
        print(f"  {explorer.shelf.missing}")
        return
    found = []
    for latent in latents:
        controls.select(latent)
        words = parse(explorer.description).words
        edited = without(explorer.description, words[0].text) if words else "men in red hats"
        found.append(timed(functools.partial(setattr, controls.description, "value", edited)))
        explorer.discard()
    report("edit, all that is shown", found, EDIT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("params_file", nargs="?", default="", help="a finished run, if any")
    asked = parser.parse_args()
    measure_wide()
    for name, site in open_sites(open_run(asked.params_file)).items() if asked.params_file else ():
        opened = timed(lambda site=site: LatentExplorer(site))
        cache = site.cache("explain")
        print(f"{name}: {cache.n_latents} latents, opened in {opened / 1000:.1f} s")
        measure_site(site)


if __name__ == "__main__":
    main()

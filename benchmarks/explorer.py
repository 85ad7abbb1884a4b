"""Milliseconds from selecting a latent to its new card, on a finished run.

`python benchmarks/explorer.py [params/embedded.yaml]`; everything a selection does in the kernel:
the card of every latent the first time it is shown (cold) and again (warm), and the whole redraw
with the list box and the buttons (select). What the page adds is measured in tests/browser.
"""

import argparse
import statistics
import time
from collections.abc import Callable

from rewrite_utils.explorer import LatentExplorer
from rewrite_utils.explorer.browser import Controls
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import SiteStages, open_sites

TARGET = 200
"""Milliseconds."""


def timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return 1000 * (time.perf_counter() - start)


def measure(site: SiteStages) -> dict[str, list[float]]:
    """Milliseconds of every latent, by way."""
    explorer = LatentExplorer(site)
    latents = explorer.shelf.latents
    explorer.select(latents[0])  # loads the subject; said by `opened`
    cold = [timed(lambda one=one: explorer.select(one)) for one in latents]
    warm = [timed(lambda one=one: explorer.select(one)) for one in latents]
    controls = Controls(explorer)
    redraw = [timed(lambda one=one: controls.select(one)) for one in latents]
    return {"card, first time": cold, "card, again": warm, "select, whole redraw": redraw}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("params_file", nargs="?", default="params/embedded.yaml")
    asked = parser.parse_args()
    for name, site in open_sites(open_run(asked.params_file)).items():
        opened = timed(lambda site=site: LatentExplorer(site))
        cache = site.cache("explain")
        print(
            f"{name}: {len(site.simulated)} latents with sentences of {cache.n_latents}, "
            f"{len(cache.value):,} activations on {cache.n_tokens:,} tokens; opened in "
            f"{opened / 1000:.1f} s"
        )
        for way, found in measure(site).items():
            worst = max(found)
            late = f"  above {TARGET} ms" if worst > TARGET else ""
            print(
                f"  {way:22} median {statistics.median(found):6.1f} ms, max {worst:6.1f} ms{late}"
            )


if __name__ == "__main__":
    main()

"""A model card for a run's coders: ``python -m rewrite_utils.report.card PARAMS FOLDER``.

In: a run whose stages 01 and 02 are there (they are made if not). Out: FOLDER/<hookpoint>/, each a
coder as sparsify reads it, with a README.md of what it is and what it was measured to be, and the
figures of its training and its firing.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from rewrite_utils.coder.sparse import WEIGHTS
from rewrite_utils.report import coders, curves, figures
from rewrite_utils.report.tables import markdown
from rewrite_utils.runs.run import open_run
from rewrite_utils.runs.whole import whole
from rewrite_utils.site import SiteStages, open_sites
from rewrite_utils.subject.stage import CACHED_SPLITS

TEXT = """---
library_name: sparsify
tags: [sparse-coder, {kind}]
base_model: {model}
---
# {kind} of {hookpoint} in {model}

{latents:,} latents, {sparsity}; {d_in} → {d_out}. {origin}
`SparseCoder.load_from_disk(...)` of sparsify, or `rewrite_utils.coder.formats.load_coder`.

Measured on {rows:,} rows of text that it was not trained on ({sources}; control tokens inside rows
{specials}). Intervals: 95 %, over rows.

{table}

{firing}

![FVU while training](training.png)
![Firing rates](firing_rates.png)

Made by rewrite_utils, run `{run}`, stage {stage}, seed {seed}. The text and the subject keep their
own licences; the coder says nothing of either's.
"""


def write_card(site: SiteStages, folder: Path) -> Path:
    """One site's coder with its card; returns the card."""
    target = folder / site.hookpoint.name
    target.mkdir(parents=True, exist_ok=True)
    for name in ("cfg.json", WEIGHTS):
        shutil.copyfile(site.coder_stage / name, target / name)
    rate, tokens = coders.rates([site.cache(split) for split in CACHED_SPLITS])
    drawn = {"firing_rates": _figure()}
    curves.firing_rates(drawn["firing_rates"].axes[0], rate, title=site.hookpoint.name)
    if trained := not site.training.empty:
        drawn["training"] = _figure()
        curves.training(drawn["training"].axes[0], site.training, title=site.hookpoint.name)
    for name, figure in drawn.items():
        with whole(target / f"{name}.png") as file:
            file.write_bytes(figures.page(figure))
        plt.close(figure)
    text = _text(site, rate, tokens)
    if not trained:
        text = text.replace("![FVU while training](training.png)\n", "")
    with whole(target / "README.md") as file:
        file.write_text(text, "utf-8")
    return target / "README.md"


def _figure() -> Figure:
    figure, _ = plt.subplots(figsize=(5, 3), layout="constrained")
    return figure


def _text(site: SiteStages, rate: Float[ndarray, " latent"], tokens: int) -> str:
    config, asked, params = site.coder.config, site.settings, site.params
    random = asked.coder == "random"
    trained = site.coder_stage.manifest["facts"].get("tokens")
    row = coders.row(site.quality, config, site.hookpoint, rate, tokens=tokens, random=random)
    origin = f"Loaded from {asked.coder}." if asked.coder else f"Trained on {trained:,} tokens."
    dead = f"{row['dead']:.1%} of the latents never fired on these {tokens:,} tokens"
    return TEXT.format(
        kind=row["kind"],
        model=params.subject.model,
        hookpoint=site.hookpoint.name,
        latents=config.num_latents,
        sparsity=f"TopK with k = {config.k}" if config.k else "with a threshold each",
        d_in=config.d_in,
        d_out=config.d_out,
        origin="Random weights, a control." if random else origin,
        rows=row["rows"],
        sources=", ".join(params.corpus.sources),
        specials=params.corpus.special_tokens,
        table="\n".join(markdown(coders.arms(site.quality.assign(site="")).drop(columns="site"))),
        firing=f"On average {row['L0']:.2f} latents fire on a token; {dead}.",
        run=params.name,
        stage=site.coder_stage.hash,
        seed=params.seed,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rewrite_utils.report.card", description=__doc__
    )
    parser.add_argument("params", help="the run's parameter file")
    parser.add_argument("folder", type=Path, help="where the coders and their cards are written")
    given = parser.parse_args(arguments)
    try:
        for site in open_sites(open_run(given.params)).values():
            sys.stdout.write(f"{write_card(site, given.folder)}\n")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The simulation alone, whole or in part: ``python -m rewrite_utils.simulate params/x.yaml``.

Makes what it needs first. ``--limit`` and ``--latents`` do part of the work and keep it; the next
call, of whatever size, goes on from there, as it does after a kill.
"""

import argparse
import sys
from collections.abc import Sequence

from rewrite_utils.assets.fetch import AssetError
from rewrite_utils.llm import opening
from rewrite_utils.llm.protocol import EngineError
from rewrite_utils.params import ParameterError
from rewrite_utils.params.command import add_parameters, overrides_of
from rewrite_utils.runs.run import Run, open_run
from rewrite_utils.simulate.running import Part
from rewrite_utils.site import SiteStages, open_sites


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    asked = _parser().parse_args(arguments)
    try:
        run = open_run(asked.params_file, overrides_of(asked.set))
        part, sites = Part(asked.limit, tuple(asked.latents)), _chosen(run, asked)
        if run.params.simulator.engine == "server":
            opening.engine(run.params.simulator)  # nobody there: said before anything is made
        for name, site in sites.items():
            whole = site.simulate_part(part)
            where = site.simulation_stage.folder if whole else "kept, not yet whole"
            sys.stdout.write(f"{name}: {where}\n")
    except (ValueError, OSError, AssetError, EngineError) as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    return 0


def _chosen(run: Run, asked: argparse.Namespace) -> dict[str, SiteStages]:
    """The sites asked for; ParameterError at a site that is not there, or at a latent that a coder
    cannot have, before anything is made."""
    sites = open_sites(run)
    if asked.site and asked.site not in sites:
        raise ParameterError(f"no site {asked.site!r}; there are {', '.join(sites)}")
    chosen = {asked.site: sites[asked.site]} if asked.site else sites
    for name, site in chosen.items():
        width = site.settings.latents
        beyond = [latent for latent in asked.latents if not 0 <= latent < width]
        if beyond:
            raise ParameterError(
                f"sites.{name} has latents 0 … {width - 1}, not {beyond[0]}: "
                "choose others, or another site with --site"
            )
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rewrite_utils.simulate",
        description="Rate windows with the simulator; what is there is kept and not asked again.",
    )
    add_parameters(parser)
    parser.add_argument("--site", default="", help="one site; default: all of them")
    parser.add_argument(
        "--limit",
        type=_count,
        metavar="BLOCKS",
        help="the first so many blocks of each split (of 4 windows; of 4 latents where prompts "
        "share the sentence)",
    )
    parser.add_argument(
        "--latents", type=_numbers, default=(), metavar="3,17", help="only these latents"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of blocks: use 1 or more")
    return int(text)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of latents: use numbers with commas, 3,17"
        ) from None


if __name__ == "__main__":
    raise SystemExit(main())

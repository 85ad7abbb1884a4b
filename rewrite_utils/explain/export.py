"""A run in delphi's files: ``python -m rewrite_utils.explain.export PARAMS FOLDER``.

In: a run whose stages 03 and 04 are there (they are made if not). Out: FOLDER/explanations and
FOLDER/scores, one file a latent and hookpoint, as delphi writes and reads them.
"""

import argparse
import sys
from pathlib import Path

from rewrite_utils.assets.fetch import AssetError
from rewrite_utils.explain import delphi
from rewrite_utils.llm.protocol import EngineError
from rewrite_utils.params import ParameterError
from rewrite_utils.runs.run import open_run
from rewrite_utils.score.scores import cut
from rewrite_utils.site import SiteStages, open_sites


def export(site: SiteStages, folder: Path) -> list[str]:
    """Write one site; returns the kinds of scores that were written.

    Raises ParameterError for scores read from delphi: their windows are not this run's.
    """
    asked = site.params
    if asked.explain.delphi:
        raise ParameterError(f"the scores of site {site.name!r} came from {asked.explain.delphi}")
    delphi.write_explanations(folder, site.hookpoint.name, site.explanations)
    kinds = [kind for kind in site.score_kinds if kind in delphi.SCORES]
    for kind in kinds:
        judgements = site.judgements_of(kind)
        where = cut(judgements, asked.score.threshold)
        probability = judgements["probability"].to_numpy()
        delphi.write_scores(
            folder,
            site.hookpoint.name,
            judgements.assign(said=where.yes(probability) > 0.5),
            cache=site.cache("score"),
            window=asked.score.window_tokens,
            texts=site.texts,
            kind=kind,
        )
    return kinds


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rewrite_utils.explain.export", description=__doc__
    )
    parser.add_argument("params", help="the run's parameter file")
    parser.add_argument("folder", type=Path, help="where explanations/ and scores/ are written")
    given = parser.parse_args(arguments)
    try:
        _export_all(open_sites(open_run(given.params)), given.folder)
    except (ValueError, OSError, AssetError, EngineError) as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    return 0


def _export_all(sites: dict[str, SiteStages], folder: Path) -> None:
    """Write every site, unless two would write the same files."""
    taken: dict[str, str] = {}
    for name, site in sites.items():
        other = taken.setdefault(site.hookpoint.name, name)
        if other != name:
            raise ParameterError(
                f"sites {other!r} and {name!r} share the hookpoint {site.hookpoint.name}, and "
                "delphi's files are named by it: export them from parameter files of their own"
            )
    for site in sites.values():
        export(site, folder)


if __name__ == "__main__":
    raise SystemExit(main())

"""A run in others' files: ``python -m rewrite_utils.explain.export PARAMS FOLDER``.

In: a run whose stages 03 and 04 are there (they are made if not). Out, as ``--form`` says: delphi's
explanations/ and scores/; Neuronpedia's labels as JSON lines, a file a site; circuit-tracer's
features/, a file a latent, and with ``--graph`` a graph of its with our sentences as labels.
"""

import argparse
import json
import sys
from pathlib import Path

from rewrite_utils.assets.fetch import AssetError
from rewrite_utils.explain import circuit_tracer, delphi, neuronpedia
from rewrite_utils.explain.logits import promoted
from rewrite_utils.llm.protocol import EngineError
from rewrite_utils.params import ParameterError
from rewrite_utils.runs.run import open_run, write_json
from rewrite_utils.score.scores import cut
from rewrite_utils.site import SiteStages, open_sites

FORMS = ("delphi", "neuronpedia", "circuit-tracer")


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


def export_lines(site: SiteStages, folder: Path) -> Path:
    """Neuronpedia's JSON lines of one site; its names of model and source are the run's."""
    model = site.params.subject.model.rsplit("/", 1)[-1]
    source = f"{site.hookpoint.layer}-{site.params.name}-{site.name}"
    file = folder / model / source / "explanations" / "batch-0.jsonl"
    explainer = site.params.explainer.model
    neuronpedia.write(file, site.explanations, model=model, source=source, explainer=explainer)
    return file


def export_latents(site: SiteStages, folder: Path, graph: Path | None = None) -> list[Path]:
    """circuit-tracer's file of every described latent; ``graph``: one that is labelled, too.

    Raises ParameterError for a residual stream: its graphs are of MLPs.
    """
    place = site.hookpoint
    if place.kind != "mlp":
        raise ParameterError(f"circuit-tracer's latents are transcoders', not {place.name}'s")
    found = [
        circuit_tracer.write_latent(
            folder / "features",
            site.cache("explain"),
            latent,
            layer=place.layer,
            promoted=promoted(site.subject, site.coder, latent, count=10),
            texts=site.texts,
            window=site.params.explain.window_tokens,
        )
        for latent in site.sentences
    ]
    if graph is not None:
        target = folder / graph.name
        read = target if target.exists() else graph  # another site's labels are kept
        whole_graph = json.loads(read.read_text("utf-8"))
        labelled = circuit_tracer.labelled(whole_graph, place.layer, site.sentences)
        write_json(target, labelled)
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rewrite_utils.explain.export", description=__doc__
    )
    parser.add_argument("params", help="the run's parameter file")
    parser.add_argument("folder", type=Path, help="where the files are written")
    parser.add_argument("--form", choices=FORMS, default="delphi", help="whose files")
    parser.add_argument("--graph", type=Path, help="a graph of circuit-tracer's to be labelled")
    given = parser.parse_args(arguments)
    try:
        sites = open_sites(open_run(given.params))
        if given.form == "delphi":
            _export_all(sites, given.folder)
        for site in sites.values():
            if given.form == "neuronpedia":
                export_lines(site, given.folder)
            elif given.form == "circuit-tracer":
                export_latents(site, given.folder, given.graph)
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

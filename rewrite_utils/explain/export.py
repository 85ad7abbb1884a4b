"""A run in others' files: ``python -m rewrite_utils.explain.export PARAMS FOLDER``.

In: a run whose stages 03 and 04 are there (they are made if not). Out, as ``--form`` says: delphi's
explanations/ and scores/; Neuronpedia's labels as JSON lines, a file a site; circuit-tracer's
features/, a file a latent, and with ``--graph`` a graph of its with our sentences as labels.
"""

import argparse
import sys
from pathlib import Path

from rewrite_utils.assets.fetch import AssetError
from rewrite_utils.explain import circuit_tracer, delphi, labels
from rewrite_utils.explain.logits import promoted
from rewrite_utils.llm.protocol import EngineError
from rewrite_utils.params import ParameterError
from rewrite_utils.runs.run import open_run
from rewrite_utils.score.scores import cut
from rewrite_utils.site import SiteStages, open_sites

FORMS = ("delphi", "neuronpedia", "circuit-tracer")


def export(site: SiteStages, folder: Path) -> list[str]:
    """Write one site as delphi does; returns the kinds of scores that were written.

    Raises ParameterError for scores read from delphi: their windows are not this run's.
    """
    asked, place = site.params, site.hookpoint.name
    if asked.explain.delphi:
        raise ParameterError(f"the scores of site {site.name!r} came from {asked.explain.delphi}")
    delphi.write_explanations(folder, place, site.explanations)
    kinds = [kind for kind in site.score_kinds if kind in delphi.SCORES]
    how = {"window": asked.score.window_tokens, "texts": site.texts, "cache": site.cache("score")}
    for kind in kinds:
        judgements = site.judgements_of(kind)
        yes = cut(judgements, asked.score.threshold).yes(judgements["probability"].to_numpy())
        delphi.write_scores(folder, place, judgements.assign(said=yes > 0.5), kind=kind, **how)
    return kinds


def export_lines(site: SiteStages, folder: Path) -> Path:
    """Neuronpedia's JSON lines of one site; its names of model and source are the run's."""
    model, source = site.params.subject.model.rsplit("/", 1)[-1], source_of(site)
    file = folder / model / source / "explanations" / "batch-0.jsonl"
    explainer = site.params.explainer.model
    labels.write_lines(file, site.explanations, model=model, source=source, explainer=explainer)
    return file


def source_of(site: SiteStages) -> str:
    """What a site's coder is called elsewhere; its layer comes first, as in Neuronpedia's names."""
    return f"{site.hookpoint.layer}-{site.params.name}-{site.name}"


def export_latents(site: SiteStages, folder: Path, graph: Path | None = None) -> list[Path]:
    """circuit-tracer's file of every latent that is described, or that ``graph`` has nodes of; the
    graph is labelled.

    Raises ParameterError for a residual stream (its graphs are of MLPs), and another coder's graph.
    """
    place = site.hookpoint
    if place.kind != "mlp":
        raise ParameterError(f"circuit-tracer's latents are transcoders', not {place.name}'s")
    drawn = circuit_tracer.read_graph(graph) if graph else None
    named = circuit_tracer.latents_in(drawn, place.layer) if drawn else set()
    if named:
        delphi.require_width(named, site.coder.config.num_latents, place.name, str(graph))
    found = [
        circuit_tracer.write_latent(
            folder / circuit_tracer.FEATURES,
            site.cache("explain"),
            latent,
            layer=place.layer,
            promoted=promoted(site.subject, site.coder, latent, count=10),
            texts=site.texts,
            window=site.params.explain.window_tokens,
            transcoder=source_of(site),
        )
        for latent in sorted({*site.sentences, *named})
    ]
    if drawn:
        circuit_tracer.write_graph(folder, drawn, place.layer, site.sentences)
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
            _require_apart(sites)
        for site in sites.values():
            if given.form == "delphi":
                export(site, given.folder)
            elif given.form == "neuronpedia":
                export_lines(site, given.folder)
            else:
                export_latents(site, given.folder, given.graph)
    except (ValueError, OSError, AssetError, EngineError) as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    return 0


def _require_apart(sites: dict[str, SiteStages]) -> None:
    """Raise ParameterError where two sites would write the same files of delphi's."""
    taken: dict[str, str] = {}
    for name, site in sites.items():
        other = taken.setdefault(site.hookpoint.name, name)
        if other != name:
            raise ParameterError(
                f"sites {other!r} and {name!r} share the hookpoint {site.hookpoint.name}, and "
                "delphi's files are named by it: export them from parameter files of their own"
            )


if __name__ == "__main__":
    raise SystemExit(main())

"""A benchmark of anyone's labels: ``python -m rewrite_utils.report.benchmark_labels PARAMS``.

In: a run, and with ``--labels`` a file or folder of labels for its coder (Neuronpedia's JSON lines,
delphi's folder, a table of two columns). Out: a row a source of descriptions: what it recovers of
the coder's range, the perplexity of the rewritten model, and R² over latents. No LLM is asked.
"""

import argparse
import sys
from collections.abc import Sequence

import pandas as pd

from rewrite_utils.report.tables import intervals
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites


def shown(benchmark: pd.DataFrame) -> pd.DataFrame:
    """The benchmark for reading, intervals over rows of text in brackets."""
    return benchmark[["source", "latents", "rows"]].assign(
        **{
            "of the range": intervals(benchmark, "of_range", "+.2f"),
            "− mean ablation (nats)": intervals(benchmark, "minus_mean", "+.3f"),
            "perplexity": [f"{value:.2f}" for value in benchmark["perplexity"]],
            "R², mean": [f"{value:.3f}" for value in benchmark["r2_mean"]],
            "R², median": [f"{value:.3f}" for value in benchmark["r2_median"]],
        }
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rewrite_utils.report.benchmark_labels", description=__doc__
    )
    parser.add_argument("params", help="the run's parameter file")
    parser.add_argument("--labels", default="", help="labels from elsewhere (else the run's own)")
    given = parser.parse_args(arguments)
    try:
        changed = {"explain.labels": given.labels} if given.labels else None
        for name, site in open_sites(open_run(given.params, changed)).items():
            table = shown(site.label_benchmark).to_string(index=False)
            sys.stdout.write(f"{name}, {site.hookpoint.name}\n{table}\n")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

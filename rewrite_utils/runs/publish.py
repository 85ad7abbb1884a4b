"""A finished run, small enough to be committed: ``python -m rewrite_utils.runs.publish params/x.yaml``.

In: a run that the series has finished. Out: runs-published/<name>/: every stage that its notebooks
read, packed, with a manifest; and what a reader wants without this code: sentences with their
scores, and calibrated predictions beside the truth. Notebooks and explorer then open on them.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rewrite_utils.runs import packed
from rewrite_utils.params import ROOT
from rewrite_utils.runs.run import PUBLISHED, Run, damage, open_run, write_json
from rewrite_utils.latents.stage import SIMULATED
from rewrite_utils.site import SiteStages, open_sites

LIMIT_MB = 10.0
NEEDED = ("06", "07", "08", "10", "09")
"""Notebooks that must open on what is published; the last one's code and parameters count."""
READ = ("13",)
"""The same for a run all of whose sites are read."""


class PublishError(ValueError):
    """The run is not finished, or too large; the message says what to do."""


def publish(run: Run, target: Path, *, limit_mb: float = LIMIT_MB) -> Mapping[str, Any]:
    """Write ``target`` anew and return its manifest.

    Raises PublishError when a notebook has not run, a stage is damaged, or all is above the limit.
    """
    stages = finished(run)
    building = target.with_name(target.name + ".tmp")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    files = {f"{s.name}{packed.ENDING}": packed.pack(s, building) for s in stages}
    for name, site in open_sites(run).items():
        for what, table in tables(site).items():
            file = building / f"{name}.{what}.parquet"
            table.to_parquet(file, compression="zstd", index=False)
            files[file.name] = packed.described(file)
    _require_small(files, limit_mb)
    manifest = _manifest(run, files)
    write_json(building / packed.LISTING, manifest)
    shutil.rmtree(target, ignore_errors=True)
    building.replace(target)
    return manifest


def finished(run: Run) -> list[Path]:
    """The folders of all stages that the run's notebooks read, by name.

    Only notebooks that ran with the same code and parameters as the report, which all needed must.
    """
    records = {file.stem: json.loads(file.read_text(encoding="utf-8"))
               for file in sorted((run.folder / "executed").glob("*.json"))}  # fmt: skip
    needed = READ if all(site.reader for site in run.params.sites.values()) else NEEDED
    last = {record["made_from"] for name, record in records.items() if name[:2] == needed[-1]}
    same = {name: record for name, record in records.items() if record["made_from"] in last}
    missing = [number for number in needed if not any(name.startswith(number) for name in same)]
    if missing:
        raise PublishError(
            f"run {run.params.name!r} has not executed notebook {', '.join(missing)}, or not with "
            f"the code and the parameters of notebook {needed[-1]}: run python -m rewrite_utils.series with "
            "its parameter file first"
        )
    names = sorted({stage for record in same.values() for stage in record["stages"]})
    folders = [run.folder / "stages" / name for name in names]
    complaints = [found for folder in folders if (found := damage(folder))]
    if complaints:
        raise PublishError(f"{complaints[0]}: run the series again, which makes it anew")
    return folders


def tables(site: SiteStages) -> dict[str, pd.DataFrame]:
    """What a reader wants without this code: of a site that is read, its descriptions."""
    if not site.settings.reader:
        return {"explanations": sentences(site), "predictions": predictions(site)}
    rows = [(n, level, text) for level, told in site.level_texts.items() for n, text in told.items()]
    return {"descriptions": pd.DataFrame(rows, columns=["latent", "level", "text"])}


def sentences(site: SiteStages) -> pd.DataFrame:
    """One row a described latent: its sentence, its scores, how often it fires."""
    kept = site.explanations[["latent", "sentence"]]
    rate = site.cache("explain").rate
    return kept.merge(site.scores, on="latent", how="left").assign(
        firing_rate=rate[kept["latent"].to_numpy()]
    )


def predictions(site: SiteStages) -> pd.DataFrame:
    """One row a (window, latent): row, position, truth, rating, and the headline's prediction.

    Calibrate windows are what the calibration was fitted on; evaluate windows are unseen.
    """
    tables = []
    for split in SIMULATED:
        windows, ratings = site.simulated_windows(split), site.ratings(split)
        told = site.evidence.calibrated(site.params.rewrite.headline, ratings)
        shape, latents = told.shape, np.array(site.simulated)
        columns = {
            "row": np.repeat(windows.rows, shape[1]).astype(np.int32),
            "position": np.repeat(windows.ends, shape[1]).astype(np.int16),
            "latent": np.tile(latents, shape[0]).astype(np.int32),
            "true": site.true(split).ravel(),
            "expected": ratings.expected.astype(np.float32).ravel(),
            "predicted": told.astype(np.float32).ravel(),
        }
        tables.append(pd.DataFrame(columns).assign(split=split))
    return pd.concat(tables, ignore_index=True)


def _require_small(files: Mapping[str, Mapping[str, Any]], limit_mb: float) -> None:
    total = sum(entry["bytes"] for entry in files.values()) / 1e6
    if total > limit_mb:
        largest = sorted(files, key=lambda name: -files[name]["bytes"])[:3]
        sizes = ", ".join(f"{name} {files[name]['bytes'] / 1e6:.1f} MB" for name in largest)
        raise PublishError(
            f"{total:.1f} MB are more than {limit_mb:g} MB (the largest: {sizes}): lower "
            "corpus.max_rows or a site's k, or raise --limit-mb"
        )


def _manifest(run: Run, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "run": run.params.name,
        "params": run.params.model_dump(mode="json"),
        "bytes": sum(entry["bytes"] for entry in files.values()),
        "files": dict(files),
        "headlines": {name: run.headline_records[name] for name in run.headlines},
        "about": "Packed stages (the hash is of all that determines the content) and tables of "
        "them. To compute a stage anew, remove this folder. Corpus rows are from the sources "
        "that params name, under those sources' licences.",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rewrite_utils.runs.publish",
        description=f"Pack a finished run into {PUBLISHED}/<name>.",
    )
    parser.add_argument("params_file", help="the YAML of the run")
    parser.add_argument("--limit-mb", type=float, default=LIMIT_MB, help="largest size in all")
    asked = parser.parse_args(arguments)
    try:
        run = open_run(asked.params_file)
        target = ROOT / PUBLISHED / run.params.name
        manifest = publish(run, target, limit_mb=asked.limit_mb)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    size = manifest["bytes"] / 1e6
    sys.stdout.write(f"{target}: {len(manifest['files'])} files, {size:.1f} MB\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

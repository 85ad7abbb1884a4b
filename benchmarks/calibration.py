"""Time and memory of calibrating 10,000 windows × 32,768 latents from a zarr array.

In: synthetic ratings of the real shape (float16, ties, 0.1 % active) in a temporary folder, removed
afterwards. Out: one JSON line a measurement, each in its own process; ratios against a loop with
numpy.quantile and against scikit-learn, both measured on a subset.
Run: python benchmarks/calibration.py [--windows 10000] [--latents 32768] [--repeat 1]
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import zarr
from scipy import sparse, stats
from sklearn.preprocessing import QuantileTransformer

from rewrite_utils.calibrate import calibrator
from rewrite_utils.calibrate.stream import stream

BLOCK = 256
ACTIVE = 0.001
NAMES = ("quantile:type8", "quantile:type1", "isotonic", "centred+isotonic_pooled")


def write_synthetic(folder: Path, windows: int, latents: int) -> None:
    """Ratings that drift by window and latent and rise by 2 where the latent is active."""
    generator = np.random.default_rng(0)
    window, latent, size = draw_activations(generator, windows, latents)
    true = sparse.coo_array((size, (window, latent)), shape=(windows, latents)).tocsc()
    sparse.save_npz(folder / "true.npz", true)
    drift = generator.normal(3.7, 0.5, (windows, 1)).astype(np.float32)
    predicted = zarr.create_array(
        folder / "predicted.zarr",
        shape=(windows, latents),
        chunks=(windows, BLOCK),
        dtype="float16",
    )
    for start in range(0, latents, BLOCK):
        stop = min(start + BLOCK, latents)
        noise = generator.standard_normal((windows, stop - start), dtype=np.float32)
        lift = 2 * (true[:, start:stop].toarray() > 0)
        bias = generator.normal(0, 0.7, stop - start).astype(np.float32)
        predicted[:, start:stop] = np.clip(drift + bias + noise + lift, 0, 9).astype(np.float16)


def draw_activations(
    generator: np.random.Generator, windows: int, latents: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct places of the activations and their sizes."""
    places = np.unique(generator.integers(0, windows * latents, int(ACTIVE * windows * latents)))
    size = generator.gamma(3.0, 1.0, len(places)).astype(np.float32)
    return places // latents, places % latents, size


def timed_stream(folder: Path, name: str) -> dict:
    """Fit and apply on all latents, in-sample, into another zarr array."""
    predicted = zarr.open_array(folder / "predicted.zarr", mode="r")
    true = sparse.load_npz(folder / "true.npz")
    out = zarr.create_array(
        folder / "out.zarr",
        shape=predicted.shape,
        chunks=predicted.chunks,
        dtype="float16",
        overwrite=True,
    )
    start = time.perf_counter()
    stream(calibrator(name), predicted, true, out, latents=BLOCK)
    return {"seconds": time.perf_counter() - start, "latents": predicted.shape[1]}


def subset(folder: Path, latents: int) -> tuple[np.ndarray, np.ndarray]:
    """The first few latents, dense."""
    predicted = zarr.open_array(folder / "predicted.zarr", mode="r")[:, :latents]
    return predicted, sparse.load_npz(folder / "true.npz")[:, :latents].toarray()


def timed_loop(folder: Path, latents: int) -> dict:
    """numpy.interp on the sorted ratings, then numpy.quantile, a latent at a time (no ties)."""
    predicted, true = subset(folder, latents)
    n = len(predicted)
    positions = (np.arange(1, n + 1) - 1 / 3) / (n + 1 / 3)
    start = time.perf_counter()
    for latent in range(latents):
        column = predicted[:, latent].astype(np.float32)
        p = np.interp(column, np.sort(column), positions)
        np.quantile(true[:, latent], p, method="median_unbiased")
    return {"seconds": time.perf_counter() - start, "latents": latents}


def timed_sklearn(folder: Path, latents: int) -> dict:
    """Ratings to ranks by one QuantileTransformer, ranks to activations by another's inverse."""
    predicted, true = subset(folder, latents)
    make = {"n_quantiles": len(predicted), "subsample": None}
    start = time.perf_counter()
    ranks = QuantileTransformer(**make).fit_transform(predicted.astype(np.float32))
    QuantileTransformer(**make).fit(true).inverse_transform(ranks)
    return {"seconds": time.perf_counter() - start, "latents": latents}


def checked_against_numpy(folder: Path, latents: int) -> dict:
    """Largest difference to mid-ranks by scipy and numpy.quantile on a subset, in-sample."""
    predicted, true = subset(folder, latents)
    n, ours = len(predicted), calibrator("quantile:type8").fit(predicted, true)(predicted)
    start, worst = time.perf_counter(), 0.0
    for latent in range(latents):
        p = (stats.rankdata(predicted[:, latent]) - 1 / 3) / (n + 1 / 3)
        reference = np.quantile(true[:, latent], p, method="median_unbiased")
        worst = max(worst, float(np.abs(reference - ours[:, latent]).max()))
    return {"seconds": time.perf_counter() - start, "latents": latents, "difference": worst}


def _measure(work: Callable, arguments: tuple, send) -> None:
    before = time.process_time()
    result = work(*arguments)
    cpu = time.process_time() - before
    send.send(result | {"cpu_seconds": cpu, "peak_gb": _peak_kb() / 2**20})


def _peak_kb() -> int:
    """This process's own peak (Linux); getrusage would inherit its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def measured(work: Callable, *arguments) -> dict:
    """Run in a fresh process, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(work, arguments, send))
    process.start()
    send.close()
    result = receive.recv()
    process.join()
    return result


def measurements(folder: Path, latents: int, repeat: int) -> Iterator[dict]:
    """Every row of the report."""
    few = min(64, latents)
    yield {"what": "equality with numpy", **measured(checked_against_numpy, folder, few)}
    for work in (timed_loop, timed_sklearn):
        yield {"what": work.__name__, **measured(work, folder, few)}
    for name in NAMES:
        for _ in range(repeat):
            yield {"what": f"stream {name}", **measured(timed_stream, folder, name)}


def main() -> None:
    """Write, measure, print, remove."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=10_000)
    parser.add_argument("--latents", type=int, default=32_768)
    parser.add_argument("--repeat", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="calibration-") as place:
        start = time.perf_counter()
        write_synthetic(Path(place), given.windows, given.latents)
        print(json.dumps({"what": "written", "seconds": time.perf_counter() - start}))
        rows = []
        for row in measurements(Path(place), given.latents, given.repeat):
            row["ms_a_latent"] = 1000 * row["seconds"] / row["latents"]
            rows.append(row)
            print(json.dumps(row), flush=True)
    ours = next(row for row in rows if row["what"] == "stream quantile:type8")["ms_a_latent"]
    for row in rows[1:3]:
        ratio = row["ms_a_latent"] / ours
        print(json.dumps({"what": f"{row['what']} / stream quantile:type8", "ratio": ratio}))


if __name__ == "__main__":
    main()

"""Latents as circuit-tracer's local viewer reads them: a JSON file each, and labels of a graph.

A file is named by the Cantor number of (layer, latent) and holds top and bottom logits, the spread
of activations, and windows by quantile. A label is the ``clerp`` of a graph's nodes. Format:
circuit_tracer/frontend 0.5 (feature_models.py, graph_models.py, assets), 2026; benchmarks/peers.py
opens both in the package itself.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from rewrite_utils.explain.logits import Promoted
from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.windows import firing_windows, some, window_tokens, window_values
from rewrite_utils.params import ParameterError
from rewrite_utils.runs.run import write_json
from rewrite_utils.runs.whole import whole

EXAMPLES = 5
"""Windows shown from each end and the middle of a latent's firing."""
BARS = 50
"""Bars of the histogram of a latent's activations."""
FEATURES, SERVED = "features", "./data/features"
"""Our folder of latents, and what the viewer asks for when its server is given the one around it.
"""


def number(layer: int, latent: int) -> int:
    """What circuit-tracer calls a latent: the Cantor number of layer and latent."""
    both = layer + latent
    return both * (both + 1) // 2 + latent


def write_latent(
    folder: Path,
    cache: LatentCache,
    latent: int,
    *,
    layer: int,
    promoted: Promoted,
    texts: Callable[[ndarray], list[str]],
    window: int,
    transcoder: str,
) -> Path:
    """One latent's file; ``cache`` is of the rows that the windows are taken from, ``transcoder``
    the coder's name."""
    windows, peaks = firing_windows(cache, latent, window_tokens=window)
    order = np.argsort(-peaks, kind="stable")
    parts = {"Top activations": order[:EXAMPLES]}
    if len(order) > 3 * EXAMPLES:
        middle = len(order) // 2
        parts["Median activations"] = order[middle : middle + EXAMPLES]
        parts["Bottom activations"] = order[-EXAMPLES:]
    raised, lowered = ([text for text, _ in end] for end in promoted)
    shown = {key: some(windows, chosen) for key, chosen in parts.items()}
    content = {
        "transcoder_id": transcoder,
        "index": latent,
        "top_logits": raised,
        "bottom_logits": lowered,
        **_spread(cache, latent),
        "examples_quantiles": [
            {"quantile_name": key, "examples": _examples(cache, latent, chosen, window, texts)}
            for key, chosen in shown.items()
        ],
    }
    file = folder / f"{number(layer, latent)}.json"
    with whole(file) as beside:
        beside.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    return file


def read_graph(file: Path) -> dict[str, Any]:
    """A graph that circuit-tracer wrote; ParameterError for another file."""
    try:
        graph = json.loads(file.read_text("utf-8"))
        needed = [graph["metadata"][key] for key in ("slug", "scan")]
        needed += [node[key] for node in graph["nodes"] for key in ("layer", "feature")]
    except (ValueError, KeyError, TypeError) as error:
        raise ParameterError(f"{file} is no graph of circuit-tracer's: {error!r}") from None
    return graph


def latents_in(graph: Mapping[str, Any], layer: int) -> set[int]:
    """The latents of one layer that a graph has nodes of."""
    found = {n["feature"] for n in graph["nodes"] if n["layer"] == str(layer) and n["feature"] >= 0}
    return {one - number((math.isqrt(8 * one + 1) - 1) // 2, 0) for one in found}


def write_graph(
    folder: Path, graph: Mapping[str, Any], layer: int, labels: Mapping[int, str]
) -> Path:
    """A graph with our sentences, where the viewer looks for it: ``<slug>.json``, and a line in
    graph-metadata.json. Labels that stand in such a file already, of another layer, are kept."""
    slug, listed = graph["metadata"]["slug"], folder / "graph-metadata.json"
    target = folder / f"{slug}.json"
    found = labelled(read_graph(target) if target.exists() else graph, layer, labels)
    write_json(target, found)
    graphs = json.loads(listed.read_text("utf-8"))["graphs"] if listed.exists() else []
    others = [one for one in graphs if one["slug"] != slug]
    write_json(listed, {"graphs": [*others, found["metadata"]]})
    return target


def labelled(graph: Mapping[str, Any], layer: int, labels: Mapping[int, str]) -> dict[str, Any]:
    """A graph of circuit-tracer with our sentences as the labels of one layer's nodes, whose
    latents the viewer then shows from our files; other layers' from where it did before."""
    named = {number(layer, latent): text for latent, text in labels.items()}
    nodes = [
        {**node, "clerp": named[node["feature"]]}
        if node["layer"] == str(layer) and node["feature"] in named
        else node
        for node in graph["nodes"]
    ]
    about = graph["metadata"]
    own = {"scan": "custom-" + about["scan"].removeprefix("custom-")}
    own["transcoder_list"] = _transcoders(graph, layer)
    return {**graph, "metadata": {**about, **own}, "nodes": nodes}


def _transcoders(graph: Mapping[str, Any], layer: int) -> list[str]:
    """Where the viewer finds the latents of each layer (``scan``, where one place has them all)."""
    scan, found = graph["metadata"]["scan"], graph["metadata"].get("transcoder_list")
    if not scan.startswith("custom-") or not found:
        others = [n["layer"] for n in graph["nodes"] if n.get("feature_type") != "logit"]
        found = [scan] * (1 + max([layer, *(int(one) for one in others if one.isdecimal())]))
    if layer >= len(found):
        last = len(found) - 1
        raise ParameterError(
            f"the graph is of layers 0 … {last}, so not of a model with a layer {layer}"
        )
    return [SERVED if place == layer else one for place, one in enumerate(found)]


def _spread(cache: LatentCache, latent: int) -> dict[str, Any]:
    """How strongly and how often a latent fires; percentiles and bars are of its firings."""
    values, highest = cache.of(latent).values, float(cache.maximum[latent])
    return {
        "act_min": 0.0,
        "act_max": round(highest, 4),
        "quantile_values": np.percentile(values, range(1, 100)).tolist() if len(values) else [],
        "histogram": np.histogram(values, BARS, (0, highest))[0].astype(float).tolist(),
        "activation_frequency": float(cache.rate[latent]),
    }


def _examples(
    cache: LatentCache,
    latent: int,
    windows: Windows,
    length: int,
    texts: Callable[[ndarray], list[str]],
) -> list[dict[str, Any]]:
    ids = window_tokens(cache, windows, length)
    values = window_values(cache, latent, windows, length)
    return [
        {
            "tokens": texts(row),
            "tokens_acts_list": [round(float(value), 4) for value in strength],
            "train_token_ind": int(strength.argmax()),
            "is_repeated_datapoint": False,
        }
        for row, strength in zip(ids, values, strict=True)
    ]

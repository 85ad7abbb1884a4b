"""Latents as circuit-tracer's local viewer reads them: a JSON file each, and labels of a graph.

A file is named by the Cantor number of (layer, latent) and holds top and bottom logits, the range
of activations, and windows by quantile. A label is the ``clerp`` of a graph's nodes. Format:
circuit_tracer/frontend (graph_models.py, feature_examples), 2026.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from rewrite_utils.explain.logits import Promoted
from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.latents.windows import firing_windows, some, window_tokens, window_values
from rewrite_utils.runs.whole import whole

EXAMPLES = 5
"""Windows shown from each end and the middle of a latent's firing."""


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
) -> Path:
    """One latent's file; ``cache`` is of the rows that the windows are taken from."""
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
        "top_logits": raised,
        "bottom_logits": lowered,
        "act_min": 0.0,
        "act_max": round(float(cache.maximum[latent]), 4),
        "examples_quantiles": [
            {"quantile_name": key, "examples": _examples(cache, latent, chosen, window, texts)}
            for key, chosen in shown.items()
        ],
    }
    file = folder / f"{number(layer, latent)}.json"
    with whole(file) as beside:
        beside.write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    return file


def labelled(graph: Mapping[str, Any], layer: int, labels: Mapping[int, str]) -> dict[str, Any]:
    """A graph of circuit-tracer with our sentences as the labels of one layer's nodes."""
    named = {number(layer, latent): text for latent, text in labels.items()}
    nodes = [
        {**node, "clerp": named[node["feature"]]}
        if str(node["layer"]) == str(layer) and node["feature"] in named
        else node
        for node in graph["nodes"]
    ]
    return {**graph, "nodes": nodes}


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

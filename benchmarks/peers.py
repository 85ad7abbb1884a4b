"""Do the peers' own packages open what this one writes, and this one what they write?

``python benchmarks/peers.py FOLDER``: FOLDER holds a folder for each peer (--help says how to fill
them), and each runs in a process of its own on the tests' tiny run. One line a check on stdout,
"peer version | what | agrees or differs"; exit 1 where one differs; a peer that is not installed is
named. No network; a minute of one core.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, patch

import numpy as np
import torch

from rewrite_utils.coder.formats import THRESHOLDS, load_coder
from rewrite_utils.explain import delphi
from rewrite_utils.explain.export import export, export_latents, export_lines
from rewrite_utils.params import ROOT
from rewrite_utils.score.scores import cut, scores

# ruff: noqa: PLC0415 (each peer is imported in its own process alone)
Checks = Iterator[tuple[str, bool]]
"""What was compared, and whether both sides agree."""
D, LATENTS, K, PLACE = 8, 24, 3, "layers.6"
INPUTS = torch.randn(16, D, generator=torch.Generator().manual_seed(9))
"""A made-up coder's size, where it stands, and what it is given."""
VIEWER = {
    "index.html": "util.getFile('./data/graph-metadata.json'",
    "attribution_graph/init-cg.js": "util.getFile(`./graph_data/${slug}.json`)",
    "attribution_graph/init-cg-feature-detail.js": "data.metadata.transcoder_list[d.layer]",
    "feature_examples/init-feature-examples.js": "util.getFile(`${scan}/${featureIndex}.json`)",
}
"""How the viewer's assets say what they ask the server for."""


def tiny_graph(folder: Path, latents: list[int]) -> Path:
    """The file that circuit-tracer makes of a graph of these latents of layer 0, one of layer 2."""
    from circuit_tracer.attribution.targets import LogitTarget
    from circuit_tracer.graph import Graph
    from circuit_tracer.utils.create_graph_files import create_graph_files
    from transformers import AutoConfig

    active = torch.tensor([*([0, 1, latent] for latent in latents), [2, 2, 7]])
    n, tokens, logits = len(active), torch.tensor([0, 5, 9]), [LogitTarget(" rain", 7)]
    edges = torch.zeros(n + 13, n + 13)  # and 3 layers × 3 errors, 3 tokens, a logit
    edges[:n, n:-1] = edges[-1, :-1] = 1
    model, chosen = AutoConfig.from_pretrained(folder.parent / "model"), torch.arange(n)
    how = {"logit_probabilities": torch.ones(1), "scan": "someone/transcoders", "vocab_size": 320}
    graph = Graph("a hat", tokens, active, edges, model, chosen, torch.ones(n), logits, **how)
    create_graph_files(graph, "rain", folder, node_threshold=1.0, edge_threshold=1.0)
    return folder / "rain.json"


def served(folder: Path) -> Callable[[str], bytes]:
    """circuit-tracer's local server, on loopback; gives what is at an address."""
    from circuit_tracer.frontend import local_server

    made, host = local_server.ReusableTCPServer, "127.0.0.1"
    with patch.object(local_server, "ReusableTCPServer", lambda _, how: made((host, 0), how)):
        root = f"http://{host}:{local_server.serve(folder).httpd.server_address[1]}/"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return lambda address: opener.open(root + address.removeprefix("./"), timeout=20).read()


def check_circuit_tracer(work: Path) -> Checks:
    from circuit_tracer.frontend import feature_models, graph_models
    from stage_cases import tiny_site

    site, out = tiny_site(work, score__fuzzing=2), work / "circuit-tracer"
    other = min(set(range(12)) - set(site.sentences))
    theirs = tiny_graph(work / "graphs", [*site.sentences, other])
    files = {file.stem: file.read_bytes() for file in export_latents(site, out, theirs)}
    read = {name: feature_models.Model.model_validate_json(text) for name, text in files.items()}
    number = partial(graph_models._cantor_pairing, 0)
    same = [one.model_dump() for one in read.values()] == list(map(json.loads, files.values()))
    same &= [str(number(one.index)) for one in read.values()] == list(files)
    yield f"feature_models.Model of our {len(read)} files of latents, named by its number", same
    ours = {number(latent): text for latent, text in site.sentences.items()}
    found = graph_models.Model.model_validate_json((out / "rain.json").read_bytes()).model_dump()
    graph = json.loads(theirs.read_bytes())
    for node in graph["nodes"]:
        node["clerp"] = ours.get(node["feature"], "") if node["layer"] == "0" else node["clerp"]
    same = all(found[part] == graph[part] for part in ("nodes", "links", "qParams"))
    yield f"graph_models.Model of its own graph with our {len(ours)} labels", same
    get = served(out)
    same = all(rule in get(asset).decode() for asset, rule in VIEWER.items())
    yield "its viewer's assets ask as this file does", same
    (listed,) = json.loads(get("data/graph-metadata.json"))["graphs"]
    same = get(f"graph_data/{listed['slug']}.json") == (out / "rain.json").read_bytes()
    yield "its server lists the graph and gives it", same and "custom-" in listed["scan"]
    nodes = [node for node in graph["nodes"] if "transcoder" in node["feature_type"]]
    asked = [f"{listed['transcoder_list'][int(n['layer'])]}/{n['feature']}.json" for n in nodes]
    given = {Path(one).stem: get(one) for one in asked if not one.startswith("someone/")}
    same = given == files and len(asked) == len(files) + 1
    yield f"and our files of our layer's {len(given)} nodes, others from where they were", same


def check_delphi(work: Path) -> Checks:
    from delphi.explainers import explanation_loader
    from delphi.latents import Latent, LatentRecord
    from delphi.log import result_analysis as analysis
    from stage_cases import tiny_site

    site, out = tiny_site(work, score__fuzzing=2), work / "delphi"
    export(site, out)
    place, told = site.hookpoint.name, site.explanations.set_index("latent")["sentence"]
    records = [LatentRecord(Latent(place, int(latent))) for latent in told.index]
    loaded = [asyncio.run(explanation_loader(one, str(out / "explanations"))) for one in records]
    same = [one.explanation for one in loaded] == told.fillna("No explanation found").tolist()
    yield f"explanation_loader reads our {told.count()} sentences, {told.isna().sum()} failed", same
    names = ("true_positives", "false_negatives", "false_positives", "true_negatives")
    table, _ = analysis.load_data(out / "scores", [place])
    for kind, theirs in delphi.SCORES.items():
        ours, part = site.judgements_of(kind), table[table["score_type"] == theirs]
        active, yes = ours["active"], cut(ours, "half").yes(ours["probability"].to_numpy()) > 0.5
        counts = [int((a & y).sum()) for a in (active, ~active) for y in (yes, ~yes)]
        found = analysis.compute_confusion(part)
        same = len(part) == len(ours) and [found[name] for name in names] == counts
        yield f"{theirs}: compute_confusion of our {len(ours)} windows {counts}", same
        each = [one for _, one in analysis.add_latent_f1(part).groupby("latent_idx")]
        same = np.allclose(scores(ours)["f1"], [one["f1_score"].iloc[0] for one in each])
        yield f"{theirs}: F1 of our {len(each)} latents", same
    yield from delphis_own(work / "delphi's own")


def delphis_own(folder: Path) -> Checks:
    """What its scorer makes of an LLM's replies, written as its __main__ writes it."""
    import orjson
    from delphi.clients.client import Response
    from delphi.explainers import DefaultExplainer
    from delphi.latents import ActivatingExample, Latent, LatentRecord, NonActivatingExample
    from delphi.scorers import DetectionScorer

    told, judged = folder / "explanations", folder / "scores/detection"
    for part in (told, judged):
        part.mkdir(parents=True)
    for latent, reply in ((5, "[EXPLANATION]: hats"), (6, "no pattern")):
        said = DefaultExplainer(None).parse_explanation(reply)
        (told / f"{Latent(PLACE, latent)}.txt").write_bytes(orjson.dumps(said))
    read = delphi.read_explanations(folder, PLACE)["sentence"]
    same = read[0] == "hats" and read.isna().tolist() == [False, True]
    yield "DefaultExplainer → our reader: a sentence, and a failure", same
    ids, fires, words = torch.arange(4), torch.tensor([0, 0.5, 2, 0]), [" a", " red", " hat", ","]
    active = [ActivatingExample(ids, fires, fires, words, 1) for _ in range(4)]
    silent = [NonActivatingExample(ids, torch.zeros(4), words, -1.0) for _ in range(4)]
    record = LatentRecord(Latent(PLACE, 5), active, silent, test=active, explanation="hats")
    ends = [SimpleNamespace(token=digit, logprob=-n) for digit, n in (("1", 0.1), ("0", 2.0))]
    digits = [SimpleNamespace(token="1", top_logprobs=ends)] * 2
    for sure in (False, True):
        replies = [Response(text, digits) for text in ("[1, 0]", "none", "[0, 1]", "[1, 1]")]
        client = AsyncMock(**{"generate.side_effect": replies})
        made = asyncio.run(DetectionScorer(client, n_examples_shown=2, log_prob=sure)(record)).score
        (judged / f"{record.latent}.txt").write_bytes(orjson.dumps(made))
        parsed = [one for one in made if one.prediction is not None]
        table, failures = delphi.read_scores(folder, PLACE)
        expected = [[m.activating, m.probability if sure else m.prediction] for m in parsed]
        same = table[["active", "probability"]].to_numpy().tolist() == expected
        what = f"DetectionScorer {'with' if sure else 'without'} probabilities → our reader"
        yield f"{what}: {len(parsed)} windows, {failures} failed", same and failures == 2


def check_neuronpedia(work: Path) -> Checks:
    from neuronpedia.np_explanation import Explanation
    from stage_cases import tiny_site

    site = tiny_site(work, score__fuzzing=2)
    lines = export_lines(site, work / "neuronpedia").read_text().splitlines()
    found = [Explanation.from_np_db_json(json.loads(line)) for line in lines]
    told, made = site.sentences.items(), ("rewrite-utils", site.params.explainer.model)
    same = found == [Explanation("model", "0-tiny-mlp", n, text, *made) for n, text in told]
    yield f"Explanation.from_np_db_json of our {len(found)} lines, every field", same


@torch.no_grad()
def drawn(module: torch.nn.Module) -> Any:
    """The module with random weights in every parameter."""
    for seed, parameter in enumerate(module.parameters()):
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return module


equal = partial(torch.allclose, atol=1e-4, rtol=1e-4)


def check_sae_lens(work: Path) -> Checks:
    from sae_lens import SAE, TrainingSAE, registry

    sizes = {"d_in": D, "d_out": D, "d_sae": LATENTS, "k": K}
    sizes |= {"matryoshka_widths": [8, LATENTS], "bottleneck_factor": 1}
    ways = [(SAE, "save_model", kind) for kind in registry.SAE_CLASS_REGISTRY]
    training = TrainingSAE, "save_inference_model"
    ways += [(*training, kind) for kind in registry.SAE_TRAINING_CLASS_REGISTRY]
    for package, save, kind in ways:
        to, folder = "transcoder" in kind, work / save / kind
        hooks = {"hook_name": "blocks.6.hook_mlp_in" if to else "blocks.6.hook_resid_post"}
        about = {"metadata": hooks | {"hook_name_out": "blocks.6.hook_mlp_out"}}
        about |= {"architecture": kind, "apply_b_dec_to_input": not to}
        made = drawn(package.from_dict(sizes | about))
        if hasattr(made, "topk_threshold"):
            made.topk_threshold.fill_(0.7)
        getattr(made, save)(folder)
        what = f"{type(made).__name__}.{save}"
        try:
            ours = load_coder(folder, hookpoint=PLACE + ".mlp" * to)
        except ValueError:
            yield f"{what}: refused as a kind that we have not", kind not in THRESHOLDS
            continue
        theirs = SAE.load_from_disk(folder)
        same = equal(ours.dense(ours.encode(INPUTS)), theirs.encode(INPUTS))
        same &= equal(ours(INPUTS), theirs(INPUTS))
        yield f"{what} → our coder: latents and outputs", same


def check_sparsify(work: Path) -> Checks:
    import sparsify

    for name, to, skip in (("skip transcoder", 1, 1), ("transcoder", 1, 0), ("SAE", 0, 0)):
        kind = {"num_latents": LATENTS, "k": K, "transcode": to == 1, "skip_connection": skip == 1}
        theirs = drawn(sparsify.SparseCoder(D, sparsify.SparseCoderConfig(**kind)))
        theirs.save_to_disk(work / name / PLACE)
        ours = load_coder(work / name, hookpoint=PLACE)
        same = equal(ours(INPUTS), theirs(INPUTS).sae_out)
        drawn(ours).save(work / name / "ours")
        theirs = sparsify.SparseCoder.load_from_disk(work / name / "ours")
        same &= equal(ours(INPUTS), theirs(INPUTS).sae_out)
        yield f"{name}: save_to_disk → our coder, and ours → load_from_disk: outputs", same


DELPHI = "aiofiles asyncer blobfile faiss-cpu fire lxml orjson plotly pycryptodomex"
SAELENS = "'transformer-lens<4' better-abc transformers-stream-generator"
PEERS = {
    "circuit-tracer": ("0.5.0", "circuit_tracer", check_circuit_tracer),
    "eai-delphi": (f"0.1.3 sentence-transformers {DELPHI}", "delphi", check_delphi),
    "neuronpedia": ("1.2.1", "neuronpedia", check_neuronpedia),
    "sae-lens": (f"6.54.12 {SAELENS}", "sae_lens", check_sae_lens),
    "eai-sparsify": ("1.3.3", "sparsify", check_sparsify),
}
"""By package: what pip installs after ``==``, what is imported, and its checks in a folder."""


def checked(name: str, work: Path) -> int:
    """Print a peer's lines; 1 where one differs."""
    _, module, check = PEERS[name]
    if importlib.util.find_spec(module) is None:
        print(f"{name} | not installed", flush=True)
        return 0
    title, differs = f"{name} {importlib.metadata.version(name)}", False
    line = partial(print, title, sep=" | ", file=sys.stdout, flush=True)
    with contextlib.redirect_stdout(sys.stderr):  # for what the peer prints
        try:
            for what, same in check(work):
                line(what, "agrees" if same else "differs")
                differs |= not same
        except Exception as error:
            line("stopped by " + " ".join(repr(error).split()), "differs")
            differs = True
    return int(differs)


def main() -> int:
    how = [f"  pip install --no-deps --target FOLDER/{n} {n}=={PEERS[n][0]}" for n in PEERS]
    epilog = "\n".join(["a folder for each peer (delphi on PyPI is another package):", *how])
    how = {"epilog": epilog, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(description=__doc__, **how)
    parser.add_argument("folder", type=Path, help="holds the peers' folders")
    parser.add_argument("--peer", choices=PEERS, help="this one alone, which writes in FOLDER")
    given, codes = parser.parse_args(), []
    if given.peer:
        return checked(given.peer, given.folder)
    with tempfile.TemporaryDirectory() as work:
        for name in PEERS:
            path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", given.folder.resolve() / name)))
            there = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": f"{work}/sets"}
            command = [sys.executable, __file__, work, "--peer", name]
            codes.append(subprocess.run(command, env=os.environ | there, check=False).returncode)
    return int(any(codes))


if __name__ == "__main__":
    raise SystemExit(main())

"""Labels from elsewhere as explanations, and ours as others read them."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from latent_cases import cache_of, drawn

from rewrite_utils.explain import circuit_tracer
from rewrite_utils.explain.export import export_latents, export_lines, main
from rewrite_utils.explain.labels import digest, read_labels
from rewrite_utils.explain.logits import Promoted
from rewrite_utils.params import ParameterError, parse
from rewrite_utils.site import open_sites
from rewrite_utils.subject.model import Hookpoint

PLACE = Hookpoint(6, "mlp")
LINES = [
    {"modelId": "m", "layer": "6-a-16k", "index": "7", "description": " words for\nwater "},
    {"modelId": "m", "layer": "6-a-16k", "index": "7", "description": "a second label"},
    {"modelId": "m", "layer": "6-a-16k", "index": "2", "description": None},
    {"modelId": "m", "layer": "5-a-16k", "index": "1", "description": "another layer"},
]


def write_lines(file, lines=LINES):
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(map(json.dumps, lines)) + "\n"
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def said(place) -> dict[int, str | None]:
    table = read_labels(str(place), PLACE)
    pairs = zip(table["latent"], table["sentence"], strict=True)
    return {latent: None if pd.isna(text) else text for latent, text in pairs}


@pytest.mark.parametrize("name", ["labels.jsonl", "explanations/batch-0.jsonl.gz"])
def test_neuronpedias_export_is_read_layer_by_layer(tmp_path, name):
    file = write_lines(tmp_path / name)
    assert said(file) == said(tmp_path) == {2: None, 7: "words for water"}


def test_a_line_that_says_source_as_neuronpedias_package_does(tmp_path):
    line = {"source": "6-a-16k", "index": 7, "description": "water"}
    assert said(write_lines(tmp_path / "a.jsonl", [line])) == {7: "water"}


def test_two_sources_of_one_layer_are_not_mixed(tmp_path):
    lines = [*LINES, LINES[0] | {"layer": "6-b-65k"}]
    with pytest.raises(ParameterError, match=r"2 sources for layer 6 \(of 5-a-16k, 6-a-16k, 6-b"):
        read_labels(str(write_lines(tmp_path / "a.jsonl", lines)), PLACE)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'latent,label\n7,"water, rivers"\n2,\n'),
        ("a.tsv", "7\twater, rivers\n2\t-1\n"),
        ("layers.6.mlp.csv", '7,"water, rivers"\n2,""\n'),
    ],
)
def test_a_table_of_two_columns(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    place = tmp_path if name.startswith("layers") else tmp_path / name
    assert said(place) == {2: None, 7: "water, rivers"}


def test_a_delphi_folder_and_its_failures(tmp_path):
    (tmp_path / "explanations").mkdir()
    for latent, text in ((7, "water"), (2, None)):
        file = tmp_path / "explanations" / f"layers.6.mlp_latent{latent}.txt"
        file.write_text(json.dumps(text))
    assert said(tmp_path) == {2: None, 7: "water"}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "7,water,rivers\n8,x,y\n", r"a\.csv, line 2 is not a latent's number"),
        ("a.csv", "latent,label\n", "holds no label of layers.6.mlp"),
        ("a.jsonl", '{"index": 3}\n', r"line 1 is not a label of Neuronpedia's"),
        ("a.jsonl", "{\n", r"line 1 is not a label of Neuronpedia's"),
        ("a.txt", "7 water", "there are no labels of layers.6.mlp in"),
    ],
)
def test_what_is_no_label_is_named(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(ParameterError, match=says):
        read_labels(str(tmp_path / name), PLACE)


def test_other_labels_have_another_hash(tmp_path):
    file = write_lines(tmp_path / "a.jsonl")
    before = digest(str(file), PLACE)
    write_lines(file, LINES[:1])
    assert digest(str(file), PLACE) != before


def test_two_origins_are_refused():
    raw = {"name": "a", "sites": {"s": {"hookpoint": "layers.0.mlp"}}}
    with pytest.raises(ParameterError, match=r"'d' and explain.labels = 'l' both say"):
        parse(raw | {"explain": {"delphi": "d", "labels": "l"}})


# ── ours, as others read them ─────────────────────────────────────────────────────────────────


def test_a_run_goes_out_as_lines_and_comes_back_as_its_own_labels(world, tmp_path):
    site = world.sites["mlp"]
    file = export_lines(site, tmp_path / "out")
    assert file.parent.parent.name == "0-tiny-mlp"
    first = json.loads(file.read_text().splitlines()[0])
    assert list(first) == [
        "modelId", "layer", "source", "index", "description", "typeName", "explanationModelName",
    ]  # fmt: skip
    assert first["source"] == first["layer"] == "0-tiny-mlp"
    run = world.again(tmp_path / "run", explain__labels=str(tmp_path / "out"))
    again = open_sites(run)["mlp"]
    assert again.sentences == site.sentences
    assert again.latents_stage.hash == site.latents_stage.hash
    assert "03_labels.mlp" in run.opened and "03_explanations.mlp" not in run.opened


def test_a_label_beyond_the_coders_width_names_the_parameter(world, tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("99,water\n")
    run = world.again(tmp_path / "run", explain__labels=str(file))
    with pytest.raises(ParameterError, match=r"explain.labels: .* latent 99, but .* 12 latents"):
        _ = open_sites(run)["mlp"].sentences


@pytest.mark.parametrize(
    ("layer", "latent", "number"),
    [(0, 0, 0), (0, 1, 2), (1, 0, 1), (2, 3, 18), (23, 5458, 15028879)],
)
def test_a_latents_number_is_cantors(layer, latent, number):
    assert circuit_tracer.number(layer, latent) == number


FIELDS = {
    "transcoder_id": str,
    "index": int,
    "examples_quantiles": list,
    "top_logits": list,
    "bottom_logits": list,
    "act_min": float,
    "act_max": float,
    "quantile_values": list,
    "histogram": list,
    "activation_frequency": float,
}
"""circuit_tracer 0.5.0, frontend/feature_models.py: Model. All of them are needed."""


def written(folder, latent):
    dense, tokens = drawn(rows=30)
    cache = cache_of(dense, tokens)
    how = {"promoted": Promoted([(" up", 2.0)], [(" down", -1.0)]), "window": 6, "layer": 2}
    how |= {"texts": lambda ids: list(map(str, ids)), "transcoder": "2-a"}
    file = circuit_tracer.write_latent(folder, cache, latent, **how)
    found = json.loads(file.read_text())
    assert {name: type(value) for name, value in found.items()} == FIELDS
    assert (found["transcoder_id"], found["index"]) == ("2-a", latent)
    return cache, file, found


def test_a_latents_file_has_the_viewers_fields_and_the_windows_of_the_cache(tmp_path):
    cache, file, found = written(tmp_path, 3)
    assert file.name == "18.json"
    assert found["top_logits"] == [" up"] and found["bottom_logits"] == [" down"]
    assert found["act_max"] == pytest.approx(cache.maximum[3], abs=1e-4)
    names = [part["quantile_name"] for part in found["examples_quantiles"]]
    assert names == ["Top activations", "Median activations", "Bottom activations"]
    top = found["examples_quantiles"][0]["examples"][0]
    assert max(top["tokens_acts_list"]) == pytest.approx(found["act_max"])
    assert top["tokens_acts_list"][top["train_token_ind"]] == max(top["tokens_acts_list"])
    assert len(top["tokens"]) == 6


def test_a_latents_file_says_how_its_activations_are_spread(tmp_path):
    cache, _, found = written(tmp_path, 3)
    values = cache.of(3).values
    assert len(found["quantile_values"]) == 99  # the viewer shows the first that is not exceeded
    assert found["quantile_values"][49] == pytest.approx(np.median(values))
    assert sum(found["histogram"]) == len(values)
    assert found["histogram"][0] == (values < found["act_max"] / circuit_tracer.BARS).sum()
    assert found["activation_frequency"] == len(values) / (30 * 19)


def test_a_silent_latent_has_a_file_that_says_so(tmp_path):
    _, _, found = written(tmp_path, 0)
    assert found["act_max"] == found["activation_frequency"] == sum(found["histogram"]) == 0
    assert found["quantile_values"] == [] == found["examples_quantiles"][0]["examples"]


def node(layer, latent, **more):
    """As graph_models.Node.feature_node has it: layer as text, latent as Cantor's number."""
    kind = {"feature_type": "cross layer transcoder", "clerp": ""}
    return kind | {"layer": str(layer), "feature": circuit_tracer.number(layer, latent)} | more


def graph_of(*nodes, **metadata):
    logit = {"layer": "4", "feature": 311, "feature_type": "logit", "clerp": "Output"}
    token = {"layer": "E", "feature": 1, "feature_type": "embedding", "clerp": ""}
    about = {"slug": "rain", "scan": "someone/transcoders", "transcoder_list": []} | metadata
    return {"metadata": about, "nodes": [*nodes, token, logit]}


def test_a_graphs_nodes_get_our_sentences_where_they_are_ours():
    nodes = [node(2, 3), node(2, 4, clerp="theirs"), node(1, 3), node(2, 9, feature=-1)]
    graph = graph_of(*nodes)
    found = circuit_tracer.labelled(graph, 2, {3: "water"})
    labels = [one["clerp"] for one in found["nodes"]]
    assert labels == ["water", "theirs", "", "", "", "Output"]
    assert nodes[0]["clerp"] == "" and graph["metadata"]["scan"] == "someone/transcoders"
    assert circuit_tracer.latents_in(graph, 2) == {3, 4}


def test_the_viewer_asks_for_our_files_of_our_layer_and_for_others_where_it_did():
    """init-cg-feature-detail.js: with a scan ``custom-…`` by ``transcoder_list[layer]``; of what
    begins with ``./`` it gets ``<that>/<number>.json``."""
    once = circuit_tracer.labelled(graph_of(node(0, 1), node(2, 3)), 2, {})
    assert once["metadata"]["scan"] == "custom-someone/transcoders"
    theirs = "someone/transcoders"
    assert once["metadata"]["transcoder_list"] == [theirs, theirs, "./data/features"]
    twice = circuit_tracer.labelled(once, 0, {})["metadata"]
    assert twice["scan"] == once["metadata"]["scan"]
    assert twice["transcoder_list"] == ["./data/features", theirs, "./data/features"]
    with pytest.raises(ParameterError, match="of layers 0 … 2, so not of a model with a layer 3"):
        circuit_tracer.labelled(once, 3, {})


def test_the_latents_of_a_site_and_a_graph_go_out_together(world, tmp_path):
    site, graph, out = world.sites["mlp"], tmp_path / "any name.json", tmp_path / "out"
    latent = next(iter(site.sentences))
    other = min(set(range(12)) - set(site.sentences))
    graph.write_text(json.dumps(graph_of(node(0, latent), node(0, other))))
    files = export_latents(site, out, graph)
    assert {int(file.stem) for file in files} == {
        circuit_tracer.number(0, one) for one in (*site.sentences, other)
    }
    labelled = json.loads((out / "rain.json").read_text())  # as its slug: so the viewer asks
    assert labelled["nodes"][0]["clerp"] == site.sentences[latent]
    listed = json.loads((out / "graph-metadata.json").read_text())
    assert listed == {"graphs": [labelled["metadata"]]}
    labelled["nodes"][1]["clerp"] = "by hand"
    (out / "rain.json").write_text(json.dumps(labelled))
    export_latents(site, out, graph)
    again = json.loads((out / "rain.json").read_text())
    assert again["nodes"][1]["clerp"] == "by hand"
    assert json.loads((out / "graph-metadata.json").read_text()) == listed


def test_graphs_and_sites_that_do_not_fit_are_named(world, tmp_path):
    with pytest.raises(ParameterError, match=r"transcoders', not layers\.1's"):
        export_latents(world.sites["sae"], tmp_path / "out")
    graph = tmp_path / "graph.json"
    graph.write_text(json.dumps(graph_of(node(0, 12))))
    with pytest.raises(
        ParameterError, match=r"graph.json: layers.0.mlp has a latent 12, but .* 12"
    ):
        export_latents(world.sites["mlp"], tmp_path / "out", graph)
    graph.write_text('{"nodes": []}')
    with pytest.raises(
        ParameterError, match=r"graph.json is no graph of circuit-tracer's: KeyError"
    ):
        export_latents(world.sites["mlp"], tmp_path / "out", graph)


def test_the_command_names_its_forms(capsys):
    with pytest.raises(SystemExit):
        main(["a", "b", "--form", "other"])
    assert "neuronpedia" in capsys.readouterr().err

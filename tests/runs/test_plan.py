"""The plan: known model sizes, costs that agree with the stages, errors that say the fix."""

import json
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rewrite_utils.assets import model_folder
from rewrite_utils.assets.shapes import PUBLISHED, family, from_config, shape
from rewrite_utils.coder.sparse import CoderConfig, SparseCoder
from rewrite_utils.explorer.stage import ALONE, ARMS
from rewrite_utils.latents.cache import Windows
from rewrite_utils.llm import prompts
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.lengths import FRAME
from rewrite_utils.llm.protocol import Choices, Usage
from rewrite_utils.params import ROOT, Params, Simulate, load, parse
from rewrite_utils.rewrite.arms import Estimate
from rewrite_utils.rewrite.splicer import Splicer, n_arms
from rewrite_utils.runs.cost import EFFICIENCY, Cost, PlanError, count, in_hours, size
from rewrite_utils.runs.machine import Machine, gpu
from rewrite_utils.simulate import Layout, Window, open_simulator, simulate
from rewrite_utils.simulate.stage import rated_tokens as rated
from rewrite_utils.site import PLANNED, costs, plan_of
from rewrite_utils.subject.model import Subject, load_subject
from rewrite_utils.subject.stage import split_rows

QUIET = Machine(rates={"float32": 1e11, "bfloat16": 1e12}, memory=24e9, disk=50e9, name="2 threads")
SITE = {"hookpoint": "layers.24.mlp", "latents": 64, "k": 4}
RAW = {"name": "test", "sites": {"late": SITE}}
"""On the embedded models: their published shapes do not need the download."""


def planned(raw: dict) -> dict[str, Cost]:
    return {cost.stage: cost for cost in costs(parse(raw), (*PLANNED, ALONE))}


def plan(params: Params, *, machine: Machine) -> str:
    return plan_of(params, machine, (ALONE,))


# ── shapes ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("EleutherAI/pythia-160m", 162_322_944),
        ("EleutherAI/pythia-70m", 70_426_624),
        ("HuggingFaceTB/SmolLM2-135M", 134_515_008),
        ("HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", 70_553_706_496),
        ("Qwen/Qwen2.5-Coder-1.5B-Instruct", 1_543_714_304),
        ("Qwen/Qwen2.5-7B", 7_615_616_512),
        ("Qwen/Qwen2.5-72B-Instruct", 72_706_203_648),
    ],
)
def test_published_shapes_give_the_published_parameter_counts(name, parameters):
    """Biases and norms are left out, so the count is a little smaller, never larger."""
    assert 0.997 < PUBLISHED[family(name)].parameters / parameters <= 1


def test_a_models_shape_is_read_from_its_config(tiny_folder: Path):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    found = shape(str(tiny_folder))
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    assert found.origin == str(tiny_folder / "config.json")
    assert found.parameters == matrices
    blocks = [p for name, p in model.named_parameters() if ".layers.1." in name and p.dim() == 2]
    assert found.flops(layers=1) == 2 * sum(p.numel() for p in blocks)


def test_a_config_that_is_none_is_refused():
    with pytest.raises(PlanError, match="x has no hidden_size or n_embd"):
        from_config({"model_type": "llama"}, origin="x")


def test_an_unknown_model_is_an_error_that_says_what_to_do():
    with pytest.raises(PlanError, match="size of model 'acme/giant-9000b' is not known here"):
        shape("acme/giant-9000b")
    with pytest.raises(ValueError, match="did you mean 'embedded/smollm2-135m-instruct'"):
        shape("embedded/smolm2-135m-instruct")


def test_an_embedded_model_that_is_not_fetched_has_its_published_shape(tmp_path, monkeypatch):
    monkeypatch.setenv("REWRITE_CACHE", str(tmp_path))
    assert shape("embedded/smollm2-135m-instruct") == PUBLISHED["smollm2-135m"]
    assert shape("embedded/qwen2.5-coder-1.5b-instruct") == PUBLISHED["qwen2.5-1.5b"]
    assert list(tmp_path.iterdir()) == []


# ── costs against what the stages do ──────────────────────────────────────────────────────────


def test_simulation_counts_every_pair_of_window_and_sentence():
    site = SITE | {"calibrate_windows": 1000, "evaluate_windows": 500, "described": 7}
    cost = planned(RAW | {"sites": {"late": site}})["05_simulation"]
    assert cost.predictions == 1500 * 7
    assert cost.flops == cost.tokens * shape("Qwen/Qwen2.5-1.5B").flops()
    assert cost.dtype == "auto"


def test_v1_asks_for_twice_the_papers_327_million_predictions():
    """Once on the calibrate windows and once on as many others: the paper used one set for both."""
    params = load("pythia-160m")
    found = {(c.stage, c.site): c.predictions for c in costs(params)}
    assert found["05_simulation", "transcoder"] == 2 * 327_680_000
    assert split_rows(params)["calibrate"] * params.corpus.row_tokens == 9_994_240


def test_detection_counts_every_window_and_every_prompt():
    score = {"activating": 7, "random": 6, "per_prompt": 5}
    cost = planned(RAW | {"score": score})["04_scores"]
    assert cost.predictions == 64 * 13 and "192 prompts" in cost.what


OPTIONS = {"03_refined", "04_hard", "04_fuzzing", "04_shuffled", "12_explanations"}


def extras(raw: dict) -> dict[str, Cost]:
    return {stage: cost for stage, cost in planned(raw).items() if stage in OPTIONS}


def test_options_cost_nothing_until_they_are_asked_for():
    assert extras(RAW) == {}
    score = {"activating": 4, "random": 6, "hard": 3, "fuzzing": 5, "shuffled": True}
    found = extras(RAW | {"score": score, "explain": {"refine": 6}})
    asked = {stage: cost.predictions for stage, cost in found.items()}
    assert asked == {
        "03_refined": 64 * 13,
        "04_hard": 64 * 7,
        "04_fuzzing": 64 * 10,
        "04_shuffled": 64 * 10,
    }


def test_a_kind_of_explanation_costs_its_sentences_and_its_scores():
    raw = RAW | {"explain": {"compared": ["embedding"]}}
    plain, found = planned(RAW), extras(raw)["12_explanations"]
    both = plain["03_explanations"].tokens + plain["04_scores"].tokens
    assert both < found.tokens < 2 * both
    assert found.predictions == 64 + 64 * 20
    floor = raw | {"sites": {"late": SITE | {"coder": "random"}}}
    assert extras(floor) == {}


def test_one_window_a_prompt_shares_the_description():
    five, one = (
        planned(RAW | {"score": {"per_prompt": count}})["04_scores"].tokens for count in (5, 1)
    )
    assert five < one < 2.5 * five


def test_sentences_of_a_delphi_run_cost_nothing():
    found = planned(RAW | {"explain": {"delphi": "/a/run"}})
    assert found["03_explanations"].tokens == found["04_scores"].tokens == 0


def test_the_coder_is_trained_on_what_there_is():
    few = planned(RAW | {"sites": {"late": SITE | {"tokens": 10_000, "batch": 1000}}})["01_coder"]
    assert few.tokens == 10_000 // 127 * 127 and "20 steps" in few.what
    all_ = planned(RAW | {"sites": {"late": SITE | {"tokens": 10**9}}})["01_coder"]
    assert all_.tokens == int(1_070_000 * 0.7) // 127 * 127
    assert all_.storage > 8 * 576 * all_.tokens
    twice = SITE | {"tokens": 10**9, "stream": True, "epochs": 2}
    streamed = planned(RAW | {"sites": {"late": twice}})["01_coder"]
    assert streamed.storage < all_.storage / 100 and streamed.flops > 1.9 * all_.flops
    loaded = planned(RAW | {"sites": {"late": SITE | {"coder": "a/b"}}})["01_coder"]
    assert loaded.tokens == loaded.flops == 0


def test_a_deeper_hookpoint_costs_more_to_read_and_less_to_patch():
    low, high = (
        planned(RAW | {"sites": {"late": SITE | {"hookpoint": f"layers.{layer}.mlp"}}})
        for layer in (0, 24)
    )
    layer = shape("embedded/smollm2-135m-instruct").layer_parameters
    assert high["02_latents"].flops - low["02_latents"].flops == pytest.approx(
        2 * 24 * layer * low["02_latents"].tokens
    )
    assert high["05_simulation"] == low["05_simulation"]


def test_checkpoints_cost_a_pass_each_and_nothing_where_there_are_none():
    asked = RAW | {"subject": {"checkpoints": ["step0", "step4", "step8"]}}
    assert "07_checkpoints" not in planned(RAW)
    assert planned(asked)["07_checkpoints"].tokens == 3 * 300 * 128


def test_the_card_compares_five_arms_a_latent():
    found = planned(RAW)["10_alone"]
    assert found.tokens == 40 * 128 + 40 * ((len(ARMS) - 1) * 64 + 1)


def test_usefulness_and_layers_at_once_cost_nothing_where_nobody_asks():
    assert not {"07_usefulness", "11_at_once"} & set(planned(RAW))
    sites = {"late": SITE, "early": SITE | {"hookpoint": "layers.2.mlp"}}
    asked = {"rewrite": {"orders": ["top", "useful"]}, "studies": {"layers_at_once": True}}
    found = planned(RAW | asked | {"sites": sites})
    assert found["07_usefulness"].tokens == 60 * 128 + 60 * (2 * 64 + 1)
    assert found["11_at_once"].tokens == 300 * 128 + 300 * 3 * 5  # alone, alone, both


def test_faithful_rows_are_all_the_rows_that_are_not_trained_on():
    apart = split_rows(parse(RAW))
    together = split_rows(parse(RAW | {"corpus": {"faithful": True}}))
    assert (
        together["score"]
        == together["evaluate"]
        == pytest.approx(sum(apart.values()) - apart["train"], abs=4)
    )


@pytest.fixture
def engine(tokenizer: PreTrainedTokenizerFast) -> MagicMock:
    """An engine that remembers what it is asked and finds every answer equally likely."""
    made = MagicMock(spec=Engine, tokenizer=tokenizer, usage=Usage())
    made.configure_mock(context=4096, workers=1, label="fake")

    def choices(asked, *, options, answers=1):
        shape_ = len(asked), answers, len(options)
        return Choices(np.full(shape_, 0.1, np.float32), np.ones(shape_[:2], np.float32))

    made.choices.side_effect = choices
    return made


def test_the_simulator_is_asked_as_often_as_planned(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(
        prompts, "rendered", lambda *_: "{pad}{window} {token}\nDescription: {explanation}"
    )
    simulator = open_simulator(Simulate(), engine)
    windows, sentences = [Window.of(["a ", "b"])] * 5, {1: "c", 2: "d", 3: "e"}
    simulate(windows, sentences, simulator, folder=tmp_path, name="test")
    asked = [prompt for call in engine.choices.call_args_list for prompt in call.args[0]]
    site = SITE | {"described": 3, "calibrate_windows": 3, "evaluate_windows": 2}
    cost = planned(RAW | {"sites": {"late": site}})["05_simulation"]
    assert len(asked) == cost.predictions == 15
    assert all(len(prompt.shared) % 32 == 0 for prompt in asked)


def test_other_ways_of_asking_cost_what_they_compute():
    plain = Simulate()
    pairs, tokens = rated(plain, 40, 10)
    assert pairs == 400
    assert rated(plain.model_copy(update={"screen": 0.25}), 40, 10)[0] == 100
    every = rated(plain.model_copy(update={"mode": "all"}), 40, 10)[1]
    assert 3 * 32 * 400 < every < 6 * 32 * 400  # three to six tokens a prediction
    original = rated(plain.model_copy(update={"layout": "original"}), 40, 10)[1]
    assert original == 400 * (FRAME + 16 + 32) > tokens
    asked = RAW | {"studies": {"simulators": ["all", "rate"], "simulator_windows": 5}}
    assert "05_way" not in planned(RAW)
    late = parse(asked).sites["late"]
    assert planned(asked)["05_way"].predictions == 5 * (late.described or late.latents) * 33


def test_the_rewrite_measures_as_many_arms_as_planned(tiny_folder):
    subject: Subject = load_subject(str(tiny_folder))
    config = CoderConfig(d_in=32, num_latents=8, k=2, hookpoint="layers.1.mlp")
    params = parse(
        RAW
        | {"sites": {"s": {"hookpoint": "layers.1.mlp", "latents": 8, "k": 2}}}
        | {"rewrite": {"fractions": [0.1, 0.5, 1.0], "orders": ["top", "random"]}}
    )
    windows = Windows(np.array([0, 1]), np.array([5, 6]))
    estimate = Estimate(np.zeros((2, 8), np.float32), params.rewrite.orders)
    tokens = np.tile(np.arange(10), (2, 1))
    place = subject.hookpoint("layers.1.mlp"), SparseCoder(config)
    table = Splicer(subject, *place, lambda split: tokens, "test").losses(
        windows,
        {"zero": estimate, "mean": estimate},
        np.arange(8),
        "all",
        seed=0,
        fractions=params.rewrite.fractions,
        rankings={"top": np.arange(8.0)},
        constants={"output zero": torch.zeros(32), "output mean": torch.zeros(32)},
    )
    arms = n_arms(params, params.sites["s"], ("zero", "mean"))
    assert arms == 2 * (2 * 2 + 1)
    assert len(table) == 2 * (arms + 3)


@pytest.mark.assets
def test_the_simulators_frame_is_as_long_as_planned():
    name = "embedded/qwen2.5-coder-1.5b-instruct"
    layout = Layout(AutoTokenizer.from_pretrained(model_folder(name)), align=32)
    assert abs(len(layout.prompt(Window.of(["a"]), "").own) - FRAME) <= 3


# ── the text and its errors ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", sorted((ROOT / "params").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_file_in_params_can_be_planned_without_a_hub(path, tmp_path, monkeypatch):
    monkeypatch.setenv("REWRITE_CACHE", str(tmp_path))
    params = load(path)
    text = plan(params, machine=QUIET)
    for stage in ("00_corpus", "01_coder", "03_explanations", "05_simulation", "07_rewrite"):
        assert stage in text
    assert all(f"  {site} " in text for site in params.sites) and "total" in text
    assert list(tmp_path.iterdir()) == []


def test_the_papers_setting_says_why_it_cannot_run_here():
    text = plan(load("pythia-160m"), machine=QUIET)
    assert "Llama-3.1-70B-Instruct needs 158.3 GB of memory, this machine has 24 GB" in text
    assert "01_coder.sae needs" not in text  # it is streamed
    stored = plan(load("pythia-160m", {"sites.sae.stream": False}), machine=QUIET)
    assert "01_coder.sae needs 3,073 GB of disk, 50 GB are free" in stored
    assert "is not known without the hub" in text and "the same rows" in text
    small = plan(parse(RAW), machine=QUIET)
    assert "cannot run here" not in small and "will stop" not in small


def test_the_small_run_of_the_papers_subject_takes_an_ordinary_pc_two_hours_at_most():
    """Two AVX2 cores: float32 95 GFLOP/s, bfloat16 13 (environment.md §8)."""
    params = load("pythia-160m-small")
    pc = QUIET._replace(rates={"float32": 95e9, "bfloat16": 13e9})
    found = costs(params, (*PLANNED, ALONE))
    assert 0.5 < sum(cost.hours(pc) for cost in found) <= 2
    assert all(not cost.too_much(pc) for cost in found)
    assert split_rows(params)["train"] == params.readers.train_rows  # words are counted on these
    paper = load("pythia-160m").sites["transcoder"]
    site = params.sites["transcoder"]
    for name in ("hookpoint", "coder", "bias_convention", "latents", "k", "skip"):
        assert getattr(site, name) == getattr(paper, name)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            {"sites": {"s": SITE | {"hookpoint": "layers.31.mlp"}}},
            r"sites\.s: hookpoint 'layers\.31\.mlp' is not in this model \(layers\.0 … layers\.29",
        ),
        (
            {"sites": {"s": SITE | {"hookpoint": "layers.3", "skip": True}}},
            r"sites\.s: an SAE has no skip connection",
        ),
        ({"corpus": {"sources": ["some/data"]}}, "not known without the hub: set corpus.max_rows"),
        (
            {"sites": {"s": SITE | {"calibrate_windows": 10**6}}},
            r"1,000,000 calibrate windows, but its 589 rows have only 55,366 positions 33 … 126",
        ),
        (
            {"sites": {"s": SITE | {"control_windows": 10**6}}},
            "1,000,000 evaluate windows",
        ),
        ({"explain": {"windows": 60}}, r"explainer: prompts of about .* context of 2,048: raise"),
        (
            {"simulator": {"context": 40_000}},
            "simulator.context = 40,000 is more than the 32,768 positions that embedded/qwen2.5-"
            "coder-1.5b-instruct has: set 32768 or less",
        ),
        ({"simulator": {"context": 300}}, r"simulator: prompts of about .* context of 300"),
        (
            {"rewrite": {"calibrators": ["raww"], "headline": "raww"}},
            r"rewrite\.calibrators: .*did you mean 'raw'",
        ),
        ({"corpus": {"row_tokens": 9000}}, "row_tokens = 9000 is more than the subject's context"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(wrong, says):
    with pytest.raises(PlanError, match=says):
        plan(parse(RAW | wrong), machine=QUIET)


@pytest.mark.parametrize(
    ("has", "says"), [({"num_latents": 32}, "latents 32, the run says 64"), ({"k": 8}, "k 8")]
)
def test_a_coder_on_this_disk_must_be_the_one_asked_for(tmp_path, has, says):
    folder = tmp_path / "layers.24.mlp"
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps({"num_latents": 64, "k": 4, "d_in": 576} | has))
    with pytest.raises(PlanError, match=says):
        plan(parse(RAW | {"sites": {"s": SITE | {"coder": str(tmp_path)}}}), machine=QUIET)


@pytest.mark.parametrize("cfg", [{"k": None, "activation": "jumprelu"}, {"k": 4}])
def test_a_coder_without_a_k_cannot_keep_the_k_largest_and_the_plan_says_what_to_change(
    tmp_path, cfg
):
    (tmp_path / "cfg.json").write_text(json.dumps({"num_latents": 64, "d_in": 576} | cfg))
    raw = RAW | {"sites": {"s": SITE | {"coder": str(tmp_path)}}}
    plain = {"rewrite": {"calibrators": ["isotonic"], "headline": "isotonic"}}
    without = plan(parse(raw | plain | {"studies": {"calibrators": ["isotonic"]}}), machine=QUIET)
    assert ("has thresholds: how many latents fire is not known" in without) == (not cfg["k"])
    if cfg["k"]:
        assert plan(parse(raw), machine=QUIET)
        return
    says = r"no k, so .* take what ends in \+topk out of rewrite.calibrators \(raw\+topk, .*\); st"
    with pytest.raises(PlanError, match=says):
        plan(parse(raw), machine=QUIET)


def test_hours_are_work_over_speed():
    cost = Cost("x", "", "", flops=3600 * 1e12, dtype="bfloat16")
    assert cost.hours(QUIET) == pytest.approx(1 / EFFICIENCY)
    assert cost._replace(dtype="float32").hours(QUIET) == pytest.approx(10 / EFFICIENCY)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, ""),
        (12_345, "12,345"),
        (999_600, "1M"),
        (1.234e6, "1.23M"),
        (999.9e6, "1B"),
        (2e12, "2T"),
    ],
)
def test_counts_are_short(number, text):
    assert count(number) == text


def test_sizes_and_hours_are_short():
    assert [size(b) for b in (10, 2e6, 3.25e9, 6.145e12)] == ["", "2.00 MB", "3.25 GB", "6.14 TB"]
    assert [in_hours(h) for h in (0.0123, 3.456, 1234.5)] == ["0.012", "3.5", "1,234"]


def test_a_folder_that_is_no_model_is_named(tmp_path):
    with pytest.raises(PlanError, match=r"is not a model's folder: it has no config.json"):
        shape(str(tmp_path))


def test_a_gpu_by_name_is_planned_for_without_a_disk():
    text = plan(load("pythia-160m"), machine=gpu("a40"))
    assert "one A40 (published peak), 48 GB of memory" in text and "of disk free" not in text
    assert "Llama-3.1-70B-Instruct needs 158.3 GB" in text and "auto is bfloat16" in text

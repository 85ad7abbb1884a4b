"""dtype auto: what the measured rates and the memory of a machine decide."""

import logging
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import zeros

from rewrite_utils.llm import opening
from rewrite_utils.params import LLM, ParameterError, Subject, parse
from rewrite_utils.runs import machine
from rewrite_utils.runs.machine import Machine


def on(single: float, half: float, memory: float = 24e9) -> Machine:
    return Machine({"float32": single, "bfloat16": half}, memory, math.inf, "made up")


FAST, SLOW = on(174e9, 350e9), on(95e9, 13e9)
"""As measured on an EPYC with AVX-512-BF16 and on one with AVX2 alone."""


def test_auto_is_what_a_product_shows_to_be_faster_and_a_named_precision_stays() -> None:
    assert FAST.precision("auto") == "bfloat16"
    assert SLOW.precision("auto") == "float32"
    assert on(100e9, 110e9).precision("auto") == "float32"  # not worth the rounding
    assert SLOW.precision("bfloat16") == "bfloat16"
    assert "auto is float32" in SLOW.said()


def test_a_model_that_does_not_fit_in_the_faster_precision_takes_the_other_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small = SLOW._replace(memory=8e9)
    assert small.precision("auto", weights=1.5e9) == "bfloat16"
    assert small.precision("auto", weights=0.1e9) == "float32"
    monkeypatch.setattr(machine, "this_machine", lambda device: small)
    with caplog.at_level(logging.WARNING):
        assert machine.precision("auto", weights=1.5e9, what="qwen") == "bfloat16"
    assert "qwen: 6.0 GB in float32 do not fit 8.0 GB" in caplog.text


def test_this_machines_rates_are_measured() -> None:
    rates = machine.product_rates(seconds=0.02)
    assert rates.keys() == {"float32", "bfloat16"}
    assert all(1e8 < rate < 1e15 for rate in rates.values())


def test_a_gpu_has_its_published_numbers_and_an_unknown_one_says_which_there_are() -> None:
    assert machine.gpu("A40").rates["bfloat16"] == 149.7e12
    with pytest.raises(ValueError, match=r"no GPU 'gtx'.*a40"):
        machine.gpu("gtx")


def test_the_hash_holds_auto_whatever_the_machine_chose() -> None:
    assert LLM().content()["dtype"] == "auto"
    assert Subject().content()["dtype"] == "auto"
    assert Subject().measured_in == "float32"
    assert Subject().collected_in == "auto"
    assert Subject(collect_dtype="").collected_in == "float32"
    with pytest.raises(ParameterError, match="float16"):
        parse(
            {
                "name": "x",
                "sites": {"a": {"hookpoint": "layers.0"}},
                "subject": {"dtype": "float16"},
            }
        )


def test_auto_is_a_gpu_if_there_is_one_and_a_missing_gpu_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for there, auto in ((0, "cpu"), (2, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda there=there: there)
        assert machine.device("auto") == auto and machine.device("cpu") == "cpu"
        with pytest.raises(ValueError, match=r"'cuda:2', but torch sees .* GPU.*'cpu'"):
            machine.device("cuda:2")
    assert machine.device("cuda:1") == "cuda:1"


def test_the_device_is_a_word_that_torch_knows_and_not_part_of_a_key() -> None:
    assert "device" not in Subject(device="cuda:1").content()
    site = {"name": "x", "sites": {"a": {"hookpoint": "layers.0"}}}
    assert parse(site).subject.device == "auto"
    with pytest.raises(ParameterError, match="device"):
        parse(site | {"subject": {"device": "gpu"}})


def test_a_pass_is_as_large_as_a_gpus_free_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (8e9, 16e9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 3e9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 1e9)
    assert machine.at_once(16, each=1e12, device="cpu") == 16
    assert machine.at_once(16, each=1e7, device="cuda") == 125
    assert machine.at_once(16, each=1, device="cuda") == 16 * machine.MOST
    assert machine.at_once(16, each=1e12, device="cuda:0") == 1
    assert machine.free_share("cuda") == 0.5 and machine.free_share("cpu") == 0


def test_auto_engine_is_vllm_but_on_a_cpu_without_fast_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda name: object())
    for here, engine in ((FAST, "vllm"), (SLOW, "transformers")):
        monkeypatch.setattr(opening, "this_machine", lambda here=here: here)
        monkeypatch.setattr(opening, "device", lambda: "cpu")
        assert opening.chosen("auto") == engine
        assert opening.chosen("vllm") == "vllm"
        monkeypatch.setattr(opening, "device", lambda: "cuda")
        assert opening.chosen("auto") == "vllm"


def test_parameters_are_counted_from_the_headers_of_the_files(tmp_path) -> None:
    save_file({"a": zeros(3, 4), "b": zeros(5)}, tmp_path / "model.safetensors")
    assert opening.weights(str(tmp_path)) == 17

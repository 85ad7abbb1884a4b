"""The server engine against a small real HTTP server in this process, and `make serve`'s command.

What it answers is in openai_server.py; servers that answer otherwise are in test_server_ways.py.
"""

import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from latent_cases import chatting_tokenizer
from openai_server import Handler, Server, listening

from rewrite_utils.llm import serving
from rewrite_utils.llm.address import IN_FLIGHT
from rewrite_utils.llm.protocol import EngineDied, EngineError, Prompt
from rewrite_utils.llm.server import ServerEngine
from rewrite_utils.llm.vllm import settings
from rewrite_utils.params import LLM, Simulate
from rewrite_utils.simulate import Window, open_simulator, simulate

TOKENIZER = chatting_tokenizer()
OPTIONS = [1, 3]
PROMPTS = [Prompt((1,) * (row % 4), (2,) * (1 + row % 3)) for row in range(40)]


@pytest.fixture
def server() -> Iterator[Server]:
    with listening() as made:
        yield made


def opened(server: Server, tokenizer: Any = None, **changed: Any) -> ServerEngine:
    waits = changed.pop("waits", (0.01, 0.02))
    usual = {"model": "some/model", "engine": "server", "address": server.address}
    llm = LLM(**{**usual, **changed})
    return ServerEngine(tokenizer or TOKENIZER, llm, vocab_size=320, waits=waits)


def check(engine: ServerEngine, answers: int = 1) -> None:
    """Every answer is its own prompt's."""
    choices = engine.choices(PROMPTS, options=OPTIONS, answers=answers)
    lengths = np.array([len(p.shared + p.own) for p in PROMPTS])[:, None] + np.arange(answers)
    both = np.exp(-lengths[..., None] * np.array(OPTIONS, float))
    np.testing.assert_allclose(choices.mass, both.sum(-1), rtol=1e-5)
    np.testing.assert_allclose(choices.probabilities, both / both.sum(-1, keepdims=True), rtol=1e-5)


def test_answers_come_back_to_their_prompts_and_are_counted(server: Server) -> None:
    with opened(server) as engine:
        check(engine, answers=2)
        length = sum(len(p.shared + p.own) for p in PROMPTS)
        assert engine.usage._replace(seconds=0) == (40, length, 40, 80, 0)
    body = server.asked[0]
    assert body["allowed_token_ids"] == body["logprob_token_ids"] == OPTIONS
    assert body["temperature"] == 0 and body["model"] == "some/model"


def test_mistake_the_answers_own_logprob_is_read_and_not_the_likeliest_tokens(
    server: Server,
) -> None:
    """In the original the log-probability of the rank-1 token was taken for the answer's."""
    with opened(server) as engine:
        mass = engine.choices([Prompt((), (1,))], options=[2, 4]).mass[0, 0]
        np.testing.assert_allclose(mass, np.exp(-2) + np.exp(-4), rtol=1e-5)
        with pytest.raises(EngineError, match="did not give the log-probability of token_id:1"):
            engine.choices([Prompt((), (300,))], options=OPTIONS)


def test_options_without_any_probability_are_an_error(server: Server) -> None:
    with opened(server) as engine, pytest.raises(EngineError, match="prompt 0, answer 0"):
        engine.choices([Prompt((), (301,))], options=OPTIONS)


def test_generation_has_a_seed_for_each_prompt(server: Server) -> None:
    with opened(server) as engine:
        replies = engine.generate(PROMPTS[:5], max_tokens=4, temperature=1.0, seed=5)
    assert len({reply.text for reply in replies}) == 5
    assert all(reply.tokens == (5, 6) and reply.finished for reply in replies)


def test_requests_in_flight_are_bounded(server: Server) -> None:
    server.hook = lambda body: threading.Event().wait(0.005) or 200
    with opened(server) as engine:
        engine.choices(PROMPTS * 4, options=OPTIONS)
    assert 1 < server.most <= IN_FLIGHT
    assert len(server.asked) == 160


@pytest.mark.parametrize("failure", [503, 429, None])
def test_a_busy_or_broken_server_is_asked_again_and_nothing_is_lost(
    server: Server, failure: int | None
) -> None:
    """None: the connection is cut before an answer."""
    seen: dict[str, int] = {}

    def hook(body: dict) -> int | None:
        key = json.dumps(body["prompt"])
        seen[key] = seen.get(key, 0) + 1
        return failure if seen[key] == 1 else 200

    server.hook = hook
    with opened(server) as engine:
        check(engine)
    assert len(server.asked) > len(PROMPTS)


def test_waits_grow(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("rewrite_utils.llm.address.time.sleep", waited.append)
    with opened(server, waits=(0.5, 1.0, 2.0)) as engine:
        server.hook = lambda body: 503
        with pytest.raises(EngineDied, match=r"4 times within 4 s \(status 503.*make serve"):
            engine.choices(PROMPTS[:1], options=OPTIONS)
    assert waited == [0.5, 1.0, 2.0]


def test_a_refusal_is_not_repeated_and_says_why(server: Server) -> None:
    with opened(server) as engine:
        server.hook = lambda body: 400
        with pytest.raises(EngineError, match=r"refused with status 400.*no: 400"):
            engine.choices(PROMPTS[:1], options=OPTIONS)
    assert len(server.asked) == 1


def test_nobody_there_is_an_error_that_says_so(server: Server) -> None:
    address = server.address
    server.shutdown()
    server.server_close()
    with pytest.raises(EngineDied, match=f"{address} did not answer 3 times.*is it running"):
        opened(server, address=address, waits=(0.01, 0.01))


def test_another_model_there_is_an_error(server: Server) -> None:
    with pytest.raises(ValueError, match=r"has some/model, not 'other': set simulator\.model"):
        opened(server, model="other")


@pytest.mark.parametrize("address", ["", "127.0.0.1:8000/v1", "localhost:8000/v1", "http://a:b/v1"])
def test_half_an_address_is_refused_at_once_and_named(address: str, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=f"whole address, not '{address}'.*make serve"):
        ServerEngine.connect(LLM(engine="server", address=address), str(tmp_path))


def test_something_else_at_the_address_is_said(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.models = {"hello": "world"}
    with pytest.raises(EngineError, match=r"did not list models.*end in /v1"):
        opened(server)
    gone = {"detail": "Not Found"}
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.reply(gone, 404))
    with pytest.raises(EngineError, match=r"refused with status 404.*end in /v1"):
        opened(server)


def test_an_address_that_swallows_connections_is_left_after_seconds(server: Server) -> None:
    with opened(server) as engine:
        assert engine._address._client.timeout.connect <= 10 < engine._address._client.timeout.read


def test_the_servers_context_counts(server: Server) -> None:
    with opened(server, context=2048) as engine:
        assert engine.context == 64
        with pytest.raises(ValueError, match="context of 64"):
            engine.choices([Prompt((1,) * 64, (1,))], options=OPTIONS)


def test_a_server_that_dies_midway_loses_nothing(server: Server, tmp_path: Any) -> None:
    """The finished blocks stay; with the server back, the rest follows and the bytes are equal."""
    windows = [Window.of(["a ", word]) for word in "bcdefghijk"]
    sentences = {1: "one", 4: "two"}

    def run(folder: Any) -> None:
        folder.mkdir(exist_ok=True)
        with opened(server, chatting_tokenizer(), context=4000) as engine:
            simulator = open_simulator(Simulate(align=4), engine)
            how = {"folder": folder, "name": "test", "least_mass": 0.0}  # made-up probabilities
            simulate(windows, sentences, simulator, **how)

    server.models = {"data": [{"id": "some/model"}]}
    run(tmp_path / "whole")
    before = len(server.asked)
    server.hook = lambda body: 200 if len(server.asked) < before + 10 else 503
    with pytest.raises(EngineDied, match="Nothing of this call was kept"):
        run(tmp_path / "part")
    assert [file.name for file in (tmp_path / "part").iterdir()] == ["block-000000.npz"]
    server.hook = lambda body: 200
    run(tmp_path / "part")
    whole, part = (
        {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        for folder in (tmp_path / "whole", tmp_path / "part")
    )
    assert whole == part


def test_serving_starts_the_simulator_of_the_parameters_on_loopback() -> None:
    llm = LLM(model="some/model", context=512, memory_gb=1.5)
    said = serving.command(llm, folder="/weights", port=8123, dtype="float32", free=0.0)
    pairs = dict(itertools.pairwise(said))
    assert pairs["--host"] == "127.0.0.1" and pairs["--port"] == "8123"
    assert pairs["--model"] == "/weights" and pairs["--served-model-name"] == "some/model"
    assert pairs["--max-model-len"] == "512" and pairs["--block-size"] == "32"
    assert pairs["--kv-cache-memory-bytes"] == str(3 * 2**29)
    assert "--enforce-eager" in said
    assert pairs["--dtype"] == "float32"
    assert "--gpu-memory-utilization" not in said
    on_gpu = serving.command(llm, folder="/weights", port=1, dtype="bfloat16", free=0.5)
    assert "--enforce-eager" not in on_gpu
    assert "--kv-cache-memory-bytes" in on_gpu and "--gpu-memory-utilization" in on_gpu


def test_vllm_takes_its_share_of_what_is_free_and_a_batch_holds_the_longest_prompt() -> None:
    given = {"dtype": "bfloat16", "max_tokens": 9000, "memory_gb": 0.0}
    here, there = (settings("m", **given, free=free) for free in (0.0, 0.5))
    assert here["kv_cache_memory_bytes"] == 2 * 2**30
    assert "kv_cache_memory_bytes" not in there and there["gpu_memory_utilization"] == 0.45
    assert here["max_num_batched_tokens"] == there["max_num_batched_tokens"] == 9000


def test_serving_uses_every_core_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to itself vLLM's CPU build keeps a core for its scheduler: half of a small machine."""
    started: list[Any] = []
    monkeypatch.setattr(serving, "model_folder", lambda name: "/weights")
    monkeypatch.setattr(serving, "require_installed", lambda *_: None)
    monkeypatch.setattr(serving, "device", lambda: "cpu")

    def become(*given: Any) -> None:
        started.append(given)
        raise SystemExit

    monkeypatch.setattr(serving.os, "execve", become)
    with pytest.raises(SystemExit):
        serving.main(["params/smoke.yaml", "--port", "8123"])
    program, words, environment = started[0]
    assert words[0] == program and words[words.index("--host") + 1] == "127.0.0.1"
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert int(environment["OMP_NUM_THREADS"]) >= 1
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"


def test_serving_without_vllm_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rewrite_utils.llm.opening.find_spec", lambda name: None)
    assert serving.main(["params/smoke.yaml"]) == 1
    assert "a vLLM server needs the package vllm" in capsys.readouterr().err

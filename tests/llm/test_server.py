"""The server engine against a small real HTTP server in this process, and `make serve`'s command.

The server's log-probability of an option is minus the option times the prompt's length (modulo
100), as in test_engines_vllm.py; every hook below sees a request before it is answered.
"""

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from latent_cases import chatting_tokenizer

from rewrite_utils.llm import serving
from rewrite_utils.llm.protocol import EngineDied, EngineError, Prompt
from rewrite_utils.llm.server import IN_FLIGHT, ServerEngine
from rewrite_utils.llm.vllm import settings
from rewrite_utils.params import LLM, Simulate
from rewrite_utils.simulate import Window, open_simulator, simulate

TOKENIZER = chatting_tokenizer()
OPTIONS = [1, 3]
PROMPTS = [Prompt((1,) * (row % 4), (2,) * (1 + row % 3)) for row in range(40)]


class Handler(BaseHTTPRequestHandler):
    """Speaks as much of the OpenAI protocol as the engine uses."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.reply({"data": [{"id": "some/model", "max_model_len": 64}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.busy:
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        try:
            self.server.asked.append(body)
            status = self.server.hook(body)
            if status is None:
                self.close_connection = True
                self.connection.close()
            elif status != 200:
                self.reply({"error": {"message": f"no: {status}"}}, status)
            else:
                self.reply(answer(body))
        finally:
            with self.server.busy:
                self.server.now -= 1

    def reply(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


def answer(body: dict) -> dict:
    """What a vLLM server says to this request."""
    tokens, length = body["prompt"], len(body["prompt"])
    usage = {"prompt_tokens": length, "prompt_tokens_details": {"cached_tokens": 1}}
    if "logprob_token_ids" not in body:
        choice = {"text": f"seed {body['seed']}", "token_ids": [5, 6], "finish_reason": "stop"}
        return {"choices": [choice], "usage": usage | {"completion_tokens": 2}}
    options = body["logprob_token_ids"]
    rows = [
        {f"token_id:{o}": max(-9999.0, -float(o * (length % 100 + i))) for o in reversed(options)}
        | {"token_id:77": -0.001}  # the likeliest token, which is none of the options
        for i in range(body["max_tokens"])
    ]
    if 300 in tokens:
        rows[0].pop(f"token_id:{options[0]}")
    if 301 in tokens:
        rows[0] = {f"token_id:{o}": -9999.0 for o in options}
    choice = {"text": "", "finish_reason": "length", "logprobs": {"top_logprobs": rows}}
    return {"choices": [choice], "usage": usage | {"completion_tokens": len(rows)}}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict] = []
        self.hook: Callable[[dict], int | None] = lambda body: 200
        self.busy, self.now, self.most = threading.Lock(), 0, 0

    def handle_error(self, *_: object) -> None: ...

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def opened(server: Server, tokenizer: Any = None, **changed: Any) -> ServerEngine:
    usual = {"name": "some/model", "vocab_size": 320, "max_tokens": 64, "waits": (0.01, 0.02)}
    return ServerEngine(tokenizer or TOKENIZER, address=server.address, **{**usual, **changed})


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
    monkeypatch.setattr("rewrite_utils.llm.server.time.sleep", waited.append)
    with opened(server, waits=(0.5, 1.0, 2.0)) as engine:
        server.hook = lambda body: 503
        with pytest.raises(EngineDied, match=r"4 times within 4 s \(status 503\).*make serve"):
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
        ServerEngine(
            TOKENIZER, address=address, name="m", vocab_size=9, max_tokens=9, waits=(0.01, 0.01)
        )


def test_another_model_there_is_an_error(server: Server) -> None:
    with pytest.raises(ValueError, match=r"has some/model, not 'other': set simulator\.model"):
        opened(server, name="other")


@pytest.mark.parametrize("address", ["", "127.0.0.1:8000/v1", "localhost:8000/v1", "http://a:b/v1"])
def test_half_an_address_is_refused_at_once_and_named(address: str, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=f"whole address, not '{address}'.*make serve"):
        ServerEngine.connect(str(tmp_path), address=address, name="m", max_tokens=9)


def test_something_else_at_the_address_is_said(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content, status, says in (
        ({"hello": "world"}, 200, "did not list models.*end in /v1"),
        ({"detail": "Not Found"}, 404, "refused with status 404.*end in /v1"),
    ):
        monkeypatch.setattr(Handler, "do_GET", lambda self, c=content, s=status: self.reply(c, s))
        with pytest.raises(EngineError, match=says):
            opened(server)


def test_an_address_that_swallows_connections_is_left_after_seconds(server: Server) -> None:
    with opened(server) as engine:
        assert engine._client.timeout.connect <= 10 < engine._client.timeout.read


def test_the_servers_context_counts(server: Server) -> None:
    with opened(server, max_tokens=2048) as engine:
        assert engine.context == 64
        with pytest.raises(ValueError, match="context of 64"):
            engine.choices([Prompt((1,) * 64, (1,))], options=OPTIONS)


def test_a_server_that_dies_midway_loses_nothing(server: Server, tmp_path: Any) -> None:
    """The finished blocks stay; with the server back, the rest follows and the bytes are equal."""
    windows = [Window.of(["a ", word]) for word in "bcdefghijk"]
    sentences = {1: "one", 4: "two"}

    def run(folder: Any) -> None:
        folder.mkdir(exist_ok=True)
        with opened(server, chatting_tokenizer(), max_tokens=4000) as engine:
            simulator = open_simulator(Simulate(align=4), engine)
            how = {"folder": folder, "name": "test", "least_mass": 0.0}  # made-up probabilities
            simulate(windows, sentences, simulator, **how)

    models = Handler.do_GET
    try:
        Handler.do_GET = lambda self: self.reply({"data": [{"id": "some/model"}]})  # type: ignore
        run(tmp_path / "whole")
        before = len(server.asked)
        server.hook = lambda body: 200 if len(server.asked) < before + 10 else 503
        with pytest.raises(EngineDied, match="Nothing of this call was kept"):
            run(tmp_path / "part")
        assert [file.name for file in (tmp_path / "part").iterdir()] == ["block-000000.npz"]
        server.hook = lambda body: 200
        run(tmp_path / "part")
    finally:
        Handler.do_GET = models
    whole, part = (
        {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        for folder in (tmp_path / "whole", tmp_path / "part")
    )
    assert whole == part


def test_serving_starts_the_simulator_of_the_parameters_on_loopback() -> None:
    llm = LLM(model="some/model", context=512, memory_gb=1.5)
    said = serving.command(llm, folder="/weights", port=8123, dtype="float32", free=0)
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
    given = {"dtype": "bfloat16", "max_tokens": 9000, "memory_gb": 0}
    here, there = (settings("m", **given, free=free) for free in (0, 0.5))
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

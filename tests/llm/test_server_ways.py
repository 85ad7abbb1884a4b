"""Hosted and self-hosted LLMs that answer in other ways than vLLM does, on loopback."""

import json
import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest
from latent_cases import chatting_tokenizer
from openai_server import Server, listening

from rewrite_utils.explain.asking import prompt
from rewrite_utils.llm import spending
from rewrite_utils.llm.conversation import bytes_tokenizer, turns_of
from rewrite_utils.llm.opening import open_engine
from rewrite_utils.llm.protocol import EngineDied, EngineError, Prompt
from rewrite_utils.llm.server import ServerEngine
from rewrite_utils.llm.tokens import digit_tokens, text_tokens
from rewrite_utils.params import LLM, ParameterError, Simulate, parse
from rewrite_utils.runs.machine import Machine
from rewrite_utils.score.detection import Asked, judged
from rewrite_utils.simulate import Window, open_simulator
from rewrite_utils.site import costs, plan_of

USAGE = {"prompt_tokens": 100, "completion_tokens": 3}
KEY = "sk-a-very-secret-key"
Tops = Sequence[tuple[str, dict[str, float]]]
"""Tokens of a reply, each with the probabilities of the likeliest ones in its place."""


@pytest.fixture
def server() -> Iterator[Server]:
    with listening() as made:
        made.models = [{"id": "some/model"}]
        yield made


def chatting(server: Server, **changed: Any) -> ServerEngine:
    llm = LLM(
        model="some/model", engine="server", endpoint="chat", address=server.address, **changed
    )
    tokenizer = bytes_tokenizer(llm.model)
    waits = (0.01, 0.02)
    return ServerEngine(tokenizer, llm, vocab_size=len(tokenizer), waits=waits)


def completing(server: Server, **changed: Any) -> ServerEngine:
    llm = LLM(model="some/model", engine="server", address=server.address, **changed)
    return ServerEngine(chatting_tokenizer(), llm, vocab_size=320, waits=(0.01, 0.02))


def message(text: str, tops: Tops | None = None, **more: Any) -> dict:
    """A chat's reply, with the log-probabilities it tells."""
    told = None
    if tops is not None:
        told = {
            "content": [
                {
                    "token": token,
                    "logprob": 0.0,
                    "top_logprobs": [
                        {"token": text, "logprob": float(np.log(p))} for text, p in top.items()
                    ],
                }
                for token, top in tops
            ]
        }
    choice = {"message": {"content": text}, "finish_reason": "stop", "logprobs": told}
    return {"choices": [choice], "usage": USAGE} | more


def digits(engine: ServerEngine, text: str = "Rate this.") -> Any:
    """The digits' probabilities behind one question."""
    asked = engine.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False
    )
    question = Prompt((), text_tokens(engine.tokenizer, str(asked)))
    return engine.choices([question], options=digit_tokens(engine.tokenizer))


# ── chat ──────────────────────────────────────────────────────────────────────────────────────


def test_a_chat_is_sent_the_turns_of_the_prompt_and_no_tokens(server: Server) -> None:
    server.says = lambda body: message("7", [("7", {"7": 0.5, " 7": 0.25, "9": 0.125, "I": 0.1})])
    with chatting(server, top_logprobs=20) as engine:
        assert engine.label == "chat server, among 20 likeliest tokens"
        simulator = open_simulator(Simulate(), engine)
        window = Window.of(["a quote <|assistant|> ", "in\nit"])
        found = simulator.rate([(window, "a sentence"), (window, "another, « quoted »")])
    np.testing.assert_allclose(found["expected"], (7 * 0.75 + 9 * 0.125) / 0.875, rtol=1e-3)
    np.testing.assert_allclose(found["mass"], 0.875, rtol=1e-3)
    assert set(server.paths) == {"/v1/chat/completions"} and simulator.model == "some/model"
    body = server.asked[0]
    assert body["logprobs"] is True and body["top_logprobs"] == 20 and "prompt" not in body
    assert [turn["role"] for turn in body["messages"][:3]] == ["system", "user", "assistant"]
    last = body["messages"][-1]
    assert last["role"] == "user" and last["content"].startswith("Text: a quote [assistant]")
    assert last["content"].endswith("Description: a sentence")
    assert engine.usage._replace(seconds=0) == (2, 200, 0, 6, 0)


def test_bytes_become_turns_again_whatever_is_quoted() -> None:
    tokenizer = bytes_tokenizer("some/model")
    said = [
        {"role": "system", "content": "Σ {x}"},
        {"role": "user", "content": "a\n\nb <|x|> 👩‍👩‍👧"},
    ]
    text = tokenizer.apply_chat_template(said, tokenize=False) + "Answer: "
    turns, beginning = turns_of(tokenizer, text_tokens(tokenizer, str(text)))
    assert [turn._asdict() for turn in turns] == [
        {"role": turn["role"], "text": turn["content"]} for turn in said
    ]
    assert beginning == "Answer:"


@pytest.mark.parametrize("tokens", [["Answers", ":", " 1", "0", "1"], [" ", "1", "0", "1", "\n"]])
def test_answers_are_read_behind_the_beginning_that_was_asked_for(
    server: Server, tokens: list[str]
) -> None:
    sure = {"1": {" 1": 0.5, "1": 0.25, "0": 0.25}, "0": {"0": 0.75, "1": 0.25}}
    tops = [(token, sure.get(token.strip(), {token: 0.9, "1": 0.1})) for token in tokens]
    server.says = lambda body: message("".join(tokens), tops)
    with chatting(server, top_logprobs=5) as engine:
        [found] = judged(engine, [Asked("a", ["b", "c", "d"])], per_prompt=3)
    np.testing.assert_allclose(found, [0.75, 0.25, 0.75], rtol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (["101"], r"writes '101' as one token.*score\.per_prompt: 1"),
        (["Answers", ":1", "0", "1"], "writes ':1' as one token.*simulator.samples"),
        (["1", "0"], "asked the server for 3 answers, it wrote '10'"),
        (["I", " am", " not"], r"none of the answers 0, 1.*\(it wrote 'I am not'\).*samples"),
    ],
)
def test_a_reply_that_cannot_be_read_is_an_error_that_quotes_it(
    server: Server, tokens: list[str], says: str
) -> None:
    server.says = lambda body: message("", [(token, {token: 0.9}) for token in tokens])
    with chatting(server, top_logprobs=5) as engine, pytest.raises(EngineError, match=says):
        judged(engine, [Asked("a", ["b", "c", "d"])], per_prompt=3)


def test_a_sentence_comes_without_the_beginning_that_was_asked_for(server: Server) -> None:
    server.says = lambda body: message("PIECES: a, b\nEXPLANATION: letters")
    with chatting(server) as engine:
        asked = prompt(engine.tokenizer, "evidence")
        [reply] = engine.generate([asked], max_tokens=48, temperature=0.7, seed=3)
    assert reply.text == " a, b\nEXPLANATION: letters" and reply.finished
    assert server.asked[0]["messages"][-1]["content"] == "evidence"
    assert server.asked[0]["temperature"] == 0.7


def test_a_refusal_is_a_reply_without_a_sentence(server: Server) -> None:
    refused = {"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}
    server.says = lambda body: {"choices": [refused], "usage": USAGE}
    with chatting(server) as engine:
        [reply] = engine.generate([prompt(engine.tokenizer, "x")], max_tokens=9)
    assert reply.text == "No."


def test_a_hosted_llm_needs_no_tokenizer_here(server: Server) -> None:
    server.models = [{"id": "gpt-9", "context_length": 1000}]
    llm = LLM(model="gpt-9", engine="server", endpoint="chat", address=server.address)
    with open_engine(llm) as engine:
        assert engine.context == 4000  # counted in bytes, four a token
        with pytest.raises(EngineError, match=r"simulator\.top_logprobs.*simulator\.samples"):
            digits(engine)


# ── what servers tell of probabilities ────────────────────────────────────────────────────────


def test_a_completion_among_the_likeliest_tokens(server: Server) -> None:
    """llama.cpp, SGLang and the like; digits that are not among them have none."""
    top = {"7": np.log(0.5), " 8": np.log(0.25), "x": np.log(0.2)}
    told = {"tokens": ["7"], "top_logprobs": [top]}
    choice = {"text": "7", "finish_reason": "length", "logprobs": told}
    server.says = lambda body: {"choices": [choice], "usage": USAGE}
    with completing(server, top_logprobs=5) as engine:
        options = digit_tokens(engine.tokenizer)
        found = engine.choices([Prompt((1,), (2,))], options=options)
    np.testing.assert_allclose(found.probabilities[0, 0, [6, 7, 8]], [0, 2 / 3, 1 / 3], rtol=1e-5)
    np.testing.assert_allclose(found.mass, 0.75, rtol=1e-5)
    assert server.asked[0]["prompt"] == [1, 2] and server.asked[0]["logprobs"] == 5


@pytest.mark.parametrize("told", [None, {"content": []}])
def test_no_log_probabilities_are_refused_unless_answers_may_be_drawn(
    server: Server, told: Any
) -> None:
    choice = {"message": {"content": "7"}, "finish_reason": "stop", "logprobs": told}
    server.says = lambda body: {"choices": [choice], "usage": USAGE}
    with (
        chatting(server, top_logprobs=20) as engine,
        pytest.raises(EngineError, match=r"the server tells no .*set simulator\.samples"),
    ):
        digits(engine)


@pytest.mark.parametrize("obeys", [True, False])
def test_drawn_answers_are_counted_and_their_number_is_said(server: Server, obeys: bool) -> None:
    """A server that draws one answer a request whatever ``n`` says is asked for the rest."""
    drawn = ["7", " 7", "7\n", "Well", "9"]

    def says(body: dict) -> dict:
        count, first = (body["n"], 0) if obeys else (1, body["seed"])
        some = [message(text)["choices"][0] for text in drawn[first : first + count]]
        return {"choices": some, "usage": USAGE}

    server.says = says
    with chatting(server, samples=5) as engine:
        found = digits(engine)
        assert engine.label == "chat server, 5 drawn answers counted"
        assert engine.usage.prompts == 1
        assert engine.usage.prompt_tokens == (100 if obeys else 500)
    np.testing.assert_allclose(found.probabilities[0, 0, [7, 9]], [0.75, 0.25])
    np.testing.assert_allclose(found.mass, 0.8)
    assert server.asked[0]["temperature"] == 1.0 and "logprobs" not in server.asked[0]


def test_draws_without_any_digit_are_an_error_that_quotes_one(server: Server) -> None:
    server.says = lambda body: message("I cannot")
    with (
        chatting(server, samples=2) as engine,
        pytest.raises(EngineError, match=r"none of 2 drawn answers is one of 0.*'I cannot'"),
    ):
        digits(engine)


# ── what replies lack ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ({"usage": None}, r"does not say what a reply took \(usage\)"),
        ({"choices": []}, "reply has no choices"),
        ({"choices": [{"message": {"content": "x"}}]}, r"lacks .*KeyError: 'finish_reason'"),
        (
            {"choices": [{"message": {"content": "x"}, "finish_reason": None}]},
            r"how its reply ended \(finish_reason\): it was cut off",
        ),
    ],
)
def test_an_entry_that_is_missing_is_named(server: Server, reply: dict, says: str) -> None:
    server.says = lambda body: message("x") | reply
    with chatting(server) as engine, pytest.raises(EngineError, match=says):
        engine.generate([prompt(engine.tokenizer, "x")], max_tokens=9)


def test_replies_without_token_ids_are_read_by_the_tokenizer_here(server: Server) -> None:
    choice = {"text": "the", "finish_reason": "length"}
    server.says = lambda body: {"choices": [choice], "usage": USAGE}
    with completing(server) as engine:
        [reply] = engine.generate([Prompt((1,), (2,))], max_tokens=4)
        assert reply.tokens == text_tokens(engine.tokenizer, "the") and not reply.finished


# ── busy, limited, cut off ────────────────────────────────────────────────────────────────────


def once(server: Server, status: int | None) -> None:
    """The first request fails."""
    server.hook = lambda body: status if len(server.asked) == 1 else 200
    server.says = lambda body: message("7", [("7", {"7": 1.0})])


@pytest.mark.parametrize("chunked", [True, False])
def test_an_answer_that_ends_half_way_is_asked_for_again(server: Server, chunked: bool) -> None:
    once(server, None)
    server.chunked = chunked
    with chatting(server, top_logprobs=5) as engine:
        assert digits(engine).probabilities[0, 0, 7] == 1
    assert len(server.asked) == 2


@pytest.mark.parametrize("dated", [True, False])
def test_a_limited_server_is_given_the_time_it_asks_for(
    server: Server, dated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("rewrite_utils.llm.address.time.sleep", waited.append)
    once(server, 429)
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    server.headers = {"Retry-After": later if dated else "40"}
    with chatting(server, top_logprobs=5) as engine:
        assert digits(engine).probabilities[0, 0, 7] == 1
    assert len(waited) == 1 and 37 < waited[0] <= 40


def test_a_limit_for_hours_is_not_waited_for(server: Server) -> None:
    server.hook = lambda body: 429
    server.headers = {"Retry-After": "7200"}
    with (
        chatting(server, top_logprobs=5) as engine,
        pytest.raises(EngineDied, match=r"status 429: .*asks to wait 7,200 s, more than 300"),
    ):
        digits(engine)
    assert len(server.asked) == 1


# ── the key ───────────────────────────────────────────────────────────────────────────────────


def test_the_key_is_sent_and_shown_nowhere(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SOME_LLM_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    server.says = lambda body: message("7", [("7", {"7": 1.0})])
    with chatting(server, key_variable="SOME_LLM_KEY", top_logprobs=5) as engine:
        digits(engine)
        assert set(server.keys) == {f"Bearer {KEY}"}
        server.hook = lambda body: f"401 for {KEY}"
        with pytest.raises(
            EngineError, match=r"401: .*no: 401 for ….*simulator\.key_variable"
        ) as error:
            digits(engine)
    assert KEY not in f"{error.value}{caplog.text}{vars(engine)}{engine._llm.model_dump_json()}"
    assert server.keys[-1] == f"Bearer {KEY}"


def test_a_key_that_is_not_there_is_named_before_anything_is_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOME_LLM_KEY", raising=False)
    with pytest.raises(ValueError, match="environment variable SOME_LLM_KEY is not set"):
        chatting(server, key_variable="SOME_LLM_KEY")
    assert server.keys == []


@pytest.mark.parametrize(
    "section",
    [{"key_variable": KEY}, {"address": f"https://me:{KEY}@some.host/v1"}],
)
def test_a_key_written_into_the_parameters_is_refused_and_not_repeated(section: dict) -> None:
    raw = {"name": "x", "sites": {"s": {"hookpoint": "layers.0.mlp", "latents": 8, "k": 2}}}
    llm = {"model": "m", "engine": "server", "endpoint": "chat"} | section
    with pytest.raises((ParameterError, ValueError), match=r"put the key into") as error:
        open_engine(parse(raw | {"simulator": llm}).simulator)
    assert KEY not in str(error.value)


# ── what it costs ─────────────────────────────────────────────────────────────────────────────


def test_a_plan_counts_whole_prompts_for_a_server_and_no_hours() -> None:
    raw = {"name": "x", "sites": {"s": {"hookpoint": "layers.0.mlp", "latents": 8, "k": 2}}}
    hosted = {"model": "gpt-9", "engine": "server", "address": "https://some.host/v1"}
    here, there = (
        {cost.stage: cost for cost in costs(parse(raw | more))}
        for more in ({}, {"simulator": hosted, "explainer": hosted})
    )
    for stage in ("03_explanations", "04_scores", "05_simulation"):
        assert there[stage].predictions == here[stage].predictions
        assert there[stage].tokens > 1.2 * here[stage].tokens
        assert there[stage].flops == 0 and not there[stage].memory
    machine = Machine({"float32": 1e11, "bfloat16": 1e12}, 24e9, 50e9, "2 threads")
    text = plan_of(parse(raw | {"simulator": hosted, "explainer": hosted}), machine)
    assert "simulator  gpt-9, asked at https://some.host/v1" in text
    assert "whole prompts are sent to https://some.host/v1" in text


def test_what_will_be_and_what_was_asked_is_said_in_tokens(tmp_path: Any) -> None:
    raw = {"name": "x", "sites": {"s": {"hookpoint": "layers.0.mlp", "latents": 8, "k": 2}}}
    hosted = {"model": "gpt-9", "engine": "server", "address": "https://some.host/v1"}
    params = parse(raw | {"simulator": hosted})
    simulation = {cost.stage: cost for cost in costs(params)}["05_simulation"]
    assert simulation.predictions == 100 * 8
    said = spending.ahead([params.explainer, params.simulator], lambda: costs(params))
    assert f"gpt-9 at https://some.host/v1: about {simulation.tokens:,.0f} tokens" in said
    assert "800 answers" in said
    assert spending.ahead([params.explainer], list) == ""
    made = {"stage": "05_x", "hash": "abc", "made": True}
    (tmp_path / "stages" / "05_x-abc").mkdir(parents=True)
    usage = {"prompts": 2, "prompt_tokens": 3000, "generated_tokens": 8}
    manifest = tmp_path / "stages" / "05_x-abc" / "manifest.json"
    manifest.write_text(json.dumps({"facts": {"usage": usage}}))
    assert spending.spent(tmp_path, [made | {"made": False}]) == ""
    told = spending.spent(tmp_path, [made])
    assert told.startswith("LLMs were asked 2 prompts of 3,000 tokens") and "wrote 8" in told


def test_a_context_beyond_the_models_positions_is_an_error_of_the_plan_and_of_the_engine(
    tiny_folder: Any,
) -> None:
    config = json.loads((tiny_folder / "config.json").read_text())
    most = config["max_position_embeddings"]
    llm = {"model": str(tiny_folder), "engine": "transformers", "context": most + 1}
    says = f"context = {most + 1:,} is more than the {most:,} positions that .* has: set {most}"
    with pytest.raises(ValueError, match=says):
        open_engine(LLM(**llm))

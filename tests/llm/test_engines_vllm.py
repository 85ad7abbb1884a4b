"""The vLLM engine's process: a stand-in ``vllm`` package, the real parent, worker and socket.

The stand-in's log-probability of an option is minus the option times the prompt's length; its token
99 kills the process, 98 sleeps for a second, 97 raises.
"""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from rewrite_utils.llm import kept
from rewrite_utils.llm.protocol import EngineDied, EngineError, Generation, Prompt
from rewrite_utils.llm.vllm import VLLMEngine, child_environment

FAKE = """
import os, signal, time
from types import SimpleNamespace as Record


class SamplingParams:
    def __init__(self, **given):
        self.__dict__.update(given)


class LLM:
    def __init__(self, **given):
        print("loading", given["model"])
        if given["model"] == "missing":
            raise OSError("no weights in missing")
        self.given = given

    def reset_prefix_cache(self):
        return True

    def generate(self, prompts, sampling, use_tqdm):
        each = sampling if isinstance(sampling, list) else [sampling] * len(prompts)
        return [self.answer(p["prompt_token_ids"], s) for p, s in zip(prompts, each)]

    def answer(self, tokens, sampling):
        if 99 in tokens:
            os.kill(os.getpid(), signal.SIGKILL)
        if 98 in tokens:
            time.sleep(1)
        if 97 in tokens:
            raise RuntimeError("the scheduler stumbled")
        reply = Record(text="", token_ids=[1], finish_reason="length", logprobs=None)
        if options := getattr(sampling, "logprob_token_ids", None):
            assert options == sampling.allowed_token_ids and sampling.temperature == 0
            rows = [[-1.0, *(-float(o * (len(tokens) + i)) for o in options)]
                    for i in range(sampling.max_tokens)]
            ids = [[options[0], *options] for _ in rows]
            if 96 in tokens:
                ids[0][1] += 1
            if 95 in tokens:
                rows[0][1] = float("nan")
            reply.logprobs = Record(logprobs=sum(rows, []), token_ids=sum(ids, []))
            reply.token_ids = [options[0]] * len(rows)
        else:
            reply.text, reply.finish_reason = f"seed {sampling.seed}", "stop"
        return Record(prompt_token_ids=tokens, num_cached_tokens=2, outputs=[reply])
"""
SETTINGS = {
    "model": "some",
    "dtype": "float32",
    "max_model_len": 64,
    "kv_cache_memory_bytes": 2**20,
    "block_size": 32,
}


@pytest.fixture
def opened(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., VLLMEngine]]:
    """Opens engines on the stand-in, and closes them."""
    (tmp_path / "vllm.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    engines: list[VLLMEngine] = []

    def make(**changed: object) -> VLLMEngine:
        engine = VLLMEngine(
            tokenizer,
            vocab_size=320,
            settings=SETTINGS | changed,
            environment=child_environment("some", threads=1, cuda=False),
        )
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def alive(pid: int) -> bool:
    """Whether the process is there and not a zombie."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def gone(pid: int, *, within: float = 5.0) -> bool:
    """Whether the process leaves in time."""
    limit = time.monotonic() + within
    while alive(pid) and time.monotonic() < limit:
        time.sleep(0.05)
    return not alive(pid)


def test_answers_come_back_to_their_prompts_and_are_counted(
    opened: Callable[..., VLLMEngine],
) -> None:
    engine = opened()
    dice = np.random.default_rng(0)
    prompts = [Prompt((1,) * int(dice.integers(5)), (2,) * (1 + row % 3)) for row in range(600)]
    choices = engine.choices(prompts, options=[1, 3], answers=2)
    lengths = np.array([len(prompt.shared + prompt.own) for prompt in prompts])[:, None] + [0, 1]
    both = np.exp(-lengths[..., None] * [1.0, 3.0])
    np.testing.assert_allclose(choices.mass, both.sum(-1), rtol=1e-5)
    np.testing.assert_allclose(choices.probabilities, both / both.sum(-1, keepdims=True), rtol=1e-5)
    assert engine.usage._replace(seconds=0) == (600, lengths[:, 0].sum(), 1200, 1200, 0)


def test_generation_is_passed_on_with_a_seed_for_each_prompt(
    opened: Callable[..., VLLMEngine],
) -> None:
    replies = opened().generate([Prompt((), (1,))] * 3, max_tokens=4, temperature=1.0, seed=5)
    assert replies[0] == Generation(replies[0].text, (1,), True)
    assert len({reply.text for reply in replies}) == 3


def test_loading_that_fails_shows_the_log(opened: Callable[..., VLLMEngine]) -> None:
    with pytest.raises(EngineDied, match=r"(?s)exit code 1.*OSError: no weights in missing"):
        opened(model="missing")


@pytest.mark.parametrize(
    ("token", "reason"),
    [(99, "exit code -9"), (97, "(?s)exit code 1.*stumbled"), (96, "(?s)asked for the log-prob")],
)
def test_a_death_is_an_error_with_its_cause_and_stays_one(
    opened: Callable[..., VLLMEngine], tmp_path: Path, token: int, reason: str
) -> None:
    engine = opened()
    with pytest.raises(EngineDied, match=reason):
        engine.choices([Prompt((), (token,))], options=[1, 2])
    with pytest.raises(EngineDied, match="closed"):
        engine.choices([Prompt((), (1,))], options=[1, 2])
    assert gone(engine.pid)
    assert not list(tmp_path.glob("*.log"))


def test_a_nan_is_an_error_and_the_engine_lives_on(opened: Callable[..., VLLMEngine]) -> None:
    engine = opened()
    with pytest.raises(EngineError, match="prompt 1, answer 0"):
        engine.choices([Prompt((), (1,)), Prompt((), (95,))], options=[1, 2])
    assert engine.choices([Prompt((), (1,))], options=[1, 2]).mass[0, 0] > 0


def test_after_an_interrupt_the_old_answer_is_dropped(opened: Callable[..., VLLMEngine]) -> None:
    engine = opened()
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    old = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.choices([Prompt((), (98,))], options=[1, 2])
    finally:
        signal.signal(signal.SIGALRM, old)
    mass = engine.choices([Prompt((), (1, 1, 1))], options=[1, 2]).mass[0, 0]
    np.testing.assert_allclose(mass, np.exp(-3) + np.exp(-6), rtol=1e-5)


def test_closing_twice_ends_the_child_quickly_and_leaves_nothing(
    opened: Callable[..., VLLMEngine], tmp_path: Path
) -> None:
    engine = opened()
    start = time.monotonic()
    engine.close()
    engine.close()
    assert time.monotonic() - start < 3
    assert not alive(engine.pid)
    assert not list(tmp_path.glob("*.log"))


def test_a_forgotten_engine_ends_with_its_last_reference(
    opened: Callable[..., VLLMEngine],
) -> None:
    engine = opened()
    pid, cell = engine.pid, opened.__closure__
    assert cell is not None
    next(c.cell_contents for c in cell if isinstance(c.cell_contents, list)).clear()
    del engine
    gc.collect()
    assert gone(pid)


@pytest.mark.parametrize("leave", ["pass", "os.kill(os.getpid(), 9)"])
def test_the_child_leaves_with_its_parent(
    opened: Callable[..., VLLMEngine], tmp_path: Path, leave: str
) -> None:
    script = f"""
import os
from rewrite_utils.llm.vllm import VLLMEngine, child_environment
engine = VLLMEngine(None, vocab_size=9, settings={SETTINGS!r},
                    environment=child_environment("some", threads=1, cuda=False))
print(engine.pid, flush=True)
{leave}
"""
    here = Path(__file__).parents[2]
    path = f"{tmp_path}{os.pathsep}{here}"
    environment = os.environ | {"PYTHONPATH": path, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout, done.stderr
    assert gone(int(done.stdout)), done.stderr
    assert not list(tmp_path.glob("*.log"))


def test_a_kept_child_answers_those_who_come_later_and_two_at_once(
    opened: Callable[..., VLLMEngine], tmp_path: Path
) -> None:
    with kept.keeping(str(tmp_path)):
        first = opened()
        first.close()
        assert alive(first.pid)
        second, third, other = opened(), opened(), opened(max_model_len=128)
        assert first.pid == second.pid == third.pid != other.pid
        for engine in (second, third, second):
            mass = engine.choices([Prompt((), (1, 1, 1))], options=[1, 2]).mass[0, 0]
            np.testing.assert_allclose(mass, np.exp(-3) + np.exp(-6), rtol=1e-5)
        second.close()
        assert third.generate([Prompt((), (1,))], max_tokens=4)
        with pytest.raises(EngineDied, match="exit code unknown"):
            third.choices([Prompt((), (99,))], options=[1, 2])
        assert opened().pid != first.pid, "a dead one is started anew"
    assert gone(other.pid), "the end of the keeping is everybody's end"
    assert kept.FOLDER not in os.environ


def test_a_kept_child_outlives_who_started_it_and_ends_with_who_keeps_it(
    opened: Callable[..., VLLMEngine], tmp_path: Path
) -> None:
    asks = f"""
import os
from rewrite_utils.llm.vllm import VLLMEngine, child_environment
engine = VLLMEngine(None, vocab_size=9, settings={SETTINGS!r},
                    environment=child_environment("some", threads=1, cuda=False))
print(engine.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    keeps = f"""
import os, subprocess, sys
from rewrite_utils.llm import kept
with kept.keeping({str(tmp_path)!r}):
    for _ in range(2):
        subprocess.run([sys.executable, "-c", {asks!r}])
    os.kill(os.getpid(), 9)
"""
    here = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{here}"}
    done = subprocess.run(
        [sys.executable, "-c", keeps], env=environment, capture_output=True, text=True, timeout=90
    )
    first, second = map(int, done.stdout.split())
    assert first == second, done.stderr
    assert gone(first)


def test_the_childs_environment_stays_the_childs(opened: Callable[..., VLLMEngine]) -> None:
    before = dict(os.environ)
    opened()
    assert dict(os.environ) == before
    cpu = child_environment("no-folder", threads=1, cuda=False)
    gpu = child_environment(str(Path(__file__).parent), threads=1, cuda=True)
    assert cpu["OMP_NUM_THREADS"] == "1"
    assert cpu["OMP_WAIT_POLICY"] == "passive"
    assert gpu.get("OMP_WAIT_POLICY") == before.get("OMP_WAIT_POLICY")
    assert gpu["HF_HUB_OFFLINE"] == "1"
    assert cpu.get("HF_HUB_OFFLINE") == before.get("HF_HUB_OFFLINE")

"""The Ray engine on a local cluster of two workers, one of which is killed."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from latent_cases import TEMPLATE, chatting_tokenizer
from transformers import AutoTokenizer

ray = pytest.importorskip("ray")

from rewrite_utils.llm.opening import open_engine  # noqa: E402
from rewrite_utils.llm.protocol import EngineDied, EngineError, Prompt  # noqa: E402
from rewrite_utils.llm.ray import RayEngine, placed  # noqa: E402
from rewrite_utils.llm.transformers import TransformersEngine  # noqa: E402
from rewrite_utils.params import LLM, Simulate  # noqa: E402
from rewrite_utils.simulate import Window, open_simulator, simulate  # noqa: E402

SETTINGS = {"dtype": "float32", "max_tokens": 4096, "threads": 1, "memory_gb": 0.5}
WINDOWS = [Window.of(["the ", word]) for word in "abcdefghijklmnopqrst"]
SENTENCES = {2: "a, b", 7: "letters", 9: "nothing"}


@pytest.fixture(scope="module", autouse=True)
def once(architecture: str) -> None:
    """One architecture is enough here, and one cluster."""
    if architecture != "llama":
        pytest.skip("the same for every architecture")


@pytest.fixture(scope="module")
def cluster(once: None) -> Iterator[None]:
    here = Path(__file__).parents[2]
    path = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    copy = tmp_path_factory.mktemp("ray") / "model"
    shutil.copytree(tiny_folder, copy)
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(copy)
    return str(copy)


@pytest.fixture(scope="module")
def engine(cluster: None, folder: str) -> Iterator[RayEngine]:
    found = open_engine(spread(folder, workers=2))
    assert isinstance(found, RayEngine) and found.workers == 2
    yield found
    found.close()


def spread(folder: str, *, workers: int) -> LLM:
    """The settings of one engine, over so many workers."""
    same = {"dtype": "float32", "context": 2048, "threads": 1, "memory_gb": 0.5}
    return LLM(model=folder, engine="ray", worker_engine="transformers", workers=workers, **same)


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def run(engine: Any, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    simulator = open_simulator(Simulate(align=8), engine)
    how = {"name": "test", "least_mass": 0.0}  # random weights care little for digits
    simulate(WINDOWS, SENTENCES, simulator, folder=folder, **how)
    return bytes_of(folder)


def test_two_workers_one_killed_midway_nothing_lost_bytes_equal(
    engine: RayEngine, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TransformersEngine.load(folder, **SETTINGS) as single:
        wanted = run(single, tmp_path / "single")
    assert run(engine, tmp_path / "two") == wanted
    before = set(pids(engine))
    blocks: list[int] = []

    def killing(*_: Any) -> dict[str, str]:
        """Called behind every block, while the next ones are being asked."""
        blocks.append(len(list((tmp_path / "killed").glob("block-*.npz"))))
        if len(blocks) == 1:
            os.kill(min(before), signal.SIGKILL)
        return {}

    monkeypatch.setattr("rewrite_utils.simulate.running._speed", killing)
    assert run(engine, tmp_path / "killed") == wanted
    assert len(blocks) == 5
    after = set(pids(engine))
    assert len(before & after) == 1 and len(after) == 2
    assert engine.usage.prompts == 2 * len(WINDOWS) * len(SENTENCES)


def pids(engine: RayEngine) -> list[int]:
    found = [actor.__ray_call__.remote(lambda worker: os.getpid()) for actor in engine._actors]
    return ray.get(found)


def test_answers_are_those_of_one_engine(engine: RayEngine, folder: str) -> None:
    prompts = [Prompt((5, 6, 7), (row, 9)) for row in range(1, 9)]
    with TransformersEngine.load(folder, **SETTINGS) as single:
        wanted = single.choices(prompts, options=[3, 4], answers=2)
        inside = single.choices_inside(prompts, at=[[0, 1]] * 8, options=[3, 4])
        texts = single.generate(prompts, max_tokens=3, temperature=1.0, seed=4)
    found = engine.choices(prompts, options=[3, 4], answers=2)
    np.testing.assert_allclose(found.probabilities, wanted.probabilities, rtol=1e-5)
    found = engine.choices_inside(prompts, at=[[0, 1]] * 8, options=[3, 4])
    np.testing.assert_allclose(found.probabilities, inside.probabilities, rtol=1e-5)
    assert engine.generate(prompts, max_tokens=3, temperature=1.0, seed=4) == texts


def test_more_workers_than_the_cluster_holds_is_an_error_and_not_a_wait(
    cluster: None, folder: str
) -> None:
    with pytest.raises(ValueError, match="64 workers of 1 threads do not fit"):
        open_engine(spread(folder, workers=64))


@pytest.mark.parametrize(
    ("machines", "workers", "threads", "wanted"),
    [
        ([{"CPU": 2.0}], 2, None, (1, 0)),
        ([{"CPU": 8.0}], 2, None, (4, 0)),
        ([{"CPU": 8.0}, {"CPU": 4.0}], 2, None, (4, 0)),
        ([{"CPU": 8.0}, {"CPU": 4.0}], 3, 3, (3, 0)),
        ([{"CPU": 16.0, "GPU": 4.0}, {"CPU": 64.0}], 4, None, (4, 1)),
    ],
)
def test_workers_share_the_cores_and_have_a_gpu_each(
    machines: list, workers: int, threads: int | None, wanted: tuple
) -> None:
    assert placed(machines, workers=workers, threads=threads) == wanted


@pytest.mark.parametrize(
    ("machines", "workers", "threads"),
    [
        ([{"CPU": 3.0}, {"CPU": 3.0}], 3, 2),  # 6 CPUs, but on no machine is room for a third
        ([{"CPU": 16.0, "GPU": 1.0}], 2, 1),
    ],
)
def test_workers_without_a_place_are_an_error(machines: list, workers: int, threads: int) -> None:
    with pytest.raises(ValueError, match=r"do not fit the Ray cluster \(.*lower simulator.workers"):
        placed(machines, workers=workers, threads=threads)


class Dying:
    """Stands for an actor whose process is gone at every call."""

    class call:
        @staticmethod
        def remote(*_: Any) -> Any:
            raise ray.exceptions.RayActorError(error_msg="out of memory")


def test_a_call_that_kills_every_worker_ends_with_its_cause() -> None:
    started = []

    def start() -> Dying:
        started.append(1)
        return Dying()

    engine = RayEngine(chatting_tokenizer(), vocab_size=9, max_tokens=9, start=start, workers=1)
    with pytest.raises(EngineDied, match="3 Ray workers died over the same 1 prompts"):
        engine.choices([Prompt((), (1,))], options=[1])
    assert len(started) == 1 + 3
    engine._actors = []
    with pytest.raises(EngineDied, match="closed"):
        engine.choices([Prompt((), (1,))], options=[1])


def test_a_workers_own_error_is_passed_on(engine: RayEngine) -> None:
    with pytest.raises(EngineError, match="a Ray worker failed"):
        engine._call("_choices", [Prompt((), (1,))], [400_000], 1)

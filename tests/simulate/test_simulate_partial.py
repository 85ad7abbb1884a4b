"""Part of a simulation now, the rest later: limits, latents, screening, orders, deaths, kill -9."""

import itertools
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import tqdm as tqdms
from latent_cases import FakeEngine
from test_simulate import DESCRIPTIONS, LATENTS, SHOWN, WINDOWS, bytes_of, digit_of, run

from rewrite_utils.calibrate import CalibrationError, Target
from rewrite_utils.llm.protocol import EngineDied, EngineError, Usage
from rewrite_utils.params import Simulate
from rewrite_utils.rewrite.estimates import Evidence
from rewrite_utils.simulate import (
    ExplanationError,
    Layout,
    Window,
    open_simulator,
    read_engines,
    read_everywhere,
    read_ratings,
    read_sent,
    simulate,
)

SENT = np.random.default_rng(3).random((len(WINDOWS), len(LATENTS))) < 0.4


def right(ratings):
    """Whether every rating that is there stands at its window and sentence."""
    for (i, window), (j, sentence) in itertools.product(enumerate(SHOWN), enumerate(DESCRIPTIONS)):
        if not np.isnan(ratings.expected[i, j]):
            digit = digit_of(window, sentence)
            assert ratings.digits[i, j, digit] == pytest.approx(2 / 3, abs=1e-3)


@pytest.mark.parametrize("layout", ["window_first", "explanation_first", "original"])
def test_every_order_gives_the_same_ratings_and_shares_what_comes_first(tmp_path, layout):
    llm = run(tmp_path / layout, layout=layout, rate=either_order)
    right(read_ratings(tmp_path / layout))
    keys = [prompt.shared for prompt in llm.prompts]
    changes = len(list(itertools.groupby(keys)))
    assert changes == len(set(keys)) == {"window_first": 9, "explanation_first": 4}.get(layout, 1)
    assert len(llm.asked) == 36


def either_order(text, answer):
    """The fake simulator, whatever the order of the question's parts."""
    question = text.split("<|user|>")[-1]
    window = next(
        i
        for i, (shown, _) in enumerate(SHOWN)
        if f"{shown}\n" in question or (f"{shown}<|end|>" in question)
    )
    sentence = next(text for text in DESCRIPTIONS if f": {text}" in question)
    p = np.zeros(10)
    digit = digit_of(SHOWN[window], sentence)
    p[digit], p[(digit + 1) % 10] = 1 / 3, 1 / 6
    return p


@pytest.mark.parametrize("layout", ["window_first", "explanation_first"])
def test_latents_first_and_the_rest_later_end_with_the_same_bytes(tmp_path, layout):
    part = run(tmp_path / "part", latents=(5, 9), layout=layout, rate=either_order)
    assert len(part.asked) == 2 * len(WINDOWS)
    assert not (tmp_path / "part" / "predictions.zarr").exists()
    again = run(tmp_path / "part", latents=(5, 8), layout=layout, rate=either_order)
    assert len(again.asked) == len(WINDOWS)
    rest = run(tmp_path / "part", layout=layout, rate=either_order)
    assert len(rest.asked) == len(WINDOWS)
    run(tmp_path / "whole", layout=layout, rate=either_order)
    assert bytes_of(tmp_path / "part") == bytes_of(tmp_path / "whole")


def test_an_unknown_latent_is_named_and_nothing_is_asked(tmp_path):
    with pytest.raises(ValueError, match=r"latent 4 has no sentence here; use some of 3, 5, 8, 9$"):
        run(tmp_path, latents=(3, 4))
    assert bytes_of(tmp_path) == {}


def test_what_screening_leaves_out_is_never_asked_and_never_a_number(tmp_path):
    llm = run(tmp_path, sent=SENT)
    assert len(llm.asked) == SENT.sum() > 0
    ratings = read_ratings(tmp_path)
    np.testing.assert_array_equal(np.isnan(ratings.expected), ~SENT)
    np.testing.assert_array_equal(np.isnan(ratings.digits).all(-1), ~SENT)
    np.testing.assert_array_equal(read_sent(tmp_path), SENT)
    right(ratings)


def test_a_block_that_is_screened_out_whole_costs_nothing(tmp_path):
    sent = SENT.copy()
    sent[4:8] = False
    llm = run(tmp_path, sent=sent)
    assert llm.calls == 2
    np.testing.assert_array_equal(np.isnan(read_ratings(tmp_path).expected), ~sent)


def test_without_screening_all_were_sent_and_a_missing_rating_is_an_error(tmp_path):
    run(tmp_path)
    assert read_sent(tmp_path).all()
    chunk = next((tmp_path / "predictions.zarr" / "expected").rglob("c/0/0"))
    chunk.unlink()
    with pytest.raises(ValueError, match="NaN for pairs that were rated"):
        zeros_are_missing(tmp_path)


def zeros_are_missing(folder):
    """A lost chunk reads as zarr's fill value; the group says it is not a rating."""
    return read_ratings(folder)


def test_an_explanation_longer_than_the_context_is_named_before_anything_is_asked(tmp_path):
    llm = FakeEngine(rate=either_order)
    simulator = open_simulator(Simulate(align=8), llm)
    long = LATENTS | {11: "very " * 5000}
    with pytest.raises(ExplanationError, match=r"explanation of latent 11 .* context of 4096"):
        simulate(WINDOWS, long, simulator, folder=tmp_path, name="test")
    assert llm.asked == [] and bytes_of(tmp_path) == {}


@pytest.mark.parametrize("layout", ["window_first", "explanation_first", "original"])
def test_room_is_measured_on_the_window_of_most_tokens_and_not_of_most_letters(layout):
    llm = FakeEngine()
    wide, dense = Window.of([" the" * 20]), Window.of(["é" * 30])
    prompt = Layout(llm.tokenizer, align=8, order=layout).prompt(dense, "x")
    assert len(dense.text) < len(wide.text)
    simulator = open_simulator(Simulate(align=8, layout=layout), llm)
    needed = len(prompt.shared) + len(prompt.own) + 1
    for context, fits in ((needed, True), (needed - 1, False)):
        llm.context = context
        if fits:
            simulator.check([wide, dense], {1: "x"})
        else:
            with pytest.raises(ExplanationError, match="explanation of latent 1 makes a prompt"):
                simulator.check([wide, dense], {1: "x"})


def test_an_engine_that_dies_midway_leaves_its_finished_blocks_and_no_zeros(tmp_path):
    class Dying(FakeEngine):
        def choices(self, prompts, **how):
            if self.calls == 2:
                raise EngineDied("the process is gone")
            return super().choices(prompts, **how)

    simulator = open_simulator(Simulate(align=8), Dying(rate=either_order))
    (tmp_path / "part").mkdir()
    with pytest.raises(EngineDied):
        simulate(WINDOWS, LATENTS, simulator, folder=tmp_path / "part", name="test")
    assert set(bytes_of(tmp_path / "part")) == {"block-000000.npz", "block-000004.npz"}
    run(tmp_path / "part", rate=either_order)
    run(tmp_path / "whole", rate=either_order)
    assert bytes_of(tmp_path / "part") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("left", [0, 200])
def test_a_truncated_block_is_named_and_asked_again(tmp_path, left):
    run(tmp_path / "part", limit=2)
    with (tmp_path / "part" / "block-000000.npz").open("r+b") as file:
        file.truncate(left)
    with pytest.warns(UserWarning, match=r"block-000000.npz is damaged, not used"):
        run(tmp_path / "part")
    run(tmp_path / "whole")
    assert bytes_of(tmp_path / "part") == bytes_of(tmp_path / "whole")


def test_mistake_ten_is_no_digit_and_a_stray_token_does_not_dilute(tmp_path):
    """In the original "10" counted as a digit and the sum was not renormalised."""
    run(tmp_path, rate=lambda text, answer: 0.2 * np.eye(10)[7], least_mass=0.1)
    ratings = read_ratings(tmp_path)
    assert (ratings.expected == 7).all() and ratings.digits.shape[-1] == 10
    np.testing.assert_allclose(ratings.mass, 0.2, atol=1e-3)


def test_progress_shows_predictions_and_tokens_a_second_cached_share_and_time_left(
    tmp_path, monkeypatch
):
    class Counting(FakeEngine):
        def spent(self):
            n = len(self.asked)
            return Usage(n, 100 * n, 60 * n, n, 0.5 * n)

    lines = []

    class Bar(tqdms.tqdm):
        def set_postfix(self, *given, **more):
            super().set_postfix(*given, **more)
            lines.append(str(self))

    monkeypatch.setattr("rewrite_utils.simulate.running.tqdm", Bar)
    simulator = open_simulator(Simulate(align=8), Counting(rate=either_order))
    simulate(WINDOWS, LATENTS, simulator, folder=tmp_path, name="early, calibrate")
    assert "simulation of early, calibrate" in lines[-1]
    assert "prompts/s=2.0" in lines[-1] and "tokens/s=80" in lines[-1] and "cached=60%" in lines[-1]
    assert "prediction/s" in lines[-1] or "s/prediction" in lines[-1]
    assert "<" in lines[-1]  # elapsed<left


def test_time_left_and_speed_count_only_what_is_done_now(tmp_path, monkeypatch):
    """After a kill the finished blocks take no time: counted as speed, the rest would seem done."""
    bars = []

    class Bar(tqdms.tqdm):
        def __init__(self, *given, **more):
            super().__init__(*given, **more)
            bars.append((self.initial, self.total))

    class Busy(FakeEngine):
        """One that has answered other questions before."""

        def spent(self):
            n = len(self.asked)
            return Usage(1000 + n, 10 * n, 0, n, 5000 + 2.0 * n)

    lines = []
    monkeypatch.setattr(Bar, "set_postfix", lambda self, told: lines.append(told))
    monkeypatch.setattr("rewrite_utils.simulate.running.tqdm", Bar)
    run(tmp_path, rate=either_order, limit=2)
    simulator = open_simulator(Simulate(align=8), Busy(rate=either_order))
    simulate(WINDOWS, LATENTS, simulator, folder=tmp_path, name="test")
    assert bars == [(0, 32), (32, 36)]
    assert lines[-1]["prompts/s"] == "0.5"


def test_nan_from_a_simulator_of_another_kind_is_an_error_and_not_written(tmp_path):
    class Broken:
        latents_outside, workers, usage = False, 1, Usage()

        def check(self, windows, descriptions): ...

        def rate(self, pairs):
            expected = np.ones(len(pairs), np.float16)
            expected[-1] = math.nan
            return {"expected": expected}

    with pytest.raises(ValueError, match="the simulator's expected is NaN"):
        simulate(WINDOWS, LATENTS, Broken(), folder=tmp_path, name="test")
    assert bytes_of(tmp_path) == {}


class Trained:
    """Another simulator behind the same protocol: one number a token, from sentence and text."""

    latents_outside, workers, usage = True, 1, Usage()

    def check(self, windows, descriptions): ...

    def rate(self, pairs):
        every = np.array(
            [[(len(piece) + len(text)) / 2 for piece in window.pieces] for window, text in pairs]
        )
        every = every.astype(np.float16)
        return {"expected": every[:, -1], "everywhere": every}


def test_a_simulator_of_another_kind_plugs_in_behind_the_same_artefact(tmp_path):
    simulate(WINDOWS, LATENTS, Trained(), folder=tmp_path, name="test")
    ratings, every = read_ratings(tmp_path), read_everywhere(tmp_path)
    assert every.shape == (9, 4, 4)
    assert ratings.digits.shape == (9, 4, 10) and ratings.mass.shape == (9, 4)
    assert np.isnan(ratings.digits).all() and np.isnan(ratings.mass).all()
    target = Target.from_true(np.eye(9, 4, dtype=np.float32))
    evidence = Evidence(ratings, np.eye(9, 4, dtype=np.float32), target)
    assert np.isfinite(evidence.calibrated("isotonic", ratings)).all()
    with pytest.raises(CalibrationError, match="digit probabilities must be finite"):
        evidence.calibrated("temperature", ratings)
    np.testing.assert_array_equal(every[..., -1], ratings.expected)
    for (i, window), (j, text) in itertools.product(enumerate(WINDOWS), enumerate(DESCRIPTIONS)):
        wanted = [(len(piece) + len(text)) / 2 for piece in window.pieces]
        np.testing.assert_array_equal(every[i, j], wanted)


def test_last_tokens_only_have_no_ratings_everywhere(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match=r"simulate\.mode: all"):
        read_everywhere(tmp_path)


SCRIPT = """
import sys, time
from pathlib import Path
from test_simulate_partial import *

class Slow(FakeEngine):
    def choices(self, prompts, **how):
        time.sleep(float(sys.argv[2]))
        return super().choices(prompts, **how)

simulator = open_simulator(Simulate(align=8), Slow(rate=either_order))
print("ready", flush=True)
simulate(WINDOWS, LATENTS, simulator, folder=Path(sys.argv[1]), name="test")
"""


def test_kill_minus_nine_and_the_rerun_equal_an_uninterrupted_run(tmp_path):
    """A real process, killed while it waits for the engine with one block written."""
    run(tmp_path / "whole", rate=either_order)
    folder = tmp_path / "killed"
    folder.mkdir()
    here = Path(__file__).parents[1]
    path = os.pathsep.join([str(here.parent), str(here), str(here / "simulate")])
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), "0.4"],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    limit = time.monotonic() + 60
    while not (folder / "block-000000.npz").exists() and time.monotonic() < limit:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert set(bytes_of(folder)) <= {"block-000000.npz", ".block-000004.npz.part"}
    again = run(folder, rate=either_order)
    assert len(again.asked) == 5 * len(LATENTS)
    assert bytes_of(folder) == bytes_of(tmp_path / "whole")


# ── what rated, and whether it answers with digits ────────────────────────────────────────────


def test_the_engine_of_every_block_is_kept(tmp_path):
    run(tmp_path, label="vllm bfloat16")
    assert read_engines(tmp_path) == {"vllm bfloat16": 3}
    (tmp_path / "other").mkdir()
    simulate(WINDOWS, LATENTS, Trained(), folder=tmp_path / "other", name="test")
    assert read_engines(tmp_path / "other") == {"Trained": 1}


def test_mistake_two_engines_in_one_simulation_are_said(tmp_path):
    """A run begun on one and resumed on another mixed both silently."""
    run(tmp_path, label="vllm bfloat16", latents=(3,), limit=2)
    with pytest.warns(UserWarning, match="begun with vllm bfloat16 and goes on with transformers"):
        run(tmp_path, label="transformers bfloat16")
    both = "vllm bfloat16 + transformers bfloat16"
    assert read_engines(tmp_path) == {both: 2, "transformers bfloat16": 1}


def test_one_engine_for_all_blocks_is_not_worth_a_word(tmp_path):
    run(tmp_path, limit=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path)
        run(tmp_path, label="other")  # all is there: nothing is asked


def test_mistake_a_model_that_does_not_answer_with_digits_is_an_error_and_no_number(tmp_path):
    with pytest.raises(
        EngineError, match=r"some/thinker gives the ten digits .* 0\.49 .*simulator"
    ):
        run(tmp_path, rate=lambda text, answer: 0.49 * np.eye(10)[7], tokenizer="some/thinker")
    assert bytes_of(tmp_path) == {}
    run(tmp_path, rate=lambda text, answer: 0.51 * np.eye(10)[7])

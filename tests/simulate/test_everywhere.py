"""All positions in one pass: lines and slots, and every slot against a pass of its own."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from latent_cases import FakeEngine, chatting_tokenizer
from tokenizers import Tokenizer, models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rewrite_utils.llm.protocol import EngineError, Prompt
from rewrite_utils.llm.transformers import TransformersEngine
from rewrite_utils.params import LLM, Simulate
from rewrite_utils.simulate import (
    EveryToken,
    ExplanationError,
    Window,
    open_simulator,
    read_everywhere,
    read_ratings,
    reading,
    simulate,
)
from rewrite_utils.simulate.simulators import DigitReader, digit_strings

ALL = Simulate(mode="all", align=8)
WINDOWS = [Window.of(["On", " the", f" {word}", "\n", "é"]) for word in ("red", "sea", "hat")]
SENTENCES = {2: "colours", 6: "waters"}
ANY = {"name": "test", "least_mass": 0.0}
"""Random weights care little for digits."""


@pytest.fixture
def engine(tiny_folder: Path) -> Iterator[TransformersEngine]:
    with TransformersEngine.load(
        str(tiny_folder), dtype="float32", max_tokens=4096, threads=1, memory_gb=1.0
    ) as engine:
        engine.tokenizer = chatting_tokenizer()
        yield engine


def test_every_place_equals_a_pass_that_ends_there(
    engine: TransformersEngine, plain: PreTrainedModel
) -> None:
    dice = np.random.default_rng(0)
    prompts = [
        Prompt((5, 6, 7) * (row % 3), tuple(dice.integers(1, 300, 6 + row % 4).tolist()))
        for row in range(9)
    ]
    at = [sorted(dice.choice(len(p.own), 3, replace=False).tolist()) for p in prompts]
    found = engine.choices_inside(prompts, at=at, options=[7, 300, 12])
    for row, (prompt, places) in enumerate(zip(prompts, at, strict=True)):
        for answer, place in enumerate(places):
            tokens = prompt.shared + prompt.own[: place + 1]
            with torch.inference_mode():
                logits = plain(torch.tensor([tokens]), use_cache=False).logits[0, -1]
            wanted = logits.log_softmax(-1)[[7, 300, 12]].exp()
            np.testing.assert_allclose(found.mass[row, answer], wanted.sum(), rtol=1e-4)
            np.testing.assert_allclose(
                found.probabilities[row, answer], wanted / wanted.sum(), rtol=1e-4, atol=1e-6
            )
    assert engine.usage.prompts == 9


@pytest.mark.parametrize("at", [[[0], [0, 1]], [[0]], [[5], [0]], [[-1], [0]], [[], []]])
def test_impossible_places_are_refused(engine: TransformersEngine, at: list) -> None:
    with pytest.raises(ValueError, match="place"):
        engine.choices_inside([Prompt((1,), (2, 3)), Prompt((1,), (4,))], at=at, options=[1])


def test_each_token_has_its_line_and_its_slot() -> None:
    simulator = EveryToken(FakeEngine(), align=8, digits=DigitReader.of(chatting_tokenizer()))
    tokenizer = chatting_tokenizer()
    line, places = simulator._slotted(WINDOWS[0])
    assert tokenizer.decode(line) == "\nOn\t0\n the\t0\n red\t0\n⏎\t0\né\t"
    assert [tokenizer.decode([line[place]]) for place in places] == ["\t"] * 5
    before = [tokenizer.decode(line[: place + 1]).split("\n")[-1] for place in places]
    assert before == ["On\t", " the\t", " red\t", "⏎\t", "é\t"]


def test_mistake_a_special_token_in_a_line_is_written_as_a_word() -> None:
    tokenizer = chatting_tokenizer()
    simulator = EveryToken(FakeEngine(), align=8, digits=DigitReader.of(tokenizer))
    line, _ = simulator._slotted(Window.of(["a", "<bos>"]))
    assert tokenizer.bos_token_id not in line
    assert tokenizer.decode(line) == "\na\t0\n[bos]\t"


def test_no_rating_can_depend_on_an_earlier_answer_or_a_later_token(
    engine: TransformersEngine, tmp_path: Path
) -> None:
    """A slot holds the same filler whatever was said; a window's beginning rates as itself."""
    simulator = open_simulator(ALL, engine)
    short = [Window(window.pieces[:3]) for window in WINDOWS]
    for name, windows in (("long", WINDOWS), ("short", short)):
        (tmp_path / name).mkdir()
        simulate(windows, SENTENCES, simulator, folder=tmp_path / name, **ANY)
    long, first = (read_everywhere(tmp_path / name) for name in ("long", "short"))
    assert long.shape == (3, 2, 5)
    np.testing.assert_allclose(long[..., :3], first, atol=2e-3)
    np.testing.assert_array_equal(read_ratings(tmp_path / "long").expected, long[..., -1])


def test_windows_of_several_lengths_are_rated_together_and_each_as_by_itself(
    engine: TransformersEngine,
) -> None:
    """The explorer's own texts and peaks: windows at the beginning of a row are shorter."""
    simulator = open_simulator(ALL, engine)
    windows = [Window(w.pieces[-n:]) for w, n in zip(WINDOWS, (5, 1, 3), strict=True)]
    found = simulator.rate([(window, "colours") for window in windows])
    assert found["everywhere"].shape == (3, 5)
    for row, window in enumerate(windows):
        alone, n = simulator.rate([(window, "colours")]), len(window.pieces)
        np.testing.assert_allclose(found["everywhere"][row, -n:], alone["everywhere"][0], atol=2e-3)
        np.testing.assert_allclose(found["expected"][row], alone["expected"][0], atol=2e-3)
        assert np.isnan(found["everywhere"][row, :-n]).all()
    pairs = [(window, said) for window in windows for said in ("colours", "waters")]
    assert np.isfinite(simulator.rate(pairs)["expected"]).all()


def test_what_is_shared_is_the_sentence(engine: TransformersEngine, tmp_path: Path) -> None:
    simulator = open_simulator(ALL, engine)
    assert simulator.latents_outside
    simulate(WINDOWS, SENTENCES, simulator, folder=tmp_path, **ANY)
    own = [len(simulator._slotted(window)[0]) for window in WINDOWS]  # type: ignore[attr-defined]
    used = engine.usage
    assert used.prompts == 6
    shared = [len(simulator._shared(text)) for text in SENTENCES.values()]  # type: ignore[attr-defined]
    assert all(length % 8 == 0 for length in shared)
    computed = used.prompt_tokens - used.cached_tokens
    assert sum(own) * 2 < computed <= sum(own) * 2 + sum(shared)


def test_an_engine_that_reads_only_behind_the_prompt_says_what_to_use() -> None:
    from stage_cases import FakeLLM  # noqa: PLC0415

    with pytest.raises(EngineError, match=r"simulate\.mode: all.*engine: transformers"):
        open_simulator(ALL, FakeLLM(chatting_tokenizer())).rate([(WINDOWS[0], "colours")])


@pytest.mark.parametrize("engine", ["auto", "vllm", "server", "transformers"])
def test_the_mode_brings_its_engine(engine: str) -> None:
    """Or the run would end at the first rating, after all explanations were made."""
    llm = LLM(engine=engine)
    assert reading(ALL, llm) == LLM(engine="transformers")
    assert reading(Simulate(), llm) == llm
    ray = LLM(engine="ray", address="head:6379", worker_engine="auto")
    assert reading(ALL, ray) == ray.model_copy(update={"worker_engine": "transformers"})


def test_a_description_that_does_not_fit_is_named(engine: TransformersEngine) -> None:
    with pytest.raises(ExplanationError, match="explanation of latent 9"):
        open_simulator(ALL, engine).check(WINDOWS, {9: "long " * 5000})


# ── which tokens are digits ───────────────────────────────────────────────────────────────────


def pieces(*texts: str) -> PreTrainedTokenizerFast:
    """A tokenizer that knows these texts only, and writes no digit behind a colon."""
    vocabulary = {text: number for number, text in enumerate(("x", *texts))}
    model = models.WordLevel(vocab=vocabulary, unk_token="x")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), name_or_path="some/tokenizer")


BLANKS = pieces(*(f" {digit}" for digit in range(10)), "7", "10", "07", "seven")


def test_a_tokenizer_without_digit_tokens_is_named_and_offered_the_digit_strings() -> None:
    with pytest.raises(ValueError, match=r"some/tokenizer.*simulate.digits: strings"):
        DigitReader.of(BLANKS)


def test_every_token_that_reads_as_a_digit_counts_and_ten_is_none() -> None:
    groups = digit_strings(BLANKS)
    assert [len(group) for group in groups] == [1] * 7 + [2] + [1] * 2
    assert groups[7] == [8, 11]
    reader = DigitReader(groups)
    p = np.arange(11.0) / 55
    wanted = [*p[:7], p[7] + p[8], *p[9:]]
    np.testing.assert_allclose(reader.pooled(p), wanted)


def test_a_digit_that_no_token_reads_as_is_an_error() -> None:
    with pytest.raises(ValueError, match="none for 8, 9"):
        digit_strings(pieces(*"01234567"))

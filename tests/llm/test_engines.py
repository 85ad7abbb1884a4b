"""The transformers engine against full forward passes of tiny models, and both engines agreeing."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from rewrite_utils.assets import model_folder
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import EngineDied, EngineError, Prompt
from rewrite_utils.llm.tokens import digit_tokens, text_tokens
from rewrite_utils.llm.transformers import TransformersEngine
from rewrite_utils.llm.vllm import VLLMEngine

OPTIONS = [7, 300, 12]


def random_prompts() -> list[Prompt]:
    """Nested, equal, disjoint and empty shared parts; own parts of different lengths."""
    dice = np.random.default_rng(0)

    def some(count: int) -> tuple[int, ...]:
        return tuple(int(token) for token in dice.integers(1, 320, count))

    base = some(20)
    parts = [base + some(13), (), base, base + some(5), some(9)]
    return [Prompt(parts[row % 5], some(1 + row % 4)) for row in range(15)]


@pytest.fixture
def engine(tiny_folder: Path) -> Iterator[TransformersEngine]:
    with opened(tiny_folder) as engine:
        yield engine


def opened(folder: Path | str, **changed: object) -> TransformersEngine:
    usual = {"dtype": "float32", "max_tokens": 64, "threads": 1, "memory_gb": 1.0}
    return TransformersEngine.load(str(folder), **{**usual, **changed})  # type: ignore[arg-type]


@torch.inference_mode()
def full_logprobs(model: PreTrainedModel, tokens: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities of the next token, by one plain pass without any cache."""
    return model(torch.tensor([tokens]), use_cache=False).logits[0, -1].log_softmax(-1)


def test_shared_prefix_equals_the_full_pass(
    engine: TransformersEngine, plain: PreTrainedModel
) -> None:
    prompts = random_prompts()
    choices = engine.choices(prompts, options=OPTIONS)
    for row, prompt in enumerate(prompts):
        wanted = full_logprobs(plain, prompt.shared + prompt.own)[OPTIONS].exp()
        np.testing.assert_allclose(choices.mass[row, 0], wanted.sum(), rtol=1e-4)
        np.testing.assert_allclose(
            choices.probabilities[row, 0], wanted / wanted.sum(), rtol=1e-4, atol=1e-7
        )


def test_answers_in_a_row_equal_step_by_step(
    engine: TransformersEngine, plain: PreTrainedModel
) -> None:
    prompts = random_prompts()
    choices = engine.choices(prompts, options=OPTIONS, answers=5)
    for row, prompt in enumerate(prompts):
        tokens = prompt.shared + prompt.own
        for answer in range(5):
            wanted = full_logprobs(plain, tokens)[OPTIONS].softmax(-1)
            np.testing.assert_allclose(
                choices.probabilities[row, answer], wanted, rtol=1e-4, atol=1e-7
            )
            tokens = (*tokens, OPTIONS[int(wanted.argmax())])


def test_shared_tokens_are_computed_once(engine: TransformersEngine) -> None:
    prompts = random_prompts()
    engine.choices(prompts, options=OPTIONS)
    distinct = sorted({prompt.shared for prompt in prompts}, key=len)
    assert [len(part) for part in distinct] == [0, 9, 20, 25, 33]
    computed = 9 + 20 + 5 + 13  # the two longer ones begin with the one of 20
    shared = sum(len(prompt.shared) for prompt in prompts)
    own = sum(len(prompt.own) for prompt in prompts)
    assert engine.usage._replace(seconds=0) == (15, shared + own, shared - computed, 15, 0)


def test_rows_that_do_not_fit_together_give_the_same(
    engine: TransformersEngine, tiny_folder: Path
) -> None:
    prompts = random_prompts()
    together = engine.choices(prompts, options=OPTIONS, answers=2)
    with opened(tiny_folder, memory_gb=1e-9) as one_by_one:
        alone = one_by_one.choices(prompts, options=OPTIONS, answers=2)
    np.testing.assert_allclose(together.probabilities, alone.probabilities, rtol=1e-4, atol=1e-6)


def test_bfloat16_is_near_and_float32_is_asked_for_by_name(
    engine: TransformersEngine, tiny_folder: Path
) -> None:
    prompts = random_prompts()
    with opened(tiny_folder, dtype="bfloat16") as rough:
        found = rough.choices(prompts, options=OPTIONS).probabilities
    wanted = engine.choices(prompts, options=OPTIONS).probabilities
    assert 0 < np.abs(found - wanted).max() < 0.2


def test_an_interrupted_prefix_is_not_used(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = random_prompts()
    wanted = engine.choices(prompts, options=OPTIONS).probabilities
    layer = engine._model.base_model.layers[-1]
    with monkeypatch.context() as broken:
        broken.setattr(layer, "forward", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            engine.choices(prompts, options=OPTIONS)
    found = engine.choices(prompts, options=OPTIONS).probabilities
    np.testing.assert_array_equal(found, wanted)


def test_greedy_generation_equals_argmax_of_full_passes(
    engine: TransformersEngine, plain: PreTrainedModel
) -> None:
    prompts = random_prompts()
    replies = engine.generate(prompts, max_tokens=6)
    for prompt, reply in zip(prompts, replies, strict=True):
        tokens: tuple[int, ...] = ()
        while len(tokens) < 6 and 0 not in tokens:
            chances = full_logprobs(plain, prompt.shared + prompt.own + tokens)
            tokens = (*tokens, int(chances.argmax()))
        assert reply.tokens == tokens
        assert reply.finished == (0 in tokens)


def test_sampling_repeats_with_its_seed_and_differs_between_prompts(
    engine: TransformersEngine,
) -> None:
    prompts = [Prompt((5, 6), (7,))] * 8
    one, same, other = (
        engine.generate(prompts, max_tokens=8, temperature=1.5, seed=seed) for seed in (1, 1, 2)
    )
    assert one == same != other
    assert len({reply.tokens for reply in one}) > 1


def test_sampling_follows_the_model(engine: TransformersEngine, plain: PreTrainedModel) -> None:
    prompt = Prompt((5, 6), (7,))
    replies = engine.generate([prompt] * 2000, max_tokens=1, temperature=2.0, seed=3)
    counts = np.bincount([reply.tokens[0] for reply in replies], minlength=320)
    wanted = (full_logprobs(plain, (5, 6, 7)) / 2.0).softmax(-1).numpy()
    top = int(wanted.argmax())
    spread = np.sqrt(wanted[top] * (1 - wanted[top]) / 2000)
    assert abs(counts[top] / 2000 - wanted[top]) < 4 * spread


def test_nan_weights_are_an_error(engine: TransformersEngine) -> None:
    engine._model.base_model.layers[1].mlp.register_forward_hook(lambda *_: _[-1] * float("nan"))
    with pytest.raises(EngineError, match=r"prompt 0.* are \[nan"):
        engine.choices(random_prompts(), options=OPTIONS)
    with pytest.raises(EngineError, match="NaN"):
        engine.generate(random_prompts(), max_tokens=2)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (Prompt((1, 2), ()), "prompt 1 has no token of its own"),
        (Prompt((1,) * 60, (2,) * 5), r"prompt 1 has 65 tokens and needs 1 .* context of 64"),
        (Prompt((1, 320), (2,)), "prompt 1 has token 320, but the vocabulary has 320"),
        (Prompt((), (-1,)), "prompt 1 has token -1"),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_named(
    engine: TransformersEngine, prompt: Prompt, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        engine.choices([Prompt((), (1,)), prompt], options=OPTIONS)
    assert engine.usage.prompts == 0


@pytest.mark.parametrize("options", [[], [1, 1], [320], [-1], list(range(129))])
def test_impossible_options_are_refused(engine: TransformersEngine, options: list[int]) -> None:
    with pytest.raises(ValueError, match="options ="):
        engine.choices([Prompt((), (1,))], options=options)


def test_no_prompts_no_answers(engine: TransformersEngine) -> None:
    assert engine.choices([], options=OPTIONS).probabilities.shape == (0, 1, 3)
    assert engine.generate([], max_tokens=3) == []


def test_a_closed_engine_says_so(engine: TransformersEngine) -> None:
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.choices([Prompt((), (1,))], options=OPTIONS)


def test_logits_changed_behind_the_head_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    config = Gemma2Config(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.5,
        initializer_range=0.5,
    )
    with pytest.raises(ValueError, match="Gemma2ForCausalLM changes its logits"):
        TransformersEngine(Gemma2ForCausalLM(config), tokenizer)


def rating_prompts(engine: Engine) -> list[Prompt]:
    """Texts as shared part, sentences as own part, a rating asked for."""
    texts = ["The river rose over the old bridge.", "She sold the company in 1998.", "To be or not"]
    sentences = ["words for water", "years and dates", "the letter q", "commerce"]

    def tokens(text: str) -> tuple[int, ...]:
        return text_tokens(engine.tokenizer, text)

    return [
        Prompt(tokens(f"Text: {text}\n" * 8), tokens(f"Does it speak of {sentence}? Rating: "))
        for sentence in sentences
        for text in texts
    ]


@pytest.mark.assets
def test_both_engines_give_the_same_digit_probabilities() -> None:
    pytest.importorskip("vllm")
    folder = model_folder("embedded/smollm2-135m-instruct")
    found = {}
    for dtype, kinds in {
        "float32": (TransformersEngine, VLLMEngine),
        "bfloat16": (TransformersEngine, VLLMEngine),
    }.items():
        for kind in kinds:
            with kind.load(folder, dtype=dtype, max_tokens=256, threads=1, memory_gb=0.5) as engine:
                prompts, digits = rating_prompts(engine), digit_tokens(engine.tokenizer)
                found[dtype, kind] = engine.choices(prompts, options=digits)
                assert engine.usage.cached_tokens > 0.5 * engine.usage.prompt_tokens
    exact = found["float32", TransformersEngine]
    other = found["float32", VLLMEngine]
    np.testing.assert_allclose(exact.probabilities, other.probabilities, atol=2e-4)
    np.testing.assert_allclose(exact.mass, other.mass, rtol=2e-3)
    for kind in (TransformersEngine, VLLMEngine):
        rough = found["bfloat16", kind].probabilities
        assert np.abs(np.log(rough / exact.probabilities)).max() < 0.3


@pytest.mark.assets
def test_a_killed_vllm_is_an_error_and_not_a_hang() -> None:
    pytest.importorskip("vllm")
    folder = model_folder("embedded/smollm2-135m-instruct")
    engine = VLLMEngine.load(folder, dtype="float32", max_tokens=256, threads=1, memory_gb=0.5)
    prompts, digits = rating_prompts(engine) * 50, digit_tokens(engine.tokenizer)
    threading.Timer(2.0, os.kill, (engine.pid, signal.SIGKILL)).start()
    start = time.monotonic()
    with pytest.raises(EngineDied, match=r"exit code -9"):
        engine.choices(prompts, options=digits, answers=20)
    assert time.monotonic() - start < 10
    with pytest.raises(EngineDied, match="closed"):
        engine.choices(prompts, options=digits)

"""The engines' common vocabulary: renormalising, tokens of forced answers, alignment, checks."""

import re

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rewrite_utils.llm.engine import by_shared, prompt_seed
from rewrite_utils.llm.opening import open_engine
from rewrite_utils.llm.protocol import EngineError, Prompt, Usage, renormalised
from rewrite_utils.llm.tokens import digit_tokens, option_tokens, padded
from rewrite_utils.params import LLM


def merging(*merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    """Bytes, and these merges."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, name_or_path="some/tokenizer")


def test_renormalised_divides_by_the_mass() -> None:
    full = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])
    choices = renormalised(np.log(full[None, None, 1:4]).astype(np.float32))
    np.testing.assert_allclose(choices.probabilities[0, 0], full[1:4] / full[1:4].sum(), rtol=1e-6)
    np.testing.assert_allclose(choices.mass, [[full[1:4].sum()]], rtol=1e-6)
    assert choices.probabilities.dtype == choices.mass.dtype == np.float32


def test_renormalised_keeps_options_that_the_model_hardly_considers() -> None:
    choices = renormalised(np.float32([[[-200.0, -200.0 + np.log(3)]]]))
    np.testing.assert_allclose(choices.probabilities, [[[0.25, 0.75]]], rtol=1e-4)
    assert choices.mass[0, 0] == 0  # e^-200 is no float32


@pytest.mark.parametrize("bad", [[0.0, np.nan], [-np.inf, -np.inf], [np.inf, 0.0]])
def test_a_broken_logprob_is_an_error_and_names_the_prompt(bad: list[float]) -> None:
    logprobs = np.zeros((3, 2, 2), np.float32)
    logprobs[2, 1] = bad
    with pytest.raises(EngineError, match="prompt 2, answer 1"):
        renormalised(logprobs)


def test_an_option_of_probability_zero_is_no_error() -> None:
    assert renormalised(np.float32([[[0.0, -np.inf]]])).probabilities.tolist() == [[[1.0, 0.0]]]


def test_digits_are_ten_different_tokens_that_decode_to_themselves(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    ids = digit_tokens(tokenizer)
    assert [tokenizer.decode([token]) for token in ids] == list("0123456789")


def test_a_digit_that_merges_names_the_tokenizer() -> None:
    with pytest.raises(ValueError, match=re.escape("'some/tokenizer' does not write '7'")):
        digit_tokens(merging((":", "7")))


def test_an_option_of_two_tokens_is_refused() -> None:
    tokenizer = merging(("y", "e"), ("ye", "s"))
    assert len(option_tokens(tokenizer, ["yes"])) == 1
    with pytest.raises(ValueError, match="'no'"):
        option_tokens(tokenizer, ["yes", "no"])


@pytest.mark.parametrize(("length", "added"), [(0, 0), (1, 31), (31, 1), (32, 0), (33, 31)])
def test_a_shared_part_ends_with_a_block(length: int, added: int) -> None:
    tokens, at = tuple(range(length)), length // 2
    found = padded(tokens[:at], tokens[at:], filler=(99,), multiple=32)
    assert len(found) % 32 == 0
    assert found == (*tokens[:at], *[99] * added, *tokens[at:])


def test_equal_shared_parts_come_together_and_keep_their_order() -> None:
    shared = [(2, 1), (1,), (2, 1), (), (1, 5), (1,)]
    order = by_shared([Prompt(part, (row,)) for row, part in enumerate(shared)])
    assert order == [3, 1, 5, 4, 0, 2]


def test_seeds_differ_by_call_and_by_prompt() -> None:
    seeds = {prompt_seed(seed, row) for seed in range(20) for row in range(20)}
    assert len(seeds) == 400


def test_usage_counts_only_what_went_through_the_model() -> None:
    usage = Usage(10, 1000, 800, 10, 2.0).plus(Usage(10, 1000, 900, 30, 2.0))
    assert usage == Usage(20, 2000, 1700, 40, 4.0)
    # 300 prompt tokens, and of the 40 written the last of each reply was only read off
    assert usage.summary() == {
        "prompts/s": "5.0",
        "tokens/s": f"{(300 + 20) / 4:.0f}",
        "cached": "85%",
    }
    assert set(Usage().summary().values()) == {"nan", "nan%"}


@pytest.mark.parametrize("engine", ["vllm", "ray"])
def test_an_engine_that_is_not_installed_names_its_extra(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewrite_utils.llm.opening.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"engine '{engine}' needs the package {engine}.*extra"):
        open_engine(LLM(model="/nowhere", engine=engine))

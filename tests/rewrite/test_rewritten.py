"""The rewritten model: whole texts and generation with MLPs replaced at every position."""

import numpy as np
import pytest
import torch
from splice_cases import LATENTS, MLP, by_hand, coder_for

from rewrite_utils.rewrite.rewritten import Place, Rewritten, coded, constant
from rewrite_utils.subject.model import Hookpoint
from rewrite_utils.subject.splice import GivenLatents, Untouched, mean_latents

LAST = Hookpoint(2, "mlp")


@pytest.fixture
def table():
    return np.random.default_rng(0).random((320, LATENTS)).astype(np.float32)


def by_token(table):
    """A source that reads single tokens, as the readers' tables do."""
    return lambda tokens: GivenLatents(torch.from_numpy(table)[tokens.cpu()])


def decoded(coder, rows, table):
    """What the table says at every token, decoded; the skip reads the true input."""
    values = torch.from_numpy(table)[rows]
    return lambda inputs: coder.decode_dense(values.flatten(0, 1), inputs.flatten(0, 1))


def test_by_token_equals_a_hook_of_plain_transformers(subject, plain, rows, table):
    coder = coder_for(MLP)

    def change(inputs, output):
        new = decoded(coder, rows, table)(inputs).reshape(output.shape)
        return torch.cat([output[:, :1], new[:, 1:]], dim=1)

    expected = by_hand(plain, MLP, rows, change)
    rewritten = Rewritten(subject, (Place(MLP, coder, by_token(table)),))
    torch.testing.assert_close(rewritten.logits(rows), expected, atol=2e-4, rtol=1e-3)


def test_nothing_replaced_and_identity_are_the_subject(subject, plain, rows):
    with torch.no_grad():
        expected = plain(rows).logits
    for places in ((), (Place(MLP, None, constant(Untouched())),)):
        found = Rewritten(subject, places).logits(rows)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_losses_are_those_of_the_next_tokens(subject, plain, rows):
    with torch.no_grad():
        log_p = plain(rows).logits.log_softmax(-1)
    expected = -log_p[:, 1:-1].gather(2, rows[:, 2:, None])[..., 0]
    np.testing.assert_allclose(Rewritten(subject).losses(rows, batch=3), expected, atol=1e-4)


def test_two_places_and_the_subject_stays_as_it_was(subject, rows, table):
    before = Rewritten(subject).logits(rows)
    one = Place(MLP, coder_for(MLP), by_token(table))
    two = Place(LAST, coder_for(LAST), constant(mean_latents(torch.ones(LATENTS))))
    alone, both = Rewritten(subject, (one,)), Rewritten(subject, (two, one))
    assert not torch.allclose(alone.logits(rows), both.logits(rows))
    assert torch.equal(Rewritten(subject).logits(rows), before)


def test_generation_is_greedy_token_by_token(subject, plain):
    prompt = "the inn"
    ids = [0, *subject.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    row = torch.tensor([ids])
    for _ in range(5):
        with torch.no_grad():
            row = torch.cat([row, plain(row).logits[:, -1:].argmax(-1)], dim=1)
    expected = row[0, len(ids) :].tolist()
    expected = expected[: expected.index(0)] if 0 in expected else expected
    assert Rewritten(subject).generate(prompt, 5) == subject.tokenizer.decode(expected)
    other = Rewritten(subject, (Place(MLP, coder_for(MLP), coded),))
    assert isinstance(other.generate(prompt, 5), str)


def test_errors_say_what_to_do(subject):
    with pytest.raises(ValueError, match="the prompt is empty"):
        Rewritten(subject).generate("")
    with pytest.raises(ValueError, match="different layers"):
        place = Place(MLP, None, constant(Untouched()))
        Rewritten(subject, (place, place)).logits(torch.zeros(1, 3, dtype=torch.long))

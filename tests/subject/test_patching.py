"""One position patched at a time, all in one pass, equals one row a position."""

import pytest
import torch
from splice_cases import (
    LATENTS,
    MLP,
    WIDTH,
    generator,
    given_losses,
    one_row_a_position,
    some_positions,
)

from rewrite_utils.subject.splice import (
    GivenLatents,
    GivenOutput,
    TrueLatents,
    Untouched,
    arm_losses,
    hooked,
    mean_latents,
    shuffled_latents,
    substituted,
    zero_latents,
)


@pytest.fixture
def sources(values) -> list:
    """One of every kind of arm."""
    half = substituted(LATENTS, 0.5, "random", windows=len(values), generator=generator(6))
    return [
        Untouched(),
        TrueLatents(),
        GivenLatents(values, half),
        GivenLatents(values, topk=True),
        zero_latents(LATENTS),
        mean_latents(values.mean(0), half[0]),
        shuffled_latents(values, generator=generator(7)),
        GivenOutput(torch.zeros(WIDTH)),
        GivenOutput(torch.rand(len(values), WIDTH, generator=generator(8))),
    ]


def test_baselines_differ(subject, rows, hookpoint, coder, sources):
    losses = arm_losses(subject, coder, hookpoint, sources, rows, some_positions(rows)).losses.loss
    distance = (losses.T[:, None] - losses.T[None]).abs().mean(-1)
    distance.fill_diagonal_(1)
    assert distance.min() > 1e-3


@torch.no_grad()
def test_every_arm_equals_patching_one_row_a_position(subject, rows, hookpoint, coder, sources):
    mask = some_positions(rows)
    found = arm_losses(subject, coder, hookpoint, sources, rows, mask)
    assert torch.equal(torch.stack([found.rows, found.positions], 1), mask.nonzero())
    for arm, source in enumerate(sources):

        def of(row, pos, source=source):
            return alone(source, row)

        loss, kl = one_row_a_position(subject, coder, hookpoint, of, rows, mask)
        assert torch.allclose(found.losses.loss[:, arm], loss, atol=1e-4)
        assert torch.allclose(found.losses.kl[:, arm], kl, atol=1e-4)


def alone(source, row: int):
    """The same source for one row by itself."""
    if isinstance(source, GivenLatents):
        which = source.substituted
        which = which if which is None or which.ndim == 1 else which[row : row + 1]
        values = source.values if source.values.ndim == 1 else source.values[row : row + 1]
        return GivenLatents(values, which, source.topk)
    if isinstance(source, GivenOutput) and source.values.ndim > 1:
        return GivenOutput(source.values[row : row + 1])
    return source


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 5, 1000])
def test_everywhere_equals_patching_one_row_a_position(subject, rows, hookpoint, tokens):
    mask = some_positions(rows)
    outputs = torch.randn(*rows.shape, 3, WIDTH, generator=generator(2))
    found = given_losses(subject, hookpoint, rows, mask, outputs, tokens=tokens)
    for arm in range(3):
        loss, kl = one_row_a_position(
            subject,
            None,
            hookpoint,
            lambda row, pos, arm=arm: GivenOutput(outputs[row, pos, arm]),
            rows,
            mask,
        )
        assert torch.allclose(found.loss[:, arm], loss, atol=1e-4)
        assert torch.allclose(found.kl[:, arm], kl, atol=1e-4)


@torch.no_grad()
def test_one_position_a_row_is_the_same_number(subject, plain, rows, hookpoint):
    positions = torch.tensor([1, 10, 4, 4])
    outputs = torch.randn(4, 3, WIDTH, generator=generator(2))
    mask = torch.zeros(rows.shape, dtype=torch.bool)
    mask[range(4), positions] = True
    found = given_losses(subject, hookpoint, rows, positions, outputs)
    for arm in range(3):
        loss, kl = one_row_a_position(
            subject,
            None,
            hookpoint,
            lambda row, pos, arm=arm: GivenOutput(outputs[row, arm]),
            rows,
            mask,
        )
        assert torch.allclose(found.loss[:, arm], loss, atol=1e-4)
        assert torch.allclose(found.kl[:, arm], kl, atol=1e-4)
    base = plain(rows).logits[range(4), positions].log_softmax(-1)
    assert torch.allclose(
        found.base_loss, -base[range(4), rows[range(4), positions + 1]], atol=1e-4
    )


def test_mistake_an_arm_does_not_carry_losses_over_to_the_next(subject, rows, hookpoint):
    """The original pipeline's loss lists were not reset between fractions."""
    outputs = torch.randn(4, 4, WIDTH, generator=generator(2))
    outputs[:, 3] = outputs[:, 0]
    positions = torch.full((4,), 6)
    together = given_losses(subject, hookpoint, rows, positions, outputs)
    again = given_losses(subject, hookpoint, rows, positions, outputs)
    assert torch.equal(together.loss, again.loss)
    assert torch.allclose(together.loss[:, 3], together.loss[:, 0], atol=1e-5)
    for arm in range(4):
        single = given_losses(subject, hookpoint, rows, positions, outputs[:, arm : arm + 1])
        assert torch.allclose(single.loss[:, 0], together.loss[:, arm], atol=1e-5)


def test_the_models_own_output_costs_nothing(subject, rows, hookpoint):
    outputs = hooked(subject, rows, hookpoint).outputs[:, :, None]
    mask = some_positions(rows)
    found = given_losses(subject, hookpoint, rows, mask, outputs)
    assert torch.allclose(found.loss[:, 0], found.base_loss, atol=1e-5)
    assert found.kl.abs().max() < 1e-5


def test_squared_error_is_that_of_the_output(subject, rows, hookpoint, coder):
    mask = some_positions(rows)
    acts = hooked(subject, rows, hookpoint)
    y, x = acts.outputs[mask], acts.inputs[mask]
    found = arm_losses(
        subject, coder, hookpoint, [GivenOutput(torch.zeros(WIDTH)), TrueLatents()], rows, mask
    )
    expected = torch.stack([y.square().sum(-1), (y - coder(x)).square().sum(-1)], dim=1)
    assert torch.allclose(found.squared_error, expected.detach(), rtol=1e-4)


def test_positions_that_cannot_be_scored(subject, rows):
    outputs = torch.zeros(4, 1, WIDTH)
    with pytest.raises(ValueError, match="BOS"):
        given_losses(subject, MLP, rows, torch.tensor([3, 0, 3, 3]), outputs)
    with pytest.raises(ValueError, match="position 11 is the last"):
        given_losses(subject, MLP, rows, torch.tensor([3, 11, 3, 3]), outputs)

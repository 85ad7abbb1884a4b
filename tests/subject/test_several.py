"""Several places spliced at once equal one row a position with all of them patched by hand."""

import pytest
import torch
from splice_cases import (
    LATENTS,
    WIDTH,
    coder_for,
    generator,
    hooks_left,
    some_positions,
)

from rewrite_utils.subject.model import Hookpoint
from rewrite_utils.subject.splice import (
    GivenLatents,
    GivenOutput,
    Spot,
    TrueLatents,
    Untouched,
    arm_losses,
    losses_at_once,
    mean_latents,
    spliced,
    spliced_at_once,
    zero_latents,
)

PLACES = [
    [Hookpoint(2, "mlp"), Hookpoint(0, "mlp")],
    [Hookpoint(0, "mlp"), Hookpoint(1, "resid"), Hookpoint(2, "mlp")],
]


def sources_for(place: int, rows) -> list:
    """Five arms: all true, told values, an ablation, one place left alone, another left alone."""
    values = torch.rand(len(rows), LATENTS, generator=generator(20 + place))
    told, mean = GivenLatents(values), mean_latents(values.mean(0))
    alone = [Untouched() if place == 0 else told, told if place == 0 else Untouched()]
    return [TrueLatents(), told, [mean, zero_latents(LATENTS)][place % 2], *alone]


@pytest.fixture(params=PLACES, ids=lambda places: "+".join(p.name for p in places))
def spots(request, rows) -> list[Spot]:
    return [
        Spot(hookpoint, coder_for(hookpoint), sources_for(place, rows))
        for place, hookpoint in enumerate(request.param)
    ]


@torch.no_grad()
def test_true_latents_at_every_place_are_the_coders_in_a_chain(subject, plain, rows, spots):
    """By hand in plain transformers, with a hook on each module."""
    with spliced_at_once(subject, spots, arm=0):
        found = subject.bridge(rows)
    handles, model = [], plain.model if hasattr(plain, "model") else plain.gpt_neox
    for spot in spots:
        block = model.layers[spot.hookpoint.layer]
        mlp = spot.hookpoint.kind == "mlp"

        def change(module, args, output, spot=spot, mlp=mlp):
            new = spot.coder((args[0] if mlp else output).flatten(0, 1)).view(output.shape)
            return torch.cat([output[:, :1], new[:, 1:]], dim=1)

        handles.append((block.mlp if mlp else block).register_forward_hook(change))
    expected = plain(rows).logits
    for handle in handles:
        handle.remove()
    assert torch.allclose(found, expected, atol=1e-3)
    assert not hooks_left(subject)


def test_one_place_is_the_plain_splice(subject, rows):
    place = Hookpoint(1, "resid")
    coder = coder_for(place)
    source = GivenLatents(torch.rand(len(rows), LATENTS, generator=generator(1)))
    with torch.no_grad():
        with spliced_at_once(subject, [Spot(place, coder, [source])]):
            found = subject.bridge(rows)
        with spliced(subject, coder, place, source):
            assert torch.equal(found, subject.bridge(rows))
        untouched = by_hand_untouched(subject, rows)
        with spliced_at_once(subject, [Spot(place, coder, [Untouched()])]):
            assert torch.equal(subject.bridge(rows), untouched)


def by_hand_untouched(subject, rows):
    with torch.no_grad():
        return subject.bridge(rows)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [7])
def test_every_arm_equals_one_row_a_position(subject, rows, spots, tokens):
    mask = some_positions(rows)
    found = losses_at_once(subject, spots, rows, mask, tokens=tokens)
    for arm in (1, 2, 4):
        for place, (row, pos) in enumerate(mask.nonzero().tolist()):
            cut = rows[row : row + 1, : pos + 1]
            mine = [spot._replace(sources=[alone(spot.sources[arm], row)]) for spot in spots]
            with spliced_at_once(subject, mine, positions="last"):
                log_q = subject.bridge(cut)[0, -1].log_softmax(-1)
            log_p = subject.bridge(cut)[0, -1].log_softmax(-1)
            target = rows[row, pos + 1]
            kl = (log_p.exp() * (log_p - log_q)).sum()
            assert found.loss[place, arm].item() == pytest.approx(-log_q[target].item(), abs=2e-4)
            assert found.kl[place, arm].item() == pytest.approx(kl.item(), abs=2e-4)
            base = found.base_loss[place].item()
            assert base == pytest.approx(-log_p[target].item(), abs=2e-4)


def alone(source, row: int):
    """The same source for one row by itself."""
    if isinstance(source, GivenLatents) and source.values.ndim > 1:
        return GivenLatents(source.values[row : row + 1])
    return source


@torch.no_grad()
def test_places_that_are_left_alone_change_nothing(subject, rows, spots):
    """With all later places untouched the arms are those of the first place alone."""
    ordered = sorted(spots, key=lambda spot: spot.hookpoint.layer)
    first, *rest = ordered
    quiet = [spot._replace(sources=[Untouched()] * 5) for spot in rest]
    found = losses_at_once(subject, [first, *quiet], rows, some_positions(rows))
    only = arm_losses(
        subject, first.coder, first.hookpoint, first.sources, rows, some_positions(rows)
    )
    assert torch.allclose(found.loss, only.losses.loss, atol=1e-4)


@torch.no_grad()
def test_a_second_place_matters(subject, rows, spots):
    both = losses_at_once(subject, spots, rows, some_positions(rows)).loss[:, 1]
    quiet = [spots[0], *(spot._replace(sources=[Untouched()] * 5) for spot in spots[1:])]
    one = losses_at_once(subject, quiet, rows, some_positions(rows)).loss[:, 1]
    assert (both - one).abs().max() > 1e-2


def test_what_does_not_fit_is_an_error(subject, rows):
    mlp, resid = Hookpoint(1, "mlp"), Hookpoint(1, "resid")
    two = [Spot(place, coder_for(place), [TrueLatents()]) for place in (mlp, resid)]
    with pytest.raises(ValueError, match=r"different layers.*layers.1.mlp, layers.1"):
        losses_at_once(subject, two, rows, some_positions(rows))
    with pytest.raises(ValueError, match="one at least: none"):
        losses_at_once(subject, [], rows, some_positions(rows))
    other = Spot(Hookpoint(0, "mlp"), None, [GivenOutput(torch.zeros(WIDTH))] * 2)
    with pytest.raises(ValueError, match="source for each arm, but they have 2, 1"):
        losses_at_once(subject, [two[0], other], rows, some_positions(rows))


def test_the_model_is_as_before_after_an_exception(subject, rows, spots):
    before = by_hand_untouched(subject, rows)
    with pytest.raises(RuntimeError, match="inside"), spliced_at_once(subject, spots):
        raise RuntimeError("inside")
    assert torch.equal(by_hand_untouched(subject, rows), before) and not hooks_left(subject)

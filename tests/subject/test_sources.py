"""What is written over which latents: the mixture, the substitution sets, the shuffled floor."""

from itertools import pairwise

import pytest
import torch

from rewrite_utils.subject.splice import mix, shuffled_latents, substituted


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mix_overwrites_the_substituted_latents_and_no_others():
    true, estimate = torch.rand(2, 5, 9, generator=generator())
    which = torch.rand(5, 9, generator=generator(1)) < 0.5
    mixed = mix(true, estimate, which)
    assert torch.equal(mixed[which], estimate[which])
    assert torch.equal(mixed[~which], true[~which])


def test_mix_keeps_the_k_largest_of_the_mixture():
    true = torch.tensor([[5.0, 0.0, 3.0, 0.0]])
    estimate = torch.tensor([[0.0, 4.0, 0.0, 1.0]])
    which = torch.tensor([True, True, False, True])
    assert mix(true, estimate, which).tolist() == [[0, 4, 3, 1]]
    assert mix(true, estimate, which, k=2).tolist() == [[0, 4, 3, 0]]
    assert mix(true, estimate, which, k=9).tolist() == [[0, 4, 3, 1]]


def test_mistake_latent_indices_cannot_be_written_as_activations():
    """The original "random latents" baseline wrote them."""
    indices = torch.randint(0, 9, (5, 9), generator=generator())
    with pytest.raises(TypeError):
        mix(torch.zeros(5, 9), indices, torch.ones(9, dtype=torch.bool))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_mistake_an_estimate_that_is_missing_or_overflowed_is_never_decoded(bad):
    """In the original, activations that overflowed float16 were kept (up to 723 nats)."""
    estimate = torch.tensor([[1.0, bad]])
    assert mix(torch.zeros(1, 2), estimate, torch.tensor([True, False])).tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="1 activations"):
        mix(torch.zeros(1, 2), estimate, torch.tensor([True, True]))


@pytest.mark.parametrize(
    ("n_latents", "fraction", "count"),
    [(1000, 0.001, 1), (1000, 0.05, 50), (64, 0.01, 1), (64, 0.0, 0), (64, 1.0, 64), (10, 0.3, 3)],
)
@pytest.mark.parametrize("order", ["top", "random"])
def test_a_fraction_is_that_many_latents_rounded_up(n_latents, fraction, count, order):
    ranking = torch.rand(n_latents, generator=generator())
    mask = substituted(n_latents, fraction, order, ranking=ranking, generator=generator())
    assert mask.shape == (n_latents,)
    assert mask.sum() == count


def test_best_first_and_nested():
    ranking = torch.tensor([0.2, torch.nan, 0.9, 0.2, -torch.inf])
    masks = [substituted(5, step / 5, "top", ranking=ranking) for step in range(6)]
    added = [(after & ~before).nonzero().item() for before, after in pairwise(masks)]
    assert added[:3] == [2, 0, 3]
    assert set(added[3:]) == {1, 4}


def test_random_is_drawn_anew_for_each_window_and_uniformly():
    masks = substituted(20, 0.25, "random", windows=4000, generator=generator())
    assert masks.shape == (4000, 20)
    assert (masks.sum(1) == 5).all()
    assert len(masks.unique(dim=0)) > 3000
    assert masks.float().mean(0).sub(0.25).abs().max() < 5 * (0.25 * 0.75 / 4000) ** 0.5
    again = substituted(20, 0.25, "random", windows=4000, generator=generator())
    assert torch.equal(masks, again)


def test_orders_ask_for_what_they_need():
    with pytest.raises(ValueError, match="generator"):
        substituted(8, 0.5, "random")
    with pytest.raises(ValueError, match="ranking of all 8"):
        substituted(8, 0.5, "useful", ranking=torch.zeros(7))
    with pytest.raises(ValueError, match=r"fraction 1\.5"):
        substituted(8, 1.5, "top", ranking=torch.zeros(8))


@pytest.mark.parametrize("windows", [2, 3, 50])
def test_shuffling_gives_every_window_anothers_values(windows):
    values = torch.arange(windows)[:, None].expand(windows, 4).float()
    shuffled = shuffled_latents(values, generator=generator()).values
    assert (shuffled != values).all()
    assert sorted(shuffled[:, 0].tolist()) == values[:, 0].tolist()
    with pytest.raises(ValueError, match="two windows"):
        shuffled_latents(values[:1], generator=generator())

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rewrite_utils.coder.topk import decode_sparse, sum_by_latent, top_latents


def reference(x: Tensor, W: Tensor, b: Tensor, k: int) -> Tensor:
    """TopK(ReLU(Wx + b)) as whole vectors, by plain autograd."""
    before = torch.relu(x @ W.T + b)
    keep = torch.zeros_like(before).scatter(1, before.topk(k).indices, 1.0)
    return before * keep


def case(latents: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((70, 12), (latents, 12), (latents,), (latents, 9))
    return tuple(torch.randn(s, generator=generator).requires_grad_() for s in shapes)


@pytest.mark.parametrize(("latents", "k"), [(10, 3), (256, 4), (250, 4), (7, 7)])
def test_outputs_and_every_gradient_equal_dense_autograd(latents, k):
    # 256 takes the path by groups, the others the plain one.
    inputs = case(latents)
    x, W_enc, b_enc, W_dec = inputs
    values, indices = top_latents(x, W_enc, b_enc, k)
    sparse = decode_sparse(values, indices, W_dec)
    dense = reference(x, W_enc, b_enc, k) @ W_dec
    torch.testing.assert_close(sparse, dense)
    weights = torch.randn(dense.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((sparse * weights).sum(), inputs)
    theirs = torch.autograd.grad((dense * weights).sum(), inputs)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)


def test_groups_give_exactly_the_k_largest_also_with_ties():
    W = torch.eye(256)
    x = torch.randint(0, 5, (40, 256), generator=torch.Generator().manual_seed(0)).float()
    values, indices = top_latents(x, W, torch.zeros(256), 16)
    assert torch.equal(values.sort(1).values, x.topk(16).values.sort(1).values)
    assert torch.equal(x.gather(1, indices), values)
    assert all(len(set(row.tolist())) == 16 for row in indices)


def test_a_batch_over_many_chunks_equals_its_parts(monkeypatch):
    x, W_enc, b_enc, _ = case(64)
    whole = top_latents(x, W_enc, b_enc, 4)[0]
    monkeypatch.setattr("rewrite_utils.coder.topk._CHUNK_CPU", 1)  # 64 rows a chunk
    parts = top_latents(x, W_enc, b_enc, 4)[0]
    torch.testing.assert_close(whole.sort(1).values, parts.sort(1).values)


def test_values_are_never_negative():
    x, W_enc, _, _ = case(16)
    values, _ = top_latents(x, W_enc, torch.full((16,), -100.0), 4)
    assert torch.equal(values, torch.zeros_like(values))


def test_sum_by_latent_leaves_silent_latents_at_zero():
    weights, indices = torch.tensor([[2.0, 3.0], [5.0, 7.0]]), torch.tensor([[1, 3], [3, 0]])
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = torch.tensor([[0.0, 7.0], [2.0, 0.0], [0.0, 0.0], [3.0, 5.0], [0.0, 0.0]])
    assert torch.equal(sum_by_latent(weights, indices, rows, 5), expected)


def test_onednn_and_plain_paths_agree(monkeypatch):
    x, W_enc, b_enc, _ = case(64)
    fast = top_latents(x, W_enc, b_enc, 4)[0]
    monkeypatch.setattr("rewrite_utils.coder.topk._ONEDNN", None)
    plain = top_latents(x, W_enc, b_enc, 4)[0]
    torch.testing.assert_close(fast.sort(1).values, plain.sort(1).values)


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor made while it is open."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        every = made if isinstance(made, tuple) else (made,)
        sizes = [tensor.numel() for tensor in every if isinstance(tensor, Tensor)]
        self.elements = max([self.elements, *sizes])
        return made


def test_decode_and_both_gradients_touch_the_active_rows_only():
    x, W_enc, b_enc, W_dec = case(256)
    values, indices = top_latents(x, W_enc, b_enc, 4)
    with Largest() as seen:
        decoded = decode_sparse(values, indices, W_dec)
        torch.autograd.grad(decoded.sum(), (x, W_enc, b_enc, W_dec))
    assert 70 * 9 <= seen.elements <= W_enc.numel() < 70 * 256
    with Largest() as dense:
        reference(x, W_enc, b_enc, 4)
    assert dense.elements == 70 * 256

"""The splice is exact, local, and undone afterwards; the fast paths equal one row a position."""

import pytest
import torch
from torch import Tensor

from rewrite_utils.coders import CoderConfig, SparseCoder, random_coder
from rewrite_utils.models import Hookpoint, load_subject
from rewrite_utils.splice import (
    GivenLatents,
    GivenOutput,
    TrueLatents,
    Untouched,
    arm_losses,
    hooked,
    mean_latents,
    patched_losses,
    patched_losses_everywhere,
    shuffled_latents,
    spliced,
    substituted,
    zero_latents,
)

LATENTS, K, WIDTH = 40, 6, 32
HOOKPOINTS = [
    Hookpoint(0, "mlp"),
    Hookpoint(2, "mlp"),
    Hookpoint(1, "resid"),
    Hookpoint(2, "resid"),
]
MLP = HOOKPOINTS[0]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coder_for(hookpoint: Hookpoint) -> SparseCoder:
    """Random weights, a skip where there can be one, and biases that matter."""
    mlp = hookpoint.kind == "mlp"
    config = CoderConfig(
        d_in=WIDTH,
        num_latents=LATENTS,
        k=K,
        transcode=mlp,
        skip_connection=mlp,
        hookpoint=hookpoint.name,
    )
    coder = random_coder(config, generator(3))
    for weight in (coder.b_dec, *([coder.W_skip] if mlp else [])):
        weight.data.normal_(std=0.3, generator=generator(4))
    return coder


@pytest.fixture(params=HOOKPOINTS, ids=lambda hookpoint: hookpoint.name)
def hookpoint(request) -> Hookpoint:
    return request.param


@pytest.fixture
def coder(hookpoint) -> SparseCoder:
    return coder_for(hookpoint)


@pytest.fixture
def values(rows) -> Tensor:
    return torch.rand(len(rows), LATENTS, generator=generator(5))


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


def by_hand(plain, hookpoint, rows, change) -> Tensor:
    """Logits of plain transformers with ``change(input, output)`` for the module's output."""
    block = (plain.model if hasattr(plain, "model") else plain.gpt_neox).layers[hookpoint.layer]
    module = block.mlp if hookpoint.kind == "mlp" else block
    handle = module.register_forward_hook(
        lambda _, args, output: change(output if hookpoint.kind == "resid" else args[0], output)
    )
    with torch.no_grad():
        logits = plain(rows).logits
    handle.remove()
    return logits


@torch.no_grad()
def logits_of(subject, coder, hookpoint, source, rows, positions="all") -> Tensor:
    with spliced(subject, coder, hookpoint, source, positions=positions):
        return subject.bridge(rows)


def one_row_a_position(subject, coder, hookpoint, source_of, rows, mask) -> tuple[Tensor, Tensor]:
    """Loss and KL by brute force: cut the row behind each position and splice its last token."""
    losses, kls = [], []
    for row, pos in mask.nonzero().tolist():
        cut = rows[row : row + 1, : pos + 1]
        log_q = logits_of(subject, coder, hookpoint, source_of(row, pos), cut, "last")[0, -1]
        log_q, log_p = log_q.log_softmax(-1), subject.bridge(cut)[0, -1].log_softmax(-1)
        losses.append(-log_q[rows[row, pos + 1]])
        kls.append((log_p.exp() * (log_p - log_q)).sum())
    return torch.stack(losses), torch.stack(kls)


def some_positions(rows) -> Tensor:
    """A ragged mask: 2, 0, 4 and 2 positions."""
    mask = torch.zeros(rows.shape, dtype=torch.bool)
    mask[0, [1, 10]] = mask[2, 1:5] = mask[3, [3, 9]] = True
    return mask


def hooks_left(subject) -> list[str]:
    return [name for name, hook in subject.bridge.hook_dict.items() if hook.fwd_hooks]


# ---- the context manager


@pytest.mark.parametrize("positions", ["last", "all"])
def test_noop_splice_is_the_untouched_model_bit_for_bit(
    subject, plain, rows, hookpoint, coder, positions
):
    spliced_logits = logits_of(subject, coder, hookpoint, Untouched(), rows, positions)
    assert torch.equal(spliced_logits, plain(rows).logits)


def test_identity_source_is_the_coder_spliced_model_bit_for_bit(
    subject, plain, rows, hookpoint, coder
):
    def change(x, y):
        y_hat = coder(x[:, 1:].reshape(-1, WIDTH)).view(len(x), -1, WIDTH)
        return torch.cat([y[:, :1], y_hat], dim=1)

    ours = logits_of(subject, coder, hookpoint, TrueLatents(), rows)
    assert torch.equal(ours, by_hand(plain, hookpoint, rows, change))
    assert not torch.allclose(ours, plain(rows).logits, atol=0.1)


def test_only_the_positions_asked_for_change(subject, plain, rows, hookpoint, coder):
    mask = torch.zeros(rows.shape, dtype=torch.bool)
    mask[1, 4] = mask[3, 7] = True
    ours = logits_of(subject, coder, hookpoint, zero_latents(LATENTS), rows, mask)
    clean = plain(rows).logits
    for row, first in enumerate([12, 4, 12, 7]):
        assert torch.equal(ours[row, :first], clean[row, :first])
        assert first == 12 or not torch.allclose(ours[row, first], clean[row, first], atol=0.01)


def test_bos_is_never_replaced(subject, plain, rows, hookpoint, coder):
    ours = logits_of(subject, coder, hookpoint, GivenOutput(torch.ones(WIDTH)), rows)
    assert torch.equal(ours[:, 0], plain(rows).logits[:, 0])


def test_last_is_the_last_position_only(subject, rows, hookpoint, coder, values):
    mask = torch.zeros(rows.shape, dtype=torch.bool)
    mask[:, -1] = True
    pair = [
        logits_of(subject, coder, hookpoint, GivenLatents(values), rows, positions)
        for positions in ("last", mask)
    ]
    assert torch.equal(*pair)


def test_everything_is_restored_after_exceptions(subject, plain, rows, hookpoint, coder):
    class Broken:
        def output(self, site):
            raise RuntimeError("broken source")

    with pytest.raises(RuntimeError, match="broken source"):
        logits_of(subject, coder, hookpoint, Broken(), rows)
    with (
        pytest.raises(ZeroDivisionError),
        spliced(subject, coder, hookpoint, zero_latents(LATENTS)),
    ):
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="broken source"):
        arm_losses(subject, coder, hookpoint, [Broken()], rows, some_positions(rows))
    with pytest.raises(RuntimeError):  # inside the upper layers: outputs of a wrong width
        patched_losses(subject, hookpoint, rows, torch.full((4,), 3), torch.zeros(4, 2, 7))
    assert hooks_left(subject) == []
    assert torch.equal(subject.bridge(rows), plain(rows).logits)


def test_failure_above_the_splice_gives_back_the_blocks_below(
    subject, plain, rows, hookpoint, monkeypatch
):
    def fail(*args, **kwargs):
        raise RuntimeError("no memory")

    monkeypatch.setattr("rewrite_utils.splice.patching._fork", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        patched_losses(subject, hookpoint, rows, torch.full((4,), 3), torch.zeros(4, 2, WIDTH))
    assert hooks_left(subject) == []
    assert torch.equal(subject.bridge(rows), plain(rows).logits)


def test_splices_nest_and_do_not_leak_into_each_other(subject, plain, rows, hookpoint, coder):
    with spliced(subject, coder, hookpoint, zero_latents(LATENTS), positions="last"):
        once = subject.bridge(rows)
        with spliced(subject, None, Hookpoint(1, "mlp"), GivenOutput(torch.zeros(WIDTH))):
            assert not torch.equal(subject.bridge(rows), once)
        assert torch.equal(subject.bridge(rows), once)
    assert torch.equal(subject.bridge(rows), plain(rows).logits)


def test_bfloat16_subject_keeps_its_type_and_its_bits(tiny_folder, rows, hookpoint, coder):
    subject = load_subject(str(tiny_folder), dtype="bfloat16")
    clean = subject.bridge(rows)
    assert torch.equal(logits_of(subject, coder, hookpoint, Untouched(), rows), clean)
    assert logits_of(subject, coder, hookpoint, TrueLatents(), rows).dtype == torch.bfloat16
    found = arm_losses(subject, coder, hookpoint, [Untouched()], rows, some_positions(rows))
    assert torch.allclose(found.losses.loss[:, 0], found.losses.base_loss, atol=0.3)


# ---- the sources


def test_zero_fraction_is_the_coder(subject, rows, hookpoint, coder, values):
    none = substituted(LATENTS, 0.0, "top", ranking=torch.rand(LATENTS))
    for topk in (False, True):
        ours = logits_of(subject, coder, hookpoint, GivenLatents(values, none, topk), rows)
        expected = logits_of(subject, coder, hookpoint, TrueLatents(), rows)
        assert torch.allclose(ours, expected, atol=1e-4)


def test_true_activations_given_back_are_the_coder(subject, rows, hookpoint, coder):
    """Latents land in their own place: indices are indices, values values, rows rows."""
    x = hooked(subject, rows, hookpoint).inputs.flatten(0, 1)
    true = coder.dense(coder.encode(x)).detach().unflatten(0, rows.shape)
    expected = logits_of(subject, coder, hookpoint, TrueLatents(), rows)
    everywhere = logits_of(subject, coder, hookpoint, GivenLatents(true), rows)
    last = logits_of(subject, coder, hookpoint, GivenLatents(true[:, -1]), rows, "last")
    only_last = logits_of(subject, coder, hookpoint, TrueLatents(), rows, "last")
    assert torch.allclose(everywhere, expected, atol=1e-4)
    assert torch.allclose(last, only_last, atol=1e-4)


def test_the_skip_reads_the_true_input(subject, plain, rows, hookpoint, coder):
    def change(x, y):
        rest = coder.b_dec if coder.W_skip is None else x @ coder.W_skip.T + coder.b_dec
        return torch.cat([y[:, :1], rest.expand_as(y)[:, 1:]], dim=1)

    ours = logits_of(subject, coder, hookpoint, zero_latents(LATENTS), rows)
    assert torch.allclose(ours, by_hand(plain, hookpoint, rows, change), atol=1e-4)


def test_baselines_differ(subject, rows, hookpoint, coder, sources):
    losses = arm_losses(subject, coder, hookpoint, sources, rows, some_positions(rows)).losses.loss
    distance = (losses.T[:, None] - losses.T[None]).abs().mean(-1)
    distance.fill_diagonal_(1)
    assert distance.min() > 1e-3


def test_substitution_by_hand(subject, plain, rows, hookpoint, coder, values):
    """method §7: true top-k, overwrite, keep the k largest, decode, replace."""
    which = substituted(LATENTS, 0.4, "random", windows=len(rows), generator=generator(1))

    def change(x, y):
        latents = coder.encode(x[:, -1])
        z = torch.zeros(len(x), LATENTS)
        for row in range(len(x)):
            for value, index in zip(latents.values[row], latents.indices[row], strict=True):
                z[row, index] = value
            z[row, which[row]] = values[row, which[row]]
            kept = sorted(range(LATENTS), key=lambda j, row=row: -z[row, j])[:K]
            z[row] = torch.stack(
                [z[row, j] if j in kept else z.new_zeros(()) for j in range(LATENTS)]
            )
        skip = 0 if coder.W_skip is None else x[:, -1] @ coder.W_skip.T
        new = y.clone()
        new[:, -1] = z @ coder.W_dec + coder.b_dec + skip
        return new

    ours = logits_of(subject, coder, hookpoint, GivenLatents(values, which, True), rows, "last")
    assert torch.allclose(ours, by_hand(plain, hookpoint, rows, change), atol=1e-4)


# ---- the fast paths


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
    found = patched_losses_everywhere(subject, hookpoint, rows, mask, outputs, tokens=tokens)
    for arm in range(3):
        loss, kl = one_row_a_position(
            subject,
            None,
            hookpoint,
            lambda row, pos, arm=arm: GivenOutput(outputs[row, pos, arm]),
            rows,
            mask,
        )
        assert torch.allclose(found.loss[..., arm][mask], loss, atol=1e-4)
        assert torch.allclose(found.kl[..., arm][mask], kl, atol=1e-4)
    assert all(grid[~mask].isnan().all() for grid in found)


@torch.no_grad()
def test_one_position_a_row_is_the_same_number(subject, plain, rows, hookpoint):
    positions = torch.tensor([1, 10, 4, 4])
    outputs = torch.randn(4, 3, WIDTH, generator=generator(2))
    mask = torch.zeros(rows.shape, dtype=torch.bool)
    mask[range(4), positions] = True
    found = patched_losses(subject, hookpoint, rows, positions, outputs)
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


def test_an_arm_does_not_carry_losses_over_to_the_next(subject, rows, hookpoint):
    """The original pipeline's loss lists were not reset between fractions."""
    outputs = torch.randn(4, 4, WIDTH, generator=generator(2))
    outputs[:, 3] = outputs[:, 0]
    positions = torch.full((4,), 6)
    together = patched_losses(subject, hookpoint, rows, positions, outputs)
    again = patched_losses(subject, hookpoint, rows, positions, outputs)
    assert torch.equal(together.loss, again.loss)
    assert torch.allclose(together.loss[:, 3], together.loss[:, 0], atol=1e-5)
    for arm in range(4):
        single = patched_losses(subject, hookpoint, rows, positions, outputs[:, arm : arm + 1])
        assert torch.allclose(single.loss[:, 0], together.loss[:, arm], atol=1e-5)


def test_the_models_own_output_costs_nothing(subject, rows, hookpoint):
    outputs = hooked(subject, rows, hookpoint).outputs[:, :, None]
    mask = some_positions(rows)
    found = patched_losses_everywhere(subject, hookpoint, rows, mask, outputs)
    assert torch.allclose(found.loss[..., 0][mask], found.base_loss[mask], atol=1e-5)
    assert found.kl[..., 0][mask].abs().max() < 1e-5


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
        patched_losses(subject, MLP, rows, torch.tensor([3, 0, 3, 3]), outputs)
    with pytest.raises(ValueError, match="position 11 is the last"):
        patched_losses(subject, MLP, rows, torch.tensor([3, 11, 3, 3]), outputs)


# ---- what does not fit


def test_a_coder_of_another_hookpoint(subject, rows):
    wrong = coder_for(Hookpoint(1, "mlp"))
    with pytest.raises(ValueError, match=r"'layers\.1\.mlp', not to 'layers\.0\.mlp'"):
        logits_of(subject, wrong, MLP, TrueLatents(), rows)


def test_a_coder_of_another_width(subject, rows):
    wrong = random_coder(CoderConfig(d_in=WIDTH + 1, num_latents=8, k=2), generator())
    with pytest.raises(ValueError, match="width 33"):
        logits_of(subject, wrong, MLP, TrueLatents(), rows)


def test_a_layer_that_is_not_there(subject, rows):
    with pytest.raises(ValueError, match=r"'layers\.3\.mlp' is not in this model"):
        logits_of(subject, None, Hookpoint(3, "mlp"), Untouched(), rows)
    with pytest.raises(ValueError, match=r"'layers\.3' is not in this model"):
        hooked(subject, rows, Hookpoint(3, "resid"))


def test_values_of_other_rows(subject, rows, values):
    with pytest.raises(ValueError, match="values for 3 rows, but 4 rows are patched"):
        logits_of(subject, coder_for(MLP), MLP, GivenLatents(values[:3]), rows)


def test_a_mask_of_other_rows(subject, rows):
    mask = torch.ones(1, rows.shape[1], dtype=torch.bool)
    with pytest.raises(ValueError, match=r"mask \[batch pos\]"):
        logits_of(subject, coder_for(MLP), MLP, TrueLatents(), rows, mask)


def test_a_source_without_its_coder(subject, rows):
    with pytest.raises(ValueError, match="needs the coder"):
        logits_of(subject, None, MLP, TrueLatents(), rows)

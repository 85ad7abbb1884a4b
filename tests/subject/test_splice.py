"""The splice is exact and local, does what the method says, and is undone afterwards."""

import pytest
import torch
from splice_cases import (
    LATENTS,
    MLP,
    WIDTH,
    K,
    by_hand,
    coder_for,
    generator,
    given_losses,
    hooks_left,
    logits_of,
    some_positions,
)

from rewrite_utils.coder.sparse import (
    CoderConfig,
    random_coder,
)
from rewrite_utils.subject.model import (
    Hookpoint,
    load_subject,
)
from rewrite_utils.subject.splice import (
    GivenLatents,
    GivenOutput,
    TrueLatents,
    Untouched,
    arm_losses,
    hooked,
    spliced,
    substituted,
    zero_latents,
)

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
        given_losses(subject, hookpoint, rows, torch.full((4,), 3), torch.zeros(4, 2, 7))
    assert hooks_left(subject) == []
    assert torch.equal(subject.bridge(rows), plain(rows).logits)


def test_failure_above_the_splice_gives_back_the_blocks_below(
    subject, plain, rows, hookpoint, monkeypatch
):
    def fail(*args, **kwargs):
        raise RuntimeError("no memory")

    monkeypatch.setattr("rewrite_utils.subject.splice.resuming._fork", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        given_losses(subject, hookpoint, rows, torch.full((4,), 3), torch.zeros(4, 2, WIDTH))
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

"""What a latent does to the logits, against the derivative of final norm and unembedding."""

import torch
from splice_cases import WIDTH, coder_for, generator

from rewrite_utils.explain import logits
from rewrite_utils.subject.model import Hookpoint
from rewrite_utils.subject.pieces import token_texts


def derivative(plain, direction):
    """d logits / d residual along ``direction``, at a residual stream that the direction leaves at
    the same length: then the norm's scale does not change, and the rest is linear."""
    base = getattr(plain, plain.base_model_prefix)
    norm = base.norm if hasattr(base, "norm") else base.final_layer_norm
    stream = torch.randn(WIDTH, generator=generator(1))
    along = direction - direction.mean() if isinstance(norm, torch.nn.LayerNorm) else direction
    stream = stream - (stream @ along) / (along @ along) * along
    unembed = plain.get_output_embeddings()
    return torch.func.jvp(lambda x: unembed(norm(x)), (stream,), (direction,))[1].detach()


def test_the_effect_is_the_derivative_through_norm_and_unembedding(subject, plain):
    direction = torch.randn(WIDTH, generator=generator(2))
    expected = derivative(plain, direction)
    expected = (expected - expected.mean()) / expected.std()
    torch.testing.assert_close(
        logits.direct_effect(subject, direction), expected, atol=1e-3, rtol=0
    )


def test_raised_and_lowered_are_the_two_ends(subject, plain):
    coder = coder_for(Hookpoint(2, "mlp"))
    found = logits.promoted(subject, coder, 7, count=4)
    effect = derivative(plain, coder.W_dec[7].detach())[: len(subject.tokenizer)]
    order = effect.argsort(descending=True).tolist()
    for told, ids in ((found.raised, order[:4]), (found.lowered, order[:-5:-1])):
        assert [text for text, _ in told] == [token_texts(subject.tokenizer, [i])[0] for i in ids]
    assert found.raised[0][1] > found.raised[3][1] > found.lowered[3][1] > found.lowered[0][1]

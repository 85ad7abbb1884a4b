"""The tokens that a latent's decoder direction raises and lowers, through the unembedding alone.

In: a subject and a coder. Out: tokens with their logit change in standard deviations over the
vocabulary. Only the direct path: layers above the hookpoint also read the direction, so early in
the model this says little. Beyond the paper.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.subject.model import Subject
from rewrite_utils.subject.pieces import PART, token_texts

PATH = "direct path: decoder direction × final norm's gain × unembedding"


class Promoted(NamedTuple):
    """Tokens at both ends of a latent's direct effect on the logits."""

    raised: list[tuple[str, float]]
    """Token and logit change, in standard deviations over the vocabulary, largest first."""
    lowered: list[tuple[str, float]]
    """The same for the smallest, smallest first."""


@torch.no_grad()
def direct_effect(
    subject: Subject, direction: Float[Tensor, " d_model"]
) -> Float[Tensor, " vocab"]:
    """W_U (g ⊙ d), centred and in standard deviations; g is the final norm's gain.

    The norm's own scale is left out: it is common to all tokens.
    """
    model = subject.bridge.original_model
    unembed = model.get_output_embeddings().weight
    norm = _final_norm(model)
    direction = direction.to(unembed)
    if isinstance(norm, torch.nn.LayerNorm):
        direction = direction - direction.mean()
    effect = (unembed @ (direction * norm.weight)).float()
    return (effect - effect.mean()) / effect.std().clamp_min(1e-12)


def promoted(subject: Subject, coder: SparseCoder, latent: int, *, count: int = 8) -> Promoted:
    """The ``count`` tokens most raised and most lowered by one latent."""
    effect = direct_effect(subject, coder.W_dec[latent].detach())
    effect = effect[: len(subject.tokenizer)]
    ends = effect.topk(count), (-effect).topk(count)
    raised, lowered = (
        [(token_texts(subject.tokenizer, [i])[0], float(effect[i])) for i in end.indices.tolist()]
        for end in ends
    )
    return Promoted(raised, lowered)


def output_words(
    subject: Subject, coder: SparseCoder, latent: int, *, raises: int = 40, lowers: int = 10
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words that a latent raises and lowers most, as a description may name them.

    Tokens that hold a part of a character have no text and are left out.
    """
    found = promoted(subject, coder, latent, count=2 * max(raises, lowers))
    named = ([text for text, _ in end if text and not PART.search(text)] for end in found)
    raised, lowered = (tuple(dict.fromkeys(texts)) for texts in named)
    return raised[:raises], lowered[:lowers]


def caveat(above: int) -> str:
    """What the direct path leaves out with so many layers above the hookpoint."""
    if not above:
        return f"{PATH}, which from the last layer is the whole of it, but for the norm's scale"
    layers = "the layer" if above == 1 else f"the {above} layers"
    return f"{PATH}, without {layers} above, which can change it: the more, the less this says"


def _final_norm(model: torch.nn.Module) -> torch.nn.Module:
    """The norm before the unembedding: Llama-type ``norm``, GPT-NeoX ``final_layer_norm``."""
    base = getattr(model, model.base_model_prefix)
    for name in ("norm", "final_layer_norm", "ln_f"):
        norm = getattr(base, name, None)
        if norm is not None:
            return getattr(norm, "original_component", norm)
    raise AttributeError(f"{type(model).__name__} has no final norm of a known name")

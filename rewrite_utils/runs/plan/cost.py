"""One Cost: what a stage of a site reads, computes and writes; and what all of them count by.

In: parameters of a site, the subject's shape. Out: counts. Knows neither stages nor machines.
"""

from typing import NamedTuple

from rewrite_utils.subject.model import parse_hookpoint
from rewrite_utils.params import Site
from rewrite_utils.runs.machine import Machine
from rewrite_utils.runs.plan.shapes import ModelShape


EFFICIENCY = 0.8
"""Speed of a model's forward pass as a share of the measured product's. Measured side by side on
one busy core, 512–1,024 tokens: SmolLM2 float32 .75–.96 and bfloat16 .64–.91, Qwen2.5-1.5B
bfloat16 .71–1.26 (the last while the load changed)."""
BANDWIDTH = 5e9
"""Bytes a second through memory in scattered reads (1,024 latents, k 32: 10k tokens/s trained)."""
TOKENISER = 130_000
"""Tokens a second of the tokenizer (SmolLM2's on Wikipedia, one busy core)."""


class Cost(NamedTuple):
    """One stage of one site."""

    stage: str
    """As its folder in runs/<name>/stages; it begins with the notebook's number."""
    site: str
    """The site's name; empty for the corpus, which all sites share."""
    what: str
    """What is made, in words and numbers."""
    tokens: float = 0
    """Tokens that pass through the subject or the LLM."""
    predictions: int = 0
    """Answers asked of an LLM: sentences, yes-or-no judgements, ratings."""
    storage: float = 0
    """Bytes on disk at the stage's fullest moment."""
    flops: float = 0
    """Floating-point operations in matrix products."""
    dtype: str = "float32"
    """Precision of those products."""
    traffic: float = 0
    """Bytes moved through memory beside the products."""
    text: float = 0
    """Tokens made by the tokenizer."""


def hours(cost: Cost, machine: Machine) -> float:
    """Hours for one stage: products at ``EFFICIENCY``, plus memory traffic and tokenizer."""
    rate = machine.rates[machine.precision(cost.dtype)]
    products = cost.flops / (EFFICIENCY * rate)
    return (products + cost.traffic / BANDWIDTH + cost.text / TOKENISER) / 3600


def described(site: Site) -> int:
    """Latents that get a sentence; where all live ones do, at most the coder's width."""
    return site.described or site.latents


def layer_of(model: ModelShape, site: Site) -> int:
    """The block of a site's hookpoint."""
    return parse_hookpoint(site.hookpoint, n_layers=model.n_layers).layer


def flops_to(model: ModelShape, site: Site) -> int:
    """FLOPs a token up to and with the hooked block."""
    return model.flops(layers=layer_of(model, site) + 1)

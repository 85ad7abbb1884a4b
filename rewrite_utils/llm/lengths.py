"""How many tokens a prompt of each kind takes, roughly, without a tokenizer.

In: parameters. Out: tokens of the wording, of the evidence about one latent, of a judged sentence.
"""

from collections.abc import Collection
from typing import Any

from rewrite_utils.assets.shapes import shape
from rewrite_utils.llm import prompts
from rewrite_utils.llm.protocol import BLOCK
from rewrite_utils.params import LLM, Params
from rewrite_utils.params.asking import CPU_CACHE
from rewrite_utils.runs.cost import Cost, PlanError
from rewrite_utils.runs.machine import BYTES

WITH_ACTIVATIONS = 2.5
"""Prompt tokens an explanation window's token costs, its list of activations included."""
SENTENCE = 16
"""Tokens of a sentence with its examples in brackets."""
FRAME = 6
"""Tokens around a sentence in the simulator's own part of a prompt."""
NUMBER = 3
"""Tokens that number a window in a detection prompt and end its line."""


def prompt_tokens(name: str, options: Collection[str] = ()) -> int:
    """Rough length of a prompt's wording: 3.5 characters a token."""
    return round(sum(len(turn.text) for turn in prompts.turns(name, options)) / 3.5)


def explain_wording(params: Params) -> int:
    """Tokens of the explainer's wording."""
    options = params.explain.options
    return prompt_tokens("explain_more" if options else "explain", options)


def explain_prompt(params: Params) -> int:
    """Tokens of one explanation prompt, wording left out."""
    asked = params.explain
    silent = asked.counterexamples * (asked.window_tokens + 6) if asked.contrast != "none" else 0
    return round(asked.windows * asked.window_tokens * WITH_ACTIVATIONS) + silent + 6 * asked.logits


def detect_prompt(params: Params) -> int:
    """Tokens of one detection prompt, wording left out."""
    asked = params.score
    return SENTENCE + asked.per_prompt * (asked.window_tokens + NUMBER + 1)


def judged_tokens(params: Params, windows: int) -> int:
    """Tokens of judging one sentence on so many windows; alone, each shares its description."""
    asked = params.score
    if asked.per_prompt == 1:
        return SENTENCE + BLOCK // 2 + windows * (asked.window_tokens + FRAME)
    return -(-windows // asked.per_prompt) * detect_prompt(params)


def described(role: str, llm: LLM) -> str:
    """The line of a plan about an LLM; what a server computes is the server's."""
    if llm.engine == "server":
        return f"{role:9}  {llm.model}, asked at {llm.address or 'no address yet'}"
    return shape(llm.model).described(role, llm.model, llm.dtype)


def require_fits(section: str, llm: LLM, needed: int) -> None:
    """Raise PlanError where prompts of so many tokens do not fit the context of an LLM, or that
    context does not fit the LLM."""
    if llm.engine != "server":
        too_long = beyond(llm.context, shape(llm.model).context, llm.model)
        if too_long:
            raise PlanError(f"{section}.{too_long}")
    if needed > llm.context:
        raise PlanError(
            f"{section}: prompts of about {needed:,} tokens do not fit a context of "
            f"{llm.context:,}: raise {section}.context or show fewer or shorter windows"
        )


def beyond(context: int, positions: int, model: str) -> str:
    """What is wrong with a context that a model has no positions for; empty if nothing is."""
    if context <= positions:
        return ""
    return (
        f"context = {context:,} is more than the {positions:,} positions that {model} has: set "
        f"{positions} or less"
    )


def asked(
    llm: LLM,
    stage: str,
    site: str,
    what: str,
    *,
    tokens: float | int,
    sent: float | int,
    answers: int,
    storage: float | int,
) -> Cost:
    """What a stage costs that asks an LLM for so many answers; its weights must be in memory.

    ``tokens``: what is computed, shared beginnings once; ``sent``: whole prompts, for a server.
    """
    made: dict[str, Any] = {"predictions": answers, "storage": storage}
    if llm.engine == "server":
        remark = f"{llm.model}: whole prompts are sent to {llm.address}; its hours are not counted."
        return Cost(stage, site, what, tokens=sent, **made, remarks=(remark,))
    model = shape(llm.model)
    width = BYTES["float32" if llm.dtype == "float32" else "bfloat16"]  # auto: the narrower
    held = model.parameters * width + (llm.memory_gb or CPU_CACHE) * 2**30
    made |= {"dtype": llm.dtype, "memory": {f"LLM {llm.model}": held}}
    return Cost(stage, site, what, tokens=tokens, flops=tokens * model.flops(), **made)

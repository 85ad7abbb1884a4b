"""What a run asks of LLMs, in tokens: before it from its plan, after it from its stages' manifests.

A hosted LLM is paid by the token; what one costs is its provider's to say.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rewrite_utils.llm.protocol import Usage
from rewrite_utils.params import LLM
from rewrite_utils.runs.cost import Cost, PlanError
from rewrite_utils.runs.run import MANIFEST


def ahead(llms: Iterable[LLM], planned: Callable[[], Iterable[Cost]]) -> str:
    """What will be sent to servers, at most, where an LLM is on one; else nothing."""
    servers = dict.fromkeys(
        f"{llm.model} at {llm.address}" for llm in llms if llm.engine == "server"
    )
    if not servers:
        return ""
    try:
        sent = [cost for cost in planned() if cost.predictions and not cost.flops]
    except PlanError as error:
        return f"\nwill be asked: {' and '.join(servers)}; how much is not known: {error}"
    tokens, answers = sum(cost.tokens for cost in sent), sum(cost.predictions for cost in sent)
    return (
        f"\nwill be asked: {' and '.join(servers)}: about {tokens:,.0f} tokens in prompts, "
        f"{answers:,} answers, less what is there already (--plan says for what)"
    )


def spent(folder: Path, events: Iterable[Mapping[str, Any]]) -> str:
    """What LLMs were asked for by the stages that these events of a run's journal made; nothing
    where there were none."""
    total = Usage()
    for event in events:
        file = folder / "stages" / f"{event['stage']}-{event['hash']}" / MANIFEST
        if event["made"] and file.is_file():
            facts = json.loads(file.read_text(encoding="utf-8"))["facts"]
            total = total.plus(Usage(**facts.get("usage", {})))
    if not total.prompts:
        return ""
    return (
        f"LLMs were asked {total.prompts:,} prompts of {total.prompt_tokens:,} tokens "
        f"({total.cached_tokens:,} of them from a cache) and wrote {total.generated_tokens:,}\n"
    )

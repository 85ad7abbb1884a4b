"""The same site with other kinds of explanations: plain, contrastive, refined, with logits.

In: a site. Out: a site whose text, coder and latents are the same stages, and whose sentences and
scores are others; so that kinds can be compared latent by latent on the same windows.
"""

import dataclasses

from rewrite_utils.params.asking import PLAIN
from rewrite_utils.stages.site import SiteStages


def variant(site: SiteStages, kind: str) -> SiteStages:
    """The site with sentences of this kind (see ``Explain.of_kind``)."""
    params = site.params.model_copy(update={"explain": site.params.explain.of_kind(kind)})
    return SiteStages(dataclasses.replace(site.run, params=params), site.name)


def variants(site: SiteStages) -> dict[str, SiteStages]:
    """The plain kind and every kind that ``explain.compared`` names; without any, the site as it
    is, so that nothing is asked of an LLM."""
    if not site.params.explain.compared:
        return {PLAIN: site}
    kinds = dict.fromkeys((PLAIN, *site.params.explain.compared))
    return {kind: variant(site, kind) for kind in kinds}

"""The paper's diagram as code: every stage of every site of a run, made once and then reused.

``open_sites(run)["early"].scores`` makes what it needs (corpus, coder, latents, sentences) and
returns the table. site.py says what each stage reads and hashes, builders.py how it is made.
"""

from rewrite_utils.stages.site import CACHED_SPLITS, SIMULATED, SiteStages, open_sites

__all__ = ["CACHED_SPLITS", "SIMULATED", "SiteStages", "open_sites"]

"""Leads to the new site while rooms move over; gone when all have."""

from rewrite_utils.latents.stage import SIMULATED
from rewrite_utils.site import SiteStages, open_sites
from rewrite_utils.subject.stage import CACHED_SPLITS

__all__ = ["CACHED_SPLITS", "SIMULATED", "SiteStages", "open_sites"]

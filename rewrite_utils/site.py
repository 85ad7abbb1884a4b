"""All stages of a site, composed: ``open_sites(run)["early"].scores`` makes what it needs first."""

from rewrite_utils.stages.site import SiteStages, open_sites

__all__ = ["SiteStages", "open_sites"]

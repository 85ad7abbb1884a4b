"""All stages of a run, composed: of one site (stages), of several together, and what they cost."""

from rewrite_utils.site.costs import PLANNED, costs, plan_of, require_calibrators
from rewrite_utils.site.stages import SiteStages, open_sites
from rewrite_utils.site.together import (
    continuations,
    losses_at_once,
    losses_together,
    read_sites,
    windows_at_once,
)

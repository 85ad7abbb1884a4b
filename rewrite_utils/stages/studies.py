"""Old names."""

from rewrite_utils.rewrite import study_stages
from rewrite_utils.rewrite.study_stages import QUANTILE, TABLE  # noqa: F401


def _of(name):
    return lambda site: getattr(site, name)


estimators, oracle, specificity, fewer, shrink, screened = map(
    _of, ("estimators", "oracle", "specificity", "fewer", "shrink", "screened")
)
studied, few_windows, material = map(_of, ("studied", "few_windows", "material"))


def screens_of(site):
    """Old name."""
    return study_stages.screens(site.params, site.settings)


def screened_estimates(site, name):
    """Old name."""
    return site.screened_estimates


def held_out(site, name):
    """Old name."""
    return site.held_out(name)


def fewer_estimates(site, calibrators):
    """Old name."""
    counts = site.few_windows, site.settings.calibrate_windows
    return study_stages.fewer_estimates(site.evidence, site.ratings, counts, calibrators)


def judged(site, table):
    """Old name."""
    return site.judged(table)

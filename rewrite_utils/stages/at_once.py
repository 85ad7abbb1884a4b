"""Old names."""

from rewrite_utils.site import losses_at_once


def losses(run, sites):
    """Old name."""
    return losses_at_once(sites)


def windows_of(sites):
    """Old name."""
    return min(site.settings.control_windows for site in sites.values())

"""Old names."""


def variant(site, kind):
    """Old name."""
    return site.variant(kind)


def variants(site):
    """Old name."""
    return site.variants

"""Old names."""


def ways(site):
    """Old name."""
    return site.ways.stages


def way_stage(site, way):
    """Old name."""
    return site.ways.stage(way)


def rated(site, way):
    """Old name."""
    return site.ways.rated(way)


def comparison(site):
    """Old name."""
    return site.ways.comparison()


def everywhere(site):
    """Old name."""
    return site.ways.everywhere()


def true_everywhere(site, split):
    """Old name."""
    return site.true_everywhere(split)


def screening_curves(site):
    """Old name."""
    return site.screening_curves

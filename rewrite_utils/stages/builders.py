"""Old names."""

from rewrite_utils.llm import opening


def engine(llm):
    """See llm.opening."""
    return opening.engine(llm)


def window_texts(site, split):
    """See site.telling."""
    return site.telling.windows(split)


def description(site, latent, sentence, asked=None):
    """See site.telling."""
    return site.telling.about(latent, sentence, asked)

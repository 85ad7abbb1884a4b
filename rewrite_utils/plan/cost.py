"""What one stage of one site takes, whatever machine does it."""

from typing import NamedTuple


class Cost(NamedTuple):
    """One stage of one site."""

    stage: str
    """As its folder in runs/<name>/stages; it begins with the notebook's number."""
    site: str
    """The site's name; empty for the corpus, which all sites share."""
    what: str
    """What is made, in words and numbers."""
    tokens: float = 0
    """Tokens that pass through the subject or the LLM."""
    predictions: int = 0
    """Answers asked of an LLM: sentences, yes-or-no judgements, ratings."""
    storage: float = 0
    """Bytes on disk at the stage's fullest moment."""
    flops: float = 0
    """Floating-point operations in matrix products."""
    dtype: str = "float32"
    """Precision of those products."""
    traffic: float = 0
    """Bytes moved through memory beside the products."""
    text: float = 0
    """Tokens made by the tokenizer."""

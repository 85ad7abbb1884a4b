"""Rewriting the inside of a language model in plain English: the stages of arXiv 2501.18838.

One noun of the paper a file; the notebooks tell the story. Tensor shapes are written with one axis
vocabulary: `batch pos d_model latent k window digit arm`.
"""

__version__ = "0.1.0"

"""Exploring latents in a notebook: what does this latent do, is what is said of it right, is there
anything better to say?

``LatentExplorer(site)`` is the whole of it; a ``Session`` is the same without widgets. Reads the
stages of a run; makes two of its own (10_alone: each latent replaced alone; 10_fitted: how well
each description is read).
"""

from rewrite_utils.explorer.browser import LatentExplorer
from rewrite_utils.explorer.session import Session
from rewrite_utils.explorer.shelf import Shelf, headline

__all__ = ["LatentExplorer", "Session", "Shelf", "headline"]

"""Exploring latents in a notebook: what does this latent do, is its sentence right, is there a
better one?

``LatentExplorer(site)`` is the whole of it; ``card`` and ``comparison`` are its parts without
widgets. Reads the stages of a run; makes one of its own (10_alone: each latent replaced alone).
"""

from rewrite_utils.explorer.asking import Cancelled, NoSimulator, Simulator
from rewrite_utils.explorer.browser import LatentExplorer
from rewrite_utils.explorer.card import card, comparison
from rewrite_utils.explorer.shelf import Reading, Shelf
from rewrite_utils.explorer.table import headline

__all__ = [
    "Cancelled",
    "LatentExplorer",
    "NoSimulator",
    "Reading",
    "Shelf",
    "Simulator",
    "card",
    "comparison",
    "headline",
]

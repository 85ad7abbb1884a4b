"""The sparse coder: its formats, its training data, its training, and what it is worth."""

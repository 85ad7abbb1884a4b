"""The model under study in TransformerLens: hookpoints, token text, rows of text, the splice."""

"""From activations to one sentence a latent: evidence, asking, contrast, labels from elsewhere."""

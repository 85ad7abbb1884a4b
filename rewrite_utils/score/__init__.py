"""How well a sentence tells where its latent fires: detection, fuzzing, refinement by them."""

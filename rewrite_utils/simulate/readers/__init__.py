"""Readers: from descriptions and texts to the activation of every latent at every token.

A reader encodes each description once and each text once; a prediction is then a few products and
a small regression whose parameters were fitted on other latents. It is given texts and nothing
else: no subject, no coder, no activation of the latent that it reads. Beyond the paper, whose
simulator makes one LLM pass a (latent, window) pair; that one is in the folder above.
"""

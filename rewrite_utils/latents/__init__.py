"""What latents do: the cache, windows drawn from it, neighbours, and the LLM-free controls."""

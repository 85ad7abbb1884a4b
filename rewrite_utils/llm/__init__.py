"""The engine protocol, the engines behind it, and the prompts as text files."""

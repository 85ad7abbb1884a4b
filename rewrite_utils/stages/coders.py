"""Old names."""

from rewrite_utils.coder.stage import RANDOM  # noqa: F401

"""Old names."""

from rewrite_utils.score.stage import KINDS as SCORE_KINDS  # noqa: F401

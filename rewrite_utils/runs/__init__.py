"""Run folders, stages made once and reused, and papermill over the series of notebooks."""

"""Arms, estimates, verdict, usefulness and studies of the rewritten model."""

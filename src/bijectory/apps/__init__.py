"""From a problem to an answer, on the public surface only."""

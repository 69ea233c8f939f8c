"""Speed of Bijectory and its peers, cell by cell, in one interleaved run: ``python -m benchmarks.speed --help``."""

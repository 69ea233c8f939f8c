"""The command line: one verb a file, each parses, makes one public call, and prints.

Nothing here imports torch before a verb runs, so that ``--help`` answers at once. Data go to stdout, everything else to
stderr; ``main`` turns every error into one sentence and an exit code.
"""

from bijectory.cli.app import app
from bijectory.cli.run import main

__all__ = ["app", "main"]

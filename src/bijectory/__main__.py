"""``python -m bijectory`` is the command line."""

import sys

from bijectory.cli import main

sys.exit(main())

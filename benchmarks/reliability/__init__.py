"""Every figure of the reliability page: ``python -m benchmarks.reliability --help``.

Rows are grouped by subject, one module each. They call the functions of ``tests/measures.py`` and of the tests themselves,
so page and tests cannot disagree; the paths to both are put in place here, before the modules are imported.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

"""Small tables and quick settings."""

import numpy as np
import pandas as pd

QUICK = (
    "--recipe",
    "real_nvp",
    "--set",
    "layers=2",
    "--set",
    "hidden=16,16",
    "--seed",
    "1",
    "--no-report",
    "--epochs",
    "3",
)


def banana(rows=300):
    rng = np.random.default_rng(0)
    a = rng.normal(size=rows)
    return pd.DataFrame({"a": a, "b": a**2 + 0.3 * rng.normal(size=rows), "c": rng.random(rows)})

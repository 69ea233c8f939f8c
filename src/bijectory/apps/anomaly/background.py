"""Rows for a background flow: what a density learns of a table apart from how its columns belong together."""

from typing import Any

import numpy as np
import pandas as pd

from bijectory.errors import ConfigError, check
from bijectory.tables import to_frame


def perturb_rows(data: Any, *, share: float = 0.5, seed: int = 0) -> pd.DataFrame:
    """Exchange a share of the cells for values of the same column in other rows.

    Every column keeps its distribution, dependence between columns is weakened. A flow fitted to such rows knows the
    background; the ratio of the likelihoods says what is left when the background is taken away.

    Args:
        data: A table.
        share: Part of the cells of each column that is exchanged, in (0, 1].
        seed: Seed.

    Raises:
        ConfigError: If the share is outside (0, 1].

    References:
        Likelihood Ratios for Out-of-Distribution Detection, Ren, Liu, Fertig, Snoek, Poplin, DePristo, Dillon,
        Lakshminarayanan 2019, arXiv:1906.02845, sec. 3 (there: pixels and letters drawn uniformly).

    Example:
        >>> rows = perturb_rows({"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]}, share=1.0)
        >>> sorted(rows["a"]), bool((rows["a"] == rows["b"]).all())
        ([1, 2, 3, 4], False)
    """
    check(0 < share <= 1, ConfigError, f"share must be in (0, 1], got {share}.")
    frame, rng = to_frame(data).reset_index(drop=True), np.random.default_rng(seed)
    out = {}
    for name in frame.columns:
        values = frame[name].to_numpy(copy=True)
        chosen = np.flatnonzero(rng.random(len(values)) < share)
        values[chosen] = values[rng.permutation(chosen)]
        out[name] = values
    return pd.DataFrame(out)

"""Rows and images for a background flow: what a density learns of them apart from how their values belong together."""

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


def perturb_pixels(images: Any, *, share: float = 0.2, levels: int = 256, seed: int = 0) -> np.ndarray:
    """Exchange a share of the pixels for levels drawn uniformly.

    A flow fitted to such images knows how much of an image is flat or rough, and little of what it shows.

    Args:
        images: Whole-number pixels, of any shape.
        share: Part of the pixels (and channels) that is drawn anew, in (0, 1].
        levels: Number of levels of a pixel.
        seed: Seed.

    Returns:
        An array of the same shape and dtype.

    Raises:
        ConfigError: If the share is outside (0, 1].

    References:
        Likelihood Ratios for Out-of-Distribution Detection, Ren, Liu, Fertig, Snoek, Poplin, DePristo, Dillon,
        Lakshminarayanan 2019, arXiv:1906.02845, sec. 3.

    Example:
        >>> images = perturb_pixels(np.zeros((2, 50, 50), np.uint8), share=0.2)
        >>> images.dtype, bool(0.17 < (images > 0).mean() < 0.23)
        (dtype('uint8'), True)
    """
    check(0 < share <= 1, ConfigError, f"share must be in (0, 1], got {share}.")
    x, rng = np.array(images), np.random.default_rng(seed)
    chosen = rng.random(x.shape) < share
    x[chosen] = rng.integers(0, levels, int(chosen.sum()))
    return x

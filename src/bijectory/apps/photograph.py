"""A photograph as a table, and back: real data with far more structure than a mixture can hold.

Every pixel is a row ``(x, y, red, green, blue)``. A density of these rows knows where which colours are; painting its draws
shows at a glance what it has learned.
"""

from pathlib import Path

import numpy as np
import pandas as pd

COLUMNS = ("x", "y", "red", "green", "blue")
Array = np.ndarray


def pixels(image: Array, *, seed: int = 0) -> pd.DataFrame:
    """The rows of a picture, in random order.

    A pixel covers a unit square and an 8-bit colour stands for an interval, so each value gets uniform noise of one step
    (dequantization): the density of the rows is then a density in the usual sense, and bounded above.

    Args:
        image: ``(height, width, 3)``, 8 bits a channel.
        seed: Of the noise and the order.

    Example:
        >>> rows = pixels(np.zeros((2, 3, 3), dtype=np.uint8))
        >>> rows.shape, bool(rows["red"].between(0, 1).all()), bool(rows["x"].max() < 3)
        ((6, 5), True, True)
    """
    height, width, _ = image.shape
    rng = np.random.default_rng(seed)
    down, right = np.mgrid[:height, :width]
    table = np.column_stack([right.ravel(), height - 1 - down.ravel(), image.reshape(-1, 3)]).astype(np.float64)
    return pd.DataFrame(rng.permutation(table + rng.random(table.shape)), columns=COLUMNS)


def bounds(image: Array) -> dict[str, tuple[float, float]]:
    """The range of each column of ``pixels``."""
    height, width, _ = image.shape
    return {"x": (0.0, float(width)), "y": (0.0, float(height)), **dict.fromkeys(COLUMNS[2:], (0.0, 256.0))}


def paint(rows: pd.DataFrame, height: int, width: int, *, shrink: int = 2) -> Array:
    """Paint rows: the mean colour of every cell of ``shrink x shrink`` pixels, white where there is no row.

    Returns:
        ``(height // shrink, width // shrink, 3)``, 8 bits a channel.
    """
    h, w = height // shrink, width // shrink
    right = np.clip(rows["x"] // shrink, 0, w - 1).astype(int)
    down = h - 1 - np.clip(rows["y"] // shrink, 0, h - 1).astype(int)
    cell = (down * w + right).to_numpy()
    count = np.bincount(cell, minlength=h * w)
    sums = [np.bincount(cell, weights=rows[c], minlength=h * w) for c in COLUMNS[2:]]
    colour = np.where(count > 0, np.stack(sums) / np.maximum(count, 1), 255.0)
    return np.clip(colour, 0, 255).astype(np.uint8).T.reshape(h, w, 3)


def save_side_by_side(path: Path, *images: Array, gap: int = 8) -> None:
    """Write pictures of one height next to each other as a PNG file."""
    from matplotlib.image import imsave

    space = np.full((images[0].shape[0], gap, 3), 255, dtype=np.uint8)
    parts = [part for image in images for part in (image, space)][:-1]
    imsave(path, np.concatenate(parts, axis=1))

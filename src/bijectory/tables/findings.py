"""What spoils a density and can be seen in the table: each finder yields sentences with the remedy."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from bijectory.tables.prepare import HEAVY
from bijectory.tables.schema import Column

FEW = 20  # so few different values make a column discrete
POINT_MASS = 0.05  # so large a share of one value is a point mass
COLLINEAR = 1e-5  # smallest singular value of standardised columns, relative to the largest
SAMPLE = 20_000  # rows used to look for collinear columns


def constant_columns(columns: Sequence[Column]) -> Iterator[str]:
    """Columns with a single value."""
    for c in columns:
        if c.kind == "constant":
            fate = "it is ignored as a condition."
            if c.role == "target":
                fate = "it has no density; it is dropped from the flow and scored as exact match."
            yield f"column {c.name!r} is constant ({c.value:g}): {fate}"


def discrete_columns(columns: Sequence[Column], values: np.ndarray) -> Iterator[str]:
    """Targets with few or repeated values, or with point masses: their likelihood has no upper bound."""
    n = len(values)
    for k, c in enumerate(columns):
        if c.role == "given" or c.kind == "constant":
            continue
        few = c.distinct <= FEW and c.distinct < n / 2
        repeated = c.distinct < (0.9 * n if c.integer else 0.1 * n)
        if (
            c.kind == "bounded"
            and c.step is None
            and (share := ((values[:, k] == c.low) | (values[:, k] == c.high)).mean()) > 0.01
        ):
            yield f"column {c.name!r} lies exactly on a bound in {share:.1%} of the rows: a point mass has no density."
        if c.step is None and (few or repeated):
            what = "integer values" if c.integer else "values"
            yield (
                f"column {c.name!r} takes {c.distinct} different {what} in {n} rows; likelihood can grow without bound. "
                f"Pass dequantize=[{c.name!r}], or make it a given column."
            )
        elif c.step is None and n > FEW and c.distinct < (1 - POINT_MASS) * n:
            different, counts = np.unique(values[:, k], return_counts=True)
            top = int(np.argmax(counts))
            if counts[top] > POINT_MASS * n:
                yield (
                    f"column {c.name!r} is {different[top]:g} in {counts[top] / n:.0%} of the rows; a point mass has no "
                    "density and likelihood can grow without bound. Model the other rows, or make it a given column."
                )


def heavy_columns(columns: Sequence[Column], declared: Collection[str]) -> Iterator[str]:
    """Columns whose tails are compressed without having been asked for."""
    found = [c.name for c in columns if c.kind == "heavy" and c.name not in declared]
    if found:
        yield (
            f"heavy tails or outliers in {', '.join(map(repr, found))} (beyond {HEAVY:.0f} robust deviations from the "
            "median): compressed by arsinh, with the log-determinant counted. Pass heavy=[] to leave them as they are."
        )


def far_rows(columns: Sequence[Column], values: np.ndarray, train: np.ndarray | None) -> Iterator[str]:
    """Values that training never sees, far from all that it sees: they alone decide a validation loss or a test score."""
    if train is None:
        return
    held = np.ones(len(values), dtype=bool)
    held[train] = False
    for k, c in enumerate(columns):
        if c.kind != "numeric":
            continue
        distance = np.abs(values[:, k] - c.loc) / c.scale
        far = np.flatnonzero(held & (distance > HEAVY))
        if len(far):
            yield (
                f"column {c.name!r} is {values[far[0], k]:g} in row {far[0]}, {distance[far[0]]:.0f} standard deviations "
                f"from the training rows ({len(far)} such rows): held out, it decides the losses that choose and judge the "
                f"weights. Drop it, or pass heavy=[{c.name!r}]."
            )


def singular_columns(columns: Sequence[Column], values: np.ndarray) -> Iterator[str]:
    """Identical, proportional or collinear targets."""
    keep = [k for k, c in enumerate(columns) if c.role == "target" and c.kind != "constant" and c.step is None]
    x = values[:: max(1, len(values) // SAMPLE), keep]
    n, d = x.shape
    if n < 3 or d < 2:
        return
    x = x - x.mean(axis=0)
    norm = np.linalg.norm(x, axis=0)
    x = x / np.where(norm > 0, norm, 1)
    names = [columns[k].name for k in keep]
    pairs = np.argwhere(np.triu(np.abs(x.T @ x), 1) > 1 - 1e-10)
    for i, j in pairs[:5]:
        same = np.array_equal(values[:, keep[i]], values[:, keep[j]])
        what = "identical" if same else "linear functions of one another"
        yield f"columns ({names[i]}, {names[j]}) are {what}; density is singular, likelihood is unbounded. Drop one."
    if len(pairs) or n <= 2 * d:
        return
    _, singular, directions = np.linalg.svd(x, full_matrices=False)
    rank = int((singular > COLLINEAR * singular[0]).sum())
    if rank < d:
        involved = ", ".join(names[i] for i in np.flatnonzero(np.abs(directions[-1]) > 1e-3))
        yield f"columns ({involved}) are collinear (rank {rank} of {d}); density is singular, likelihood is unbounded."

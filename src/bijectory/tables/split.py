"""A split that depends on what the rows are, not on where they stand."""

import dataclasses

import numpy as np

SMALL = 50  # below so many different rows no test part is taken
TINY = 10  # below so many nothing is held out


@dataclasses.dataclass(frozen=True)
class Split:
    """Row numbers of the three parts, each in the order of the table: what ``split_rows`` returns."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_rows(values: np.ndarray, *, validation: float = 0.1, test: float = 0.1, seed: int = 0) -> Split:
    """Split rows by a seeded hash of their content.

    Equal rows go to the same part, so no row is tested that was trained on, and a row with weight 2 is the same as that
    row twice. The hash is taken of the ranks within each column: neither the order of the rows nor the units of the
    columns change the split. Fractions count different rows; fewer than 50 of them leave no test part, fewer than 10
    nothing at all.

    Args:
        values: ``(n, d)`` without NaN.
        validation: Fraction for early stopping.
        test: Fraction that training never sees.
        seed: Another seed gives another split.

    Example:
        >>> part = split_rows(np.random.default_rng(0).normal(size=(100, 2)))
        >>> len(part.train), len(part.validation), len(part.test)
        (80, 10, 10)
    """
    key = np.full(len(values), np.uint64(seed % 2**64))
    for column in values.T:
        key = _mix(key ^ np.unique(column, return_inverse=True)[1].astype(np.uint64))
    return split_keys(_mix(key), validation=validation, test=test)


def split_keys(keys: np.ndarray, *, validation: float = 0.1, test: float = 0.1) -> Split:
    """Split rows whose content is hashed to ``keys``, ``(n,)``; equal keys go to the same part. See ``split_rows``."""
    different, place = np.unique(keys, return_inverse=True)
    total = len(different)
    n_test = round(test * total) if total >= SMALL else 0
    n_validation = max(1, round(validation * total)) if total >= TINY and validation > 0 else 0
    test_rows, held = place < n_test, place < n_test + n_validation
    return Split(np.flatnonzero(~held), np.flatnonzero(held & ~test_rows), np.flatnonzero(test_rows))


def _mix(h: np.ndarray) -> np.ndarray:
    """Finaliser of splitmix64 (Steele, Lea, Flood 2014): every bit of the result depends on every bit of ``h``."""
    h = h + np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))

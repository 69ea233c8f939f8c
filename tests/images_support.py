"""Small images with structure, a quick recipe for them, and quick settings."""

import gzip
import struct

import numpy as np

import bijectory as bj

QUICK = bj.FitConfig(epochs=2, batch_size=64, lr=5e-3, progress=False, seed=1)
TINY = {"steps": 1, "hidden": 8}


def blobs(n=240, size=4, levels=8, channels=0, seed=0):
    """A bright corner (class 1) or edge (class 0) on a dark ground; ``(n, size, size[, channels])`` uint8, and classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    x = rng.poisson(0.5, (n, size, size, max(channels, 1))).astype(float)
    x[y == 1, : size // 2, : size // 2] += levels / 2
    x[y == 0, -1] += levels / 2
    x = x.clip(0, levels - 1).astype(np.uint8)
    return (x if channels else x[..., 0]), y


def simple(shape, context=0, *, levels, hidden=32):
    """Logit and one spline layer on flat pixels: a recipe that is quick."""
    d = int(np.prod(shape))
    logit = bj.Elementwise(bj.Logit(-0.05 * levels, 1.05 * levels), d)
    core = bj.nsf(d, context, layers=2, hidden=(hidden,), bins=4).transform
    return bj.Flow(bj.Chain(bj.Reshape(shape, (d,)), logit, *core), bj.StandardNormal(d))


def write_idx(path, array):
    """The idx format, packed if the name says so."""
    data = (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)

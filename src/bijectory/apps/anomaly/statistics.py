r"""What a flow knows about one row: log-likelihood, latent radius, norm of the score; and the complexity of an image.

A row with density zero (outside the bounds, a constant column with another value) has no latent and no gradient; its radius
and its score norm are infinite. A row with a missing value has NaN. An image has the latent and the gradient of the class
under which it is likeliest, where the flow is conditioned on classes.
"""

import math
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from bijectory.apps.images import ImageFlow
from bijectory.apps.table_flow import TableFlow
from bijectory.errors import ConfigError, ShapeError, check

CHUNK = 2048  # rows whose gradients are taken at a time


def log_likelihood(model: TableFlow | ImageFlow, data: Any) -> NDArray[np.float64]:
    """Log-likelihood of each row in nats; ``-inf`` outside the support, NaN for missing values.

    Args:
        model: The density.
        data: Rows, or images.
    """
    if isinstance(model, ImageFlow):
        return model.log_prob(data)
    return model.score_samples(data, nonfinite="propagate")


def latent_radius(model: TableFlow | ImageFlow, data: Any) -> NDArray[np.float64]:
    """Euclidean norm of the latent of each row: large where a normal base finds the row improbable.

    Args:
        model: The density.
        data: Rows, or images.
    """
    if isinstance(model, ImageFlow):
        return np.linalg.norm(model.encode(data, _likeliest(model, data)), axis=1)
    return _settle(model, data, np.linalg.norm(model.transform(data, nonfinite="propagate").to_numpy(), axis=1))


def score_norm(
    model: TableFlow | ImageFlow, data: Any, scale: NDArray[np.float64] | float = 1.0
) -> NDArray[np.float64]:
    r"""Norm of the score, :math:`\lVert \sigma \odot \nabla_x \log p(x) \rVert`.

    Args:
        model: The density.
        data: Rows, or images.
        scale: ``(targets,)`` unit of each column, best its standard deviation: the norm then does not depend on units.
    """
    if isinstance(model, ImageFlow):
        x = model.schema.encode(data) + 0.5
        c = model.schema.context(_likeliest(model, data), len(x))
        return _gradient_norm(model, x, c, scale)
    rows = model.schema.encode(data, "propagate")
    norm = _gradient_norm(model, model.schema.place(rows.x), rows.c, scale)
    return _settle(model, data, np.where(rows.valid, norm, np.nan))


def code_length(images: ArrayLike, levels: int = 256) -> NDArray[np.float64]:
    r"""Length of a lossless code of each image in nats: a simple stand-in for its Kolmogorov complexity.

    The code is PNG's without its headers: every pixel minus a prediction from its neighbours (none, left, above, or their
    average, the best for the image), then DEFLATE.

    Args:
        images: ``(n, height, width[, channels])`` of whole numbers.
        levels: Number of levels, at most 65536.

    Raises:
        ShapeError: If it is not a batch of images.
        ConfigError: If there are too many levels.

    References:
        Input complexity and out-of-distribution detection with likelihood-based generative models, Serrà, Álvarez, Gómez,
        Slizovskaia, Núñez, Luque 2019, arXiv:1909.11480, eq. 2.

    Example:
        >>> flat, noise = np.zeros((1, 16, 16)), np.random.default_rng(0).integers(0, 256, (1, 16, 16))
        >>> bool(code_length(flat)[0] < 0.1 * code_length(noise)[0])
        True
    """
    x = np.asarray(images)
    check(x.ndim in (3, 4), ShapeError, f"images have shape {x.shape}, expected (n, height, width[, channels]).")
    check(2 <= levels <= 1 << 16, ConfigError, f"levels={levels}; expected 2 to 65536.")
    x = x.astype(np.int64)
    left, above = np.zeros_like(x), np.zeros_like(x)
    left[:, :, 1:], above[:, 1:] = x[:, :, :-1], x[:, :-1]
    kind = np.dtype(np.uint8) if levels <= 256 else np.dtype(">u2")
    coded = [((x - p) % (1 << 8 * kind.itemsize)).astype(kind) for p in (0, left, above, (left + above) // 2)]
    sizes = [min(_deflated(filtered[i].tobytes()) for filtered in coded) for i in range(len(x))]
    return np.asarray(sizes, dtype=np.float64) * 8 * math.log(2)


def _likeliest(model: ImageFlow, data: Any) -> Any:
    """For a class-conditional model the class under which each image is likeliest, else None."""
    if not model.schema.classes:
        return None
    prior = np.log(np.maximum(model.schema.counts, 1e-12))
    return np.array(model.schema.classes)[(model.class_log_prob(data) + prior).argmax(1)]


def _deflated(data: bytes) -> int:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return len(packer.compress(data)) + len(packer.flush())


def _gradient_norm(
    model: TableFlow | ImageFlow, x: NDArray[Any], c: NDArray[Any] | None, scale: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    out = np.empty(len(x))
    tensors = (t for t in [*model.flow.parameters(), *model.flow.buffers()] if t.is_floating_point())
    like = next(tensors, torch.empty(0, dtype=torch.float64))
    rows = max(1, min(CHUNK, (1 << 17) // max(1, math.prod(x.shape[1:]))))
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        point = torch.from_numpy(x[part]).to(like).requires_grad_()
        context = None if c is None else torch.from_numpy(c[part]).to(like)
        (gradient,) = torch.autograd.grad(model.flow.log_prob(point, context).sum(), point)
        out[part] = np.linalg.norm((gradient.double().cpu().numpy() * scale).reshape(len(gradient), -1), axis=1)
    return out


def _settle(model: TableFlow, data: Any, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Infinite for rows of density zero, NaN for unknown ones."""
    known = model.schema.encode(data, "propagate").known
    return np.where(known == 0, values, np.where(np.isnan(known), np.nan, np.inf))

r"""Operator norms: how much a linear layer can stretch the difference of two inputs.

Three ways to the spectral norm :math:`\|W\|_2`, for one matrix or for a stack of them (the largest counts):

* ``spectral_norm``: by the largest eigenvalue of :math:`W^* W`, exact.
* ``gram_bound``: :math:`\|W\|_2 \le \|(W^* W)^{2^{n-1}}\|_F^{2^{-n}}`, an upper bound by matrix products alone that tightens
  doubly exponentially.
* ``power_iteration``: a lower bound, by applying the operator and its adjoint.

A convolution with zero padding is a block of a circular one on a grid just large enough that nothing wraps around, and a
circular one is block diagonal in Fourier space: ``fourier_blocks`` gives the blocks, whose largest norm is an upper bound.

References:
    Invertible Residual Networks, Behrmann, Grathwohl, Chen, Duvenaud, Jacobsen 2019, arXiv:1811.00995;
    The Singular Values of Convolutional Layers, Sedghi, Gupta, Long 2019, arXiv:1805.10408;
    Efficient Bound of Lipschitz Constant for Convolutional Layers by Gram Iteration, Delattre, Barthélemy, Araujo,
    Allauzen 2023, arXiv:2305.16173.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bijectory.ops.eager import is_direct


def spectral_norm(matrices: Tensor) -> Tensor:
    """Largest singular value of ``(…, o, i)``, real or complex; a scalar.

    The eigenvalues of a small symmetric matrix in double precision take less time than singular values in single precision,
    and the largest one loses nothing by squaring. First derivatives ask for one pair of singular vectors, of one matrix.
    """
    if torch.is_grad_enabled() and matrices.requires_grad and is_direct(matrices.view_as(matrices)):
        norm: Tensor = _SpectralNorm.apply(matrices)
        return norm
    return _largest(matrices)[0]


def _gram(matrices: Tensor) -> Tensor:
    """The smaller of the two products of a matrix with its adjoint, in double precision."""
    a = matrices if matrices.shape[-2] >= matrices.shape[-1] else matrices.mH
    a = a.to(torch.promote_types(a.dtype, torch.float64))
    return a.mH @ a


def _largest(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The spectral norm, and the largest squared singular value of every matrix."""
    squares = torch.linalg.eigvalsh(_gram(matrices))[..., -1]
    floor = torch.finfo(squares.dtype).tiny
    return squares.amax().clamp(min=floor).sqrt().to(matrices.real.dtype), squares


class _SpectralNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> Tensor:
        norm, squares = _largest(matrices)
        ctx.save_for_backward(matrices, squares)
        return norm

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        matrices, squares = ctx.saved_tensors
        if torch.is_grad_enabled():  # a backward pass that is itself recorded
            pulled: Tensor = torch.func.vjp(lambda m: _largest(m)[0], matrices)[1](g)[0]
            return pulled
        if matrices.dim() == 2:
            return g * _top_pair(matrices, squares)
        stack, k = matrices.flatten(0, -3), squares.argmax().reshape(1)
        pair = g * _top_pair(stack[k].squeeze(0), squares.flatten()[k])
        return torch.zeros_like(stack).index_copy_(0, k, pair.unsqueeze(0)).reshape(matrices.shape)


def _top_pair(matrix: Tensor, square: Tensor) -> Tensor:
    """Outer product of the singular vectors of the largest singular value, by inverse iteration with its square.

    The shift lies above the eigenvalue by far more than its rounding, so the matrix is definite, and by so little that an
    iteration shrinks everything else by twelve digits over the gap.
    """
    gram = _gram(matrix)
    n = len(gram)
    square = square.clamp(min=torch.finfo(square.dtype).tiny)
    eye = torch.eye(n, dtype=gram.dtype, device=gram.device)
    factor = torch.linalg.cholesky_ex(eye * (1 + 1e-12) - gram / square)[0]
    v = torch.arange(1, n + 1, dtype=square.dtype, device=gram.device).square().cos().to(gram.dtype).unsqueeze(-1)
    v = torch.cholesky_solve(torch.cholesky_solve(v, factor), factor)
    v = (v / torch.linalg.vector_norm(v)).to(matrix.dtype)
    wide = matrix.shape[-2] < matrix.shape[-1]
    u = (matrix.mH if wide else matrix) @ v
    u = u / torch.linalg.vector_norm(u).clamp(min=torch.finfo(u.real.dtype).tiny)
    return v @ u.mH if wide else u @ v.mH


def gram_bound(matrices: Tensor, iterations: int = 6) -> Tensor:
    """Upper bound of ``spectral_norm``, at most ``min(o, i) ** 2 ** -(iterations + 1)`` times as large."""
    a = matrices if matrices.shape[-2] >= matrices.shape[-1] else matrices.mH
    floor = torch.finfo(a.real.dtype).tiny
    largest = a.detach().abs().amax((-2, -1)).clamp(min=floor)
    a, log_scale = a / largest[..., None, None], largest.log()
    for k in range(iterations + 1):
        size = torch.linalg.matrix_norm(a).clamp(min=floor)  # rescaled at each step: powers neither overflow nor vanish
        log_scale = log_scale + size.log() / 2**k
        a = a / size[..., None, None]
        a = a.mH @ a if k < iterations else a
    return log_scale.exp().amax()


def fourier_blocks(kernel: Tensor, size: Sequence[int]) -> Tensor:
    """Matrices ``(F, o, i)`` whose largest norm bounds that of a padded convolution ("same", zeros) on images.

    Args:
        kernel: ``(o, i, height, width)`` with odd height and width.
        size: Height and width of the image.

    Returns:
        One complex matrix for each frequency (half of them: the others are conjugate); ``(1, o, i)`` for a 1x1 kernel.
    """
    taps = kernel.shape[-2:]
    if tuple(taps) == (1, 1):
        return kernel.flatten(1).unsqueeze(0)
    grid = [max(n + k // 2, k) for n, k in zip(size, taps, strict=True)]  # one margin is enough to keep the ends apart
    return torch.fft.rfft2(kernel, s=grid).flatten(2).movedim(-1, 0)


def power_iteration(
    apply: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor], start: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """Left and right singular vectors of the largest singular value, from a start on the left; without gradient.

    ``(u * apply(v)).sum()`` is the estimate of the norm, from below, with the right gradient in the weights.
    """
    with torch.no_grad():
        u = start
        for _ in range(iterations):
            v = _unit(adjoint(u))
            u = _unit(apply(v))
        v = _unit(adjoint(u))
    return u, v


def induced_norm(weight: Tensor, p: float, q: float) -> Tensor:
    r"""Upper bound of :math:`\|W\|_{p \to q} = \sup \|W x\|_q / \|x\|_p`.

    Exact for ``p = q = 2``, for ``p = 1`` and for ``q = inf``. Elsewhere, where the norm is hard to compute, the smaller of
    the bounds by rows and by columns, and for ``p = q`` that of Riesz and Thorin between the norms 1 and infinity.

    Args:
        weight: ``(o, i)``.
        p: Norm of the inputs, from 1 to infinity.
        q: Norm of the outputs.

    References:
        Residual Flows for Invertible Generative Modeling, Chen, Behrmann, Duvenaud, Jacobsen 2019, arXiv:1906.02735
        (induced mixed norms).
    """
    if p == q == 2:
        return spectral_norm(weight)
    dual = math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1)
    norm = torch.linalg.vector_norm
    rows = norm(norm(weight, dual, dim=1), q)  # Hoelder on every row
    columns = norm(norm(weight, q, dim=0), dual)  # the triangle inequality over columns, then Hoelder
    bound = torch.minimum(rows, columns)
    if p == q:
        one, infinity = weight.abs().sum(0).amax(), weight.abs().sum(1).amax()
        bound = torch.minimum(bound, one ** (1 / p) * infinity ** (1 - 1 / p))
    return bound


def _unit(v: Tensor) -> Tensor:
    return v / torch.linalg.vector_norm(v).clamp(min=torch.finfo(v.dtype).tiny)

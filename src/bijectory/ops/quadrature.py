r"""Integrals from zero by a fixed rule: :math:`\int_0^x g(t)\,dt \approx x \sum_i w_i\, g(\tau_i x)`, with positive weights.

Nodes :math:`\tau` lie in :math:`[0, 1]` and weights sum to one. *Gauss-Legendre* with ``n`` nodes is exact for polynomials
of degree ``2n - 1``; *Clenshaw-Curtis* for degree ``n - 1``, and its nodes include both ends. Both converge geometrically
for analytic functions. Derivatives with respect to anything in ``g`` are those of the sum (Leibniz' rule).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from torch import Tensor

Rule = Literal["gauss-legendre", "clenshaw-curtis"]


def quadrature(name: Rule, nodes: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights of a rule on ``[0, 1]``.

    Example:
        >>> tau, weight = quadrature("clenshaw-curtis", 3)  # Simpson's rule
        >>> [round(t, 4) for t in tau], [round(w, 4) for w in weight]
        ([0.0, 0.5, 1.0], [0.1667, 0.6667, 0.1667])
    """
    x, weight = np.polynomial.legendre.leggauss(nodes) if name == "gauss-legendre" else _clenshaw_curtis(nodes)
    return tuple(((x + 1) / 2).tolist()), tuple((weight / 2).tolist())


def integrate(g: Callable[[Tensor], Tensor], x: Tensor, tau: Tensor, weight: Tensor) -> Tensor:
    """Integral of ``g`` from 0 to ``x``.

    Args:
        g: Takes ``(n, *x.shape)`` and returns a shape that broadcasts with it; called once.
        x: Upper limits, of any shape and sign.
        tau: Nodes ``(n,)``.
        weight: Weights ``(n,)``.

    Example:
        >>> import torch
        >>> rule = (torch.tensor(v) for v in quadrature("gauss-legendre", 8))
        >>> round(integrate(torch.cos, torch.tensor(2.0), *rule).item(), 5)  # sin(2)
        0.9093
    """
    values = g(tau.view(-1, *(1,) * x.dim()) * x)
    return x * (weight.view(-1, *(1,) * (values.dim() - 1)) * values).sum(0)


def _clenshaw_curtis(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on ``[-1, 1]``: the integral of the Chebyshev interpolant."""
    n = nodes - 1
    theta = np.pi * np.arange(nodes) / n
    even = np.arange(0, n + 1, 2)
    moment = 2 / (1 - even.astype(float) ** 2)  # of the even Chebyshev polynomials; the odd ones vanish
    half = np.where((even == 0) | (even == n), 0.5, 1.0)
    weight = 2 / n * np.cos(np.outer(theta, even)) @ (half * moment)
    weight[[0, -1]] /= 2
    return -np.cos(theta), weight

r"""The log-determinant of :math:`I + J` for a map :math:`x \mapsto x + g(x)` with Jacobian :math:`J` of norm below 1.

* ``log_det``: exact, from the whole Jacobian, for few dimensions.
* ``power_series``: :math:`\log\det(I + J) = \sum_{k \ge 1} \frac{(-1)^{k+1}}{k} \operatorname{tr} J^k` with the trace
  estimated by probes, :math:`\operatorname{tr} A = E[v^\top A v]`, from vector-Jacobian products. Cut off after :math:`n`
  terms its bias is at most :math:`d\,\kappa^{n+1} / ((n + 1)(1 - \kappa))`. With a random :math:`N` of terms, each divided
  by :math:`P(N \ge k)` (Russian roulette) it is unbiased; ``roulette`` draws :math:`N` and gives these weights.

References:
    Invertible Residual Networks, Behrmann, Grathwohl, Chen, Duvenaud, Jacobsen 2019, arXiv:1811.00995;
    Residual Flows for Invertible Generative Modeling, Chen, Behrmann, Duvenaud, Jacobsen 2019, arXiv:1906.02735.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bijectory.ops.shape import feature_major

Map = Callable[[Tensor], Tensor]
Pullback = Callable[[Tensor], tuple[Tensor, Map]]


def log_det(j: Tensor) -> Tensor:
    """``log det(I + J)`` of ``(*batch, d, d)``, in at least float32; the determinant is positive where ``J`` contracts."""
    j = j.to(torch.promote_types(j.dtype, torch.float32))  # a network under autocast has its Jacobian in bfloat16
    eye = torch.eye(j.shape[-1], dtype=j.dtype, device=j.device)
    return torch.linalg.slogdet(eye + j).logabsdet


def roulette(survival: float, sure: int, samples: int, generator: torch.Generator | None = None) -> Tensor:
    r"""Weights :math:`1[N \ge k] / P(N \ge k)` of the terms :math:`k = 1, 2, …`, ``(samples, max N)``.

    The first ``sure`` terms are always there; each further one follows with probability ``survival``, so that :math:`N -
    sure` is geometric. In the mean over draws every weight is 1.

    Args:
        survival: Probability in (0, 1) to go on.
        sure: Number of terms that every draw has, at least 1.
        samples: Number of independent draws.
        generator: Source of randomness; the global one of the CPU if None.
    """
    device = torch.device("cpu") if generator is None else generator.device
    u = torch.rand(samples, dtype=torch.float64, generator=generator, device=device).cpu()
    count = sure + (torch.log(u) / torch.log(torch.tensor(survival, dtype=torch.float64))).floor().clamp(max=10_000)
    k = torch.arange(1, int(count.max()) + 1, dtype=torch.float64)
    return torch.where(k <= count[:, None], survival ** -(k - sure).clamp(min=0), 0.0)


def rademacher(shape: torch.Size, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Random signs: the probes of smallest variance, made where the generator is."""
    device = like.device if generator is None else generator.device
    return torch.randint(0, 2, shape, generator=generator, device=device).to(like) * 2 - 1


def power_series(
    pullback: Pullback, x: Tensor, probes: Tensor, weights: Tensor, event_dim: int = 1, *, neumann: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Value of a map ``g`` and an estimate of ``log det(I + J)`` for every probe.

    Args:
        pullback: ``x -> (g(x), pull)`` with ``pull(v)`` the products of cotangents ``(n, *batch, *event)`` with the Jacobian
            at ``x``. The map works event by event, with a Lipschitz constant below 1.
        x: ``(*batch, *event)``.
        probes: ``(samples, *batch, *event)`` (or what broadcasts to it) with mean 0 and covariance I.
        weights: Of the terms ``k = 1, 2, …``: ``(samples, n)``, or ``(n,)`` for all alike. Ones: the truncated series.
        event_dim: Number of rightmost dimensions of an event.
        neumann: Take the gradient from :math:`\partial \log\det(I + J) = E[\,y^\top (\partial J)\, v\,]` with the constant
            :math:`y^\top = v^\top \sum_k (-J)^k`: one product to differentiate instead of ``n``, so the memory does not grow
            with ``n``. First derivatives only.

    Returns:
        ``g(x)``, and ``(samples, *batch)``: their mean is the estimate, their spread its error.

    References:
        arXiv:1906.02735 (Russian roulette, and the Neumann series for gradients).
    """
    value, pull = pullback(x)
    probes = probes.expand(probes.shape[0], *value.shape)
    if event_dim == 1:
        probes = feature_major(probes)  # as everything that is pulled back
    n = weights.shape[-1]
    k = torch.arange(1, n + 1, dtype=weights.dtype)
    signed = weights * (1 - 2 * ((k + 1) % 2))  # + - + - …
    shares = torch.stack((signed, signed / k), -2).to(x).expand(probes.shape[0], 2, n)
    shares = shares.reshape(*shares.shape, *(1,) * value.dim()).movedim((2, 1), (0, 1))

    def inner(a: Tensor) -> Tensor:
        return (a * probes).flatten(a.dim() - event_dim).sum(-1)

    records = torch.is_grad_enabled() and neumann
    with torch.set_grad_enabled(torch.is_grad_enabled() and not neumann):
        row, neumanns, traces = probes, torch.zeros_like(probes), torch.zeros_like(probes)
        for in_neumann, in_trace in shares.unbind(0):
            if records:
                neumanns = torch.addcmul(neumanns, in_neumann, row)
            row = pull(row)
            traces = torch.addcmul(traces, in_trace, row)
        total = inner(traces)
    if records:
        surrogate = inner(pull(neumanns.detach()))
        total = total.detach() + (surrogate - surrogate.detach())
    return value, total

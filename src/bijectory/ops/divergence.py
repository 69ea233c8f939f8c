r"""Divergence of vector fields, :math:`\operatorname{tr} \partial v / \partial z`: exact or estimated.

``exact`` pulls every unit vector back through the field: as many passes as the event has entries.
``hutchinson`` needs one pass for each probe :math:`e`: with :math:`\mathbb E\, e e^\top = I`, the mean of
:math:`e^\top (\partial v / \partial z)\, e` is the trace. Probes are tensors that the caller draws (``probes``): a solver
must see the same ones throughout a solve, or its integrand is not a function of time.
``perceptron`` is the exact trace of a perceptron in closed form, for about the price of one pass, whatever the dimension.

References:
    A stochastic estimator of the trace of the influence matrix, Hutchinson 1990.
    FFJORD, Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019, arXiv:1810.01367, eq. 7-8.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from bijectory.errors import ConfigError, check
from bijectory.ops.shape import linear, sum_event

VectorField = Callable[[Tensor], Tensor]
"""``(*batch, *event) -> (*batch, *event)``, every row for itself."""


def exact(v: VectorField, z: Tensor, event_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Value and divergence of ``v``.

    Args:
        v: The field.
        z: Points ``(*batch, *event)``.
        event_dim: Number of rightmost dimensions of an event.

    Returns:
        ``v(z)`` and its divergence ``(*batch,)``.

    Example:
        >>> exact(lambda z: z**2, torch.tensor([[1.0, 2.0]]))[1]
        tensor([6.])
    """
    event = z.shape[z.dim() - event_dim :]
    value, pull, *_ = torch.func.vjp(v, z)
    basis = torch.eye(event.numel(), dtype=z.dtype, device=z.device).reshape(-1, *event)
    total = z.new_zeros(z.shape[: z.dim() - event_dim])
    for e in basis.unbind():  # a loop, so that the batch alone bounds the memory
        total = total + sum_event(pull(e.expand_as(value))[0] * e, event_dim)
    return value, total


def probes(
    shape: Sequence[int], noise: Literal["rademacher", "gaussian"] = "rademacher", *, generator: torch.Generator
) -> Tensor:
    """Random tensors of mean 0 and covariance 1, in float32.

    Args:
        shape: ``(k, *event)`` to share them between rows, or ``(k, *batch, *event)``.
        noise: Signs, which have the least variance, or normal numbers.
        generator: Where they come from.

    Raises:
        ConfigError: On another ``noise``.

    Example:
        >>> probes((2, 3), generator=torch.Generator().manual_seed(0)).abs()
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    known = ("rademacher", "gaussian")
    check(noise in known, ConfigError, f"noise must be one of {known}, got {noise!r}.")
    if noise == "gaussian":
        return torch.randn(*shape, generator=generator, device=generator.device)
    return 2.0 * torch.randint(0, 2, tuple(shape), generator=generator, device=generator.device) - 1.0


def hutchinson(v: VectorField, z: Tensor, e: Tensor, event_dim: int = 1) -> tuple[Tensor, Tensor]:
    r"""Value of ``v`` and an unbiased estimate of its divergence for every probe.

    Args:
        v: The field.
        z: Points ``(*batch, *event)``.
        e: Probes ``(k, *event)`` or ``(k, *batch, *event)``.
        event_dim: Number of rightmost dimensions of an event.

    Returns:
        ``v(z)``, and :math:`e^\top (\partial v / \partial z)\, e` of shape ``(k, *batch)``: average over ``k`` with
        ``mean_and_error``.

    Example:
        >>> e = probes((4, 2), generator=torch.Generator().manual_seed(0))
        >>> hutchinson(lambda z: z**2, torch.tensor([[1.0, 2.0]]), e)[1].mean()  # exact: the Jacobian is diagonal
        tensor(6.)
    """
    value, pull, *_ = torch.func.vjp(v, z)
    rows = [p.expand_as(value) for p in e.unbind()]
    return value, torch.stack([sum_event(pull(p)[0] * p, event_dim) for p in rows])


def mean_and_error(estimates: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of ``(k, *batch)`` estimates and its standard error ``(*batch,)``; NaN for the latter if ``k = 1``.

    Example:
        >>> mean_and_error(torch.tensor([1.0, 3.0]))
        (tensor(2.), tensor(1.))
    """
    k = len(estimates)
    spread = estimates.std(0) if k > 1 else torch.full_like(estimates[0], torch.nan)
    return estimates.mean(0), spread / k**0.5


def perceptron(weights: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    r"""Divergence of a perceptron from its weights and the slopes of its activations.

    With :math:`J = W_{L+1} G_L W_L \cdots G_1 W_1` and diagonal :math:`G_l = \operatorname{diag}(g_l)`,

    .. math::
        \operatorname{tr} W_1 \; (L = 0), \qquad
        g_1^\top \operatorname{diag}(W_1 W_2) \; (L = 1), \qquad
        g_2^\top \left(W_2 \circ (W_1 W_3)^\top\right) g_1 \; (L = 2):

    one more product of the size of the hidden layer. For :math:`L > 2` the product :math:`W_1 W_{L+1}` is carried through
    the layers in between, for every row.

    Args:
        weights: :math:`W_1, …, W_{L+1}` as ``(outputs, inputs)``; inputs of the first = outputs of the last.
        slopes: :math:`g_l`, ``(*batch, width)``.

    Returns:
        The divergence, ``(*batch,)``, or a scalar for ``L = 0``.

    Example:
        >>> perceptron([torch.eye(2), 3 * torch.eye(2)], [torch.tensor([1.0, 0.5])])
        tensor(4.5000)
    """
    first, last = weights[0], weights[-1]
    if not slopes:
        return first.diagonal().sum()
    ends = first @ last  # (width of layer 1, width of layer L)
    if len(slopes) == 1:
        return linear(slopes[0], ends.diagonal().unsqueeze(0)).squeeze(-1)
    if len(slopes) == 2:
        return (linear(slopes[0], weights[1] * ends.mT) * slopes[1]).sum(-1)
    carried = slopes[0].unsqueeze(-2) * ends.mT  # row j: the j-th unit of the last layer seen by layer 1
    for w, g in zip(weights[1:-2], slopes[1:-1], strict=True):
        carried = g.unsqueeze(-2) * (carried @ w.mT)
    return ((carried * weights[-2]).sum(-1) * slopes[-1]).sum(-1)


def perceptron_squares(weights: Sequence[Tensor], slopes: Sequence[Tensor], e: Tensor) -> Tensor:
    r""":math:`e^\top J e` for the Jacobian of a perceptron, one pass forwards for each direction.

    Args:
        weights: As for ``perceptron``.
        slopes: Likewise.
        e: Directions ``(k, *batch, inputs)``.

    Returns:
        ``(k, *batch)``.

    Example:
        >>> weights = [torch.eye(2), 3 * torch.eye(2)]
        >>> perceptron_squares(weights, [torch.tensor([1.0, 0.5])], torch.eye(2))
        tensor([3.0000, 1.5000])
    """
    d = linear(e, weights[0])
    for weight, slope in zip(weights[1:], slopes, strict=True):
        d = linear(slope * d, weight)
    return (e * d).sum(-1)

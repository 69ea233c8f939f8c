r"""The divergence of a perceptron in closed form, in two halves: what its weights determine, and what its point does.

With :math:`J = W_{L+1} G_L W_L \cdots G_1 W_1` and diagonal :math:`G_l = \operatorname{diag}(g_l)`,

.. math::
    \operatorname{tr} W_1 \; (L = 0), \qquad
    g_1^\top \operatorname{diag}(W_1 W_2) \; (L = 1), \qquad
    g_2^\top \left(W_2 \circ (W_1 W_3)^\top\right) g_1 \; (L = 2):

one more product of the size of the hidden layer. For :math:`L > 2` the product :math:`W_1 W_{L+1}` is carried through the
layers in between, for every row. All products of weights alone belong to the first half, once for many points.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bijectory.ops.shape import linear


def prepared(weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What of the divergence the weights determine.

    Args:
        weights: :math:`W_1, …, W_{L+1}` as ``(outputs, inputs)``; inputs of the first = outputs of the last.
    """
    first, last = weights[0], weights[-1]
    if len(weights) == 1:
        return (first.diagonal().sum(),)
    ends = first @ last  # (width of layer 1, width of layer L)
    if len(weights) == 2:
        return (ends.diagonal(),)
    if len(weights) == 3:
        core = weights[1] * ends.mT
        return core, core.sum(1)
    return (ends.mT, *weights[1:-1])


def divergence(once: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    """The divergence from what was ``prepared`` and the slopes of the activations.

    Args:
        once: As ``prepared`` returned it.
        slopes: :math:`g_l`, ``(*batch, width)``.

    Returns:
        The divergence, ``(*batch,)``, or a scalar for ``L = 0``.

    Example:
        >>> import torch
        >>> divergence(prepared([torch.eye(2), 3 * torch.eye(2)]), [torch.tensor([1.0, 0.5])])
        tensor(4.5000)
    """
    if not slopes:
        return once[0]
    if len(slopes) == 1:
        return linear(slopes[0], once[0].unsqueeze(0)).squeeze(-1)
    if len(slopes) == 2:
        return (linear(slopes[0], once[0]) * slopes[1]).sum(-1)
    ends, *between, last = once
    carried = slopes[0].unsqueeze(-2) * ends  # row j: the j-th unit of the last layer seen by layer 1
    for w, g in zip(between, slopes[1:-1], strict=True):
        carried = g.unsqueeze(-2) * (carried @ w.mT)
    return ((carried * last).sum(-1) * slopes[-1]).sum(-1)


def tanh_divergence(once: Sequence[Tensor], first: Tensor, second: Tensor) -> Tensor:
    r"""The divergence with two hidden layers of :math:`\tanh`, from their outputs; slopes :math:`1 - h^2` are never made.

    Args:
        once: As ``prepared`` returned it.
        first: :math:`h_1`, ``(*batch, width)``.
        second: :math:`h_2`.

    Returns:
        The divergence, ``(*batch,)``.

    Example:
        >>> import torch
        >>> once = prepared([torch.eye(2), torch.eye(2), 3 * torch.eye(2)])
        >>> tanh_divergence(once, torch.tensor([1.0, 0.5]), torch.zeros(2))
        tensor(2.2500)
    """
    core, rows = once
    seen = linear(first.square(), -core, rows)
    return torch.ops.aten.tanh_backward(seen, second).sum(-1)


def squares(weights: Sequence[Tensor], slopes: Sequence[Tensor], e: Tensor) -> Tensor:
    r""":math:`e^\top J e` for the Jacobian of a perceptron, one pass forwards for each direction.

    Args:
        weights: As for ``prepared``.
        slopes: Likewise.
        e: Directions ``(k, *batch, inputs)``.

    Returns:
        ``(k, *batch)``.

    Example:
        >>> import torch
        >>> weights = [torch.eye(2), 3 * torch.eye(2)]
        >>> squares(weights, [torch.tensor([1.0, 0.5])], torch.eye(2))
        tensor([3.0000, 1.5000])
    """
    d = linear(e, weights[0])
    for weight, slope in zip(weights[1:], slopes, strict=True):
        d = linear(slope * d, weight)
    return (e * d).sum(-1)

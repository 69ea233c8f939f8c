"""Raw parameters of a stack of layers: plain weights, or weights plus a network of the context."""

from torch import Tensor, nn

from bijectory.nets import MLP


def context_net(net: nn.Module | None, phi: Tensor, context: int, hidden: tuple[int, ...]) -> nn.Module | None:
    """The network that adds to ``phi``, ``(L, P)``: the given one, a perceptron, or none without context."""
    return (net or MLP(0, phi.numel(), hidden, context)) if context else None


def raw_parameters(phi: Tensor, net: nn.Module | None, c: Tensor | None, batch_dim: int) -> Tensor:
    """``phi`` plus the network's output, with the parameters first.

    Args:
        phi: ``(L, P)``.
        net: ``net(c[..., :0], c) -> (*batch_c, L * P)``, or None.
        c: ``(*batch_c, context)``, or None.
        batch_dim: Number of batch dimensions of the data.

    Returns:
        ``(L, P)``, or ``(L, P, *batch_p)`` with ``batch_dim`` batch dimensions that broadcast against the data's.
    """
    if net is None or c is None:
        return phi
    raw = phi.flatten() + net(c[..., :0], c)
    raw = raw.reshape(*(1,) * (batch_dim + 1 - raw.dim()), *raw.shape)
    return raw.movedim(-1, 0).unflatten(0, phi.shape)

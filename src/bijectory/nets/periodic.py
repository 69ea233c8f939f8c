"""Networks of angles."""

import math

import torch
from torch import Tensor, nn


class Periodic(nn.Module):
    r"""A network that sees angles only through sine and cosine, hence periodic: ``net(cat(cos, sin)(pi x / B), c)``.

    Args:
        net: Called with ``(*batch, 2 * features)`` and the context.
        bound: Half circumference ``B``.

    Example:
        >>> from bijectory.nets import MLP
        >>> net = Periodic(MLP(4, 3))
        >>> x = torch.tensor([0.3, -math.pi])
        >>> torch.allclose(net(x), net(x + 2 * math.pi), atol=1e-5)
        True
    """

    def __init__(self, net: nn.Module, bound: float = math.pi) -> None:
        super().__init__()
        self.net, self.bound = net, bound

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Evaluate the network on angles ``(*batch, features)``."""
        angle = (x * (math.pi / self.bound)).movedim(-1, 0)
        return self.net(torch.cat((angle.cos(), angle.sin())).movedim(0, -1), c)

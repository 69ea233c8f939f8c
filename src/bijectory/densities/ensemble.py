"""Several fits of one density, averaged."""

import math

import torch
from torch import Tensor, nn

from bijectory.densities.base import Density, refuse_gradients
from bijectory.errors import ConfigError, check, check_type


class Ensemble(Density):
    r"""Average :math:`p(x|c) = \frac1K \sum_k p_k(x|c)` of densities that were fitted apart.

    The members read the raw context, each through its own ``embed``. The average is never worse than the members are on
    average, in held-out log-likelihood (Jensen), and is wider where they disagree. A draw takes one draw of every member;
    it carries no gradient. For learned weights see ``Mixture``.

    Args:
        *members: The densities :math:`p_k`, on events of one shape and contexts of one width.

    Raises:
        ConfigError: If there is no member, or their events or contexts differ.
        FlowError: From ``rsample``, if gradients are enabled and a weight is trained.

    References:
        Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, Lakshminarayanan, Pritzel, Blundell
        2017, arXiv:1612.01474.

    Example:
        >>> from bijectory import BoxUniform
        >>> p = Ensemble(BoxUniform(1), BoxUniform(1, 0.5, 1.5))
        >>> p.log_prob(torch.tensor([[0.25], [0.75]])).exp()
        tensor([0.5000, 1.0000])
    """

    def __init__(self, *members: Density) -> None:
        super().__init__()
        check(len(members) > 0, ConfigError, "an Ensemble needs at least one member.")
        first = members[0]
        for k, p in enumerate(members):
            check_type(p, Density, f"member {k}")
            check(
                p.event_shape == first.event_shape and p.context == first.context,
                ConfigError,
                f"member {k} has events {tuple(p.event_shape)} and context={p.context}, the first has events "
                f"{tuple(first.event_shape)} and context={first.context}.",
            )
        self.members = nn.ModuleList(members)
        self.event_shape, self.context = first.event_shape, first.context
        self.exact = all(p.exact for p in members)

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        terms = torch.stack([p.log_prob(x, c) for p in self.members])  # type: ignore[operator]
        return terms.logsumexp(0) - math.log(len(self.members))

    def sample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        with torch.no_grad():
            draws = torch.stack([p.sample(shape, c, generator=generator) for p in self.members])  # type: ignore[operator]
            batch = draws.shape[1 : draws.dim() - len(self.event_shape)]
            index = torch.randint(len(draws), (1, *batch), generator=generator, device=draws.device)
            index = index.reshape(1, *batch, *(1,) * len(self.event_shape)).expand(1, *draws.shape[1:])
            return draws.gather(0, index).squeeze(0)

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        refuse_gradients(self, "use sample().")
        return self.sample(shape, c, generator=generator)

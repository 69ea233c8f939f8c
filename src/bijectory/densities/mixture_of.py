"""Mixture of any densities."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.densities.base import Density, refuse_gradients
from bijectory.densities.validate import check_context
from bijectory.errors import ConfigError, ContextError, check, check_type
from bijectory.nets import MLP
from bijectory.ops.shape import draw_shape


class Mixture(Density):
    r"""Mixture :math:`p(x|c) = \sum_k \pi_k(c)\, p_k(x|c)` of any densities or flows, with learned weights.

    With a context the weights are a function of it, and those components that read it are given it: for example the
    class-conditional mixture ``Mixture(*(DiagonalNormal(d, classes, ()) for _ in range(3)), context=classes)`` with
    one-hot classes as context. A draw takes one draw of every component. Draws carry no gradient (the choice of a component
    has none): ``rsample`` refuses unless all weights are fixed; ``GaussianMixture`` has differentiable draws.

    Args:
        *components: The densities :math:`p_k`, on events of one shape.
        context: Width of the context of weights and components, 0 for none.
        hidden: Hidden widths of the network of the weights (with context only).
        net: A network of your own, ``net(c[..., :0], c) -> (*batch, K)``: logits.

    Raises:
        ConfigError: If there is no component, or their events or contexts differ.
        FlowError: From ``rsample``, if gradients are enabled and some weight is learned.

    Example:
        >>> from bijectory import BoxUniform, StandardNormal
        >>> p = Mixture(StandardNormal(1), BoxUniform(1, 5.0, 6.0))
        >>> p.log_prob(torch.tensor([[5.5], [7.5]])).exp()
        tensor([5.0000e-01, 1.2172e-13], grad_fn=<ExpBackward0>)
    """

    logits: Tensor

    def __init__(
        self, *components: Density, context: int = 0, hidden: Sequence[int] = (128, 128), net: nn.Module | None = None
    ) -> None:
        super().__init__()
        check(len(components) > 0, ConfigError, "a Mixture needs at least one component.")
        for k, p in enumerate(components):
            check_type(p, Density, f"component {k}")
            check(
                p.event_shape == components[0].event_shape and p.context in (0, context),
                ConfigError,
                f"component {k} has events {tuple(p.event_shape)} and context={p.context}, the mixture has events "
                f"{tuple(components[0].event_shape)} and context={context}.",
            )
        self.components = nn.ModuleList(components)
        self.event_shape, self.context, self.hidden = components[0].event_shape, context, tuple(hidden)
        self.exact = all(p.exact for p in components)
        self.surface = any(p.surface for p in components)
        self.register_parameter("logits", None if context else nn.Parameter(torch.zeros(len(components))))
        self.net = (net or MLP(0, len(components), hidden, context)) if context else None

    def _log_weights(self, c: Tensor | None) -> Tensor:
        """``(*batch of c, K)``."""
        if self.net is None:
            return self.logits.log_softmax(0)
        if c is None:
            raise ContextError(f"this density was built with context={self.context} but got context=None.")
        check_context(self, c, self.context)
        return self.net(c[..., :0], c).log_softmax(-1)

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        c = c if self.context else None
        terms = [p.log_prob(x, c if p.context else None) for p in self.components]  # type: ignore[operator]
        return torch.logsumexp(self._log_weights(c) + torch.stack(torch.broadcast_tensors(*terms), -1), -1)

    def sample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        batch = draw_shape(shape, c, torch.Size())
        c = c if self.context else None
        with torch.no_grad():
            edges = self._log_weights(c).exp().cumsum(-1)[..., :-1]  # K - 1 edges: rounding cannot leave the range
            u = torch.rand((*batch, 1), generator=generator, dtype=edges.dtype, device=edges.device)
            choice = (u >= edges).sum(-1)
            draws = torch.stack(
                [
                    p.sample(shape, c, generator=generator) if p.context else p.sample(batch, generator=generator)  # type: ignore[operator]
                    for p in self.components
                ]
            )
            index = choice.reshape(1, *batch, *(1,) * len(self.event_shape)).expand(1, *batch, *self.event_shape)
            return draws.gather(0, index).squeeze(0)

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        refuse_gradients(self, "use sample(), or a GaussianMixture.")
        return self.sample(shape, c, generator=generator)

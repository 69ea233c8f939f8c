"""A scalar family applied to every feature on its own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bijectory.bijections.base import Bijection
from bijectory.errors import ConfigError, check, check_type
from bijectory.nets import MLP
from bijectory.ops.precision import as_precise_as
from bijectory.ops.shape import expand_to_context, sum_event, to_planes
from bijectory.transforms.base import Transform


class Elementwise(Transform):
    """One scalar bijection for each feature; parameters are free, or functions of the context.

    ``initialize`` starts a family that reads its first parameters off the data (``Gaussianization``); with a context it
    sets the bias of the built-in conditioner.

    Args:
        bijection: The scalar family.
        features: Number of features.
        context: Width of the context; 0 makes the raw parameters ``phi`` plain weights, ``(P, features)``.
        hidden: Hidden widths of the conditioner (with context only).
        net: A conditioner of your own, ``net(c[..., :0], c) -> (*batch, P * features)``, plane-major rows.

    Raises:
        ConfigError: If ``features < 1``.

    Example:
        >>> from bijectory.bijections import Affine
        >>> z, ladj = Elementwise(Affine(), features=3)(torch.ones(5, 3))
        >>> z.shape, ladj.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    regions = ("forward", "inverse")
    initialised: Tensor

    def __init__(
        self,
        bijection: Bijection,
        features: int,
        context: int = 0,
        hidden: Sequence[int] = (128, 128),
        net: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_type(bijection, Bijection, "bijection")
        check(features >= 1, ConfigError, f"features must be at least 1, got {features}.")
        self.bijection, self.features, self.context, self.hidden = bijection, features, context, tuple(hidden)
        outputs = bijection.n_params * features
        # A family without parameters owns none: an empty Parameter would never get a gradient.
        self.phi = nn.Parameter(torch.zeros(bijection.n_params, features)) if outputs and not context else None
        built = MLP(0, outputs, hidden, context) if net is None and context and outputs else net
        self.net = built if context and outputs else None
        if bijection.data_dependent:
            self.register_buffer("initialised", torch.tensor(False))  # noqa: FBT003

    def _planes(self, x: Tensor, c: Tensor | None) -> Tensor:
        if self.phi is not None:
            return self.phi.unflatten(0, (-1, *(1,) * (x.dim() - 1)))
        if self.net is None or c is None:  # a family without parameters
            return x.new_zeros(0, self.features)
        return as_precise_as(x, to_planes(self.net(c[..., :0], c), self.bijection.n_params))

    def forward(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = expand_to_context(x, c if self.context else None, 1)
        z, ladj = self.bijection.forward(x, self._planes(x, c))
        return z, sum_event(ladj, 1)

    def inverse(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = expand_to_context(z, c if self.context else None, 1)
        x, ladj = self.bijection.inverse(z, self._planes(z, c))
        return x, sum_event(ladj, 1)

    def initialize(self, x: Tensor, c: Tensor | None = None) -> None:
        if not self.bijection.data_dependent or self.initialised:
            return
        start = self.bijection.initial(x.reshape(-1, self.features))
        with torch.no_grad():
            if self.phi is not None:
                self.phi.copy_(start)
            elif isinstance(self.net, MLP):
                self.net.head.bias.copy_(start.flatten())
        self.initialised.fill_(True)  # noqa: FBT003

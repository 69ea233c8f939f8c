"""A scalar family with its two directions swapped."""

import dataclasses

from torch import Tensor

from bijectory.bijections.base import Bijection
from bijectory.errors import check_type


@dataclasses.dataclass(frozen=True)
class Inverted(Bijection):
    r"""A family with its directions swapped: :math:`y = \tau^{-1}(x; \phi)`.

    Of ``Affine`` it makes the map of masked autoregressive flows, :math:`z = (x - \mu)\, e^{-\alpha}`, whose parameters are
    mean and log-scale of the *data*.

    Args:
        bijection: The family :math:`\tau`.

    Raises:
        ConfigError: If ``bijection`` is not a ``Bijection``.

    Example:
        >>> import torch
        >>> from bijectory import Affine
        >>> z, ladj = Inverted(Affine()).forward(torch.tensor([5.0]), torch.tensor([[2.0], [0.0]]))
        >>> z.item(), ladj.abs().item()
        (3.0, 0.0)
    """

    bijection: Bijection

    def __post_init__(self) -> None:
        check_type(self.bijection, Bijection, "bijection")

    @property
    def n_params(self) -> int:
        return self.bijection.n_params

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return self.bijection.inverse(x, phi)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return self.bijection.forward(y, phi)

"""Independent blocks of columns."""

import torch
from torch import Tensor, nn

from bijectory.densities.base import Density
from bijectory.errors import ConfigError, check, check_type
from bijectory.ops.shape import draw_shape


class Product(Density):
    r"""Product :math:`p(x | c) = \prod_k p_k(x_k | c)` of densities of blocks of columns, e.g. a base on a product manifold.

    Args:
        *factors: Densities of one-dimensional events, in the order of their columns; those that read a context are given
            the whole of it.

    Raises:
        ConfigError: If there is no factor, an event is not a vector, or two factors read contexts of different widths.

    Example:
        >>> from bijectory import StandardNormal, UniformSphere
        >>> p = Product(UniformSphere(3), StandardNormal(2))
        >>> p.log_prob(torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]))
        tensor(-4.3689)
    """

    def __init__(self, *factors: Density) -> None:
        super().__init__()
        check(len(factors) > 0, ConfigError, "a Product needs at least one factor.")
        widths = set()
        for k, p in enumerate(factors):
            check_type(p, Density, f"factor {k}")
            shape = tuple(p.event_shape)
            check(len(shape) == 1, ConfigError, f"factor {k} has events of shape {shape}; a Product takes vectors.")
            widths |= {p.context} - {0}
        check(len(widths) <= 1, ConfigError, f"factors read contexts of different widths, {sorted(widths)}.")
        self.factors = nn.ModuleList(factors)
        self.event_shape = torch.Size((sum(p.event_shape[0] for p in factors),))
        self.context = max(widths, default=0)
        self.exact = all(p.exact for p in factors)
        self.surface = any(p.surface for p in factors)

    def _contexts(self, c: Tensor | None) -> list[Tensor | None]:
        return [c if p.context else None for p in self.factors]

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        parts = x.split([p.event_shape[0] for p in self.factors], -1)  # type: ignore[index]
        terms = [p.log_prob(v, k) for p, v, k in zip(self.factors, parts, self._contexts(c), strict=True)]  # type: ignore[operator]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def sample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return self._draw("sample", shape, c, generator)

    def rsample(
        self, shape: int | tuple[int, ...] = (), c: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return self._draw("rsample", shape, c, generator)

    def _draw(
        self, how: str, shape: int | tuple[int, ...], c: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        batch = draw_shape(shape, c, torch.Size())
        draws = [
            getattr(p, how)(*((batch,) if k is None else (shape, k)), generator=generator)
            for p, k in zip(self.factors, self._contexts(c), strict=True)
        ]
        return torch.cat(draws, -1)

    def from_uniform(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        parts = u.split([p.event_shape[0] for p in self.factors], -1)  # type: ignore[index]
        draws = [p.from_uniform(v, k) for p, v, k in zip(self.factors, parts, self._contexts(c), strict=True)]  # type: ignore[operator]
        batch = torch.broadcast_shapes(*(x.shape[:-1] for x in draws))
        return torch.cat([x.expand(*batch, x.shape[-1]) for x in draws], -1)

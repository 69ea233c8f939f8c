"""The objects under the laws: a fresh build with trained-like parameters, and inputs that fit it."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bijectory.bijections import Bijection
from bijectory.densities import Density
from bijectory.testing.violation import TOLERANCES, Tolerance
from bijectory.transforms import Transform

Map = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
SPREAD = 1.5  # inputs are wider than the standard normal, so that tails are visited


def unchanged(x: Tensor) -> Tensor:
    """The domain of a map on all of R^n."""
    return x


def everywhere(x: Tensor) -> Tensor:
    """The support of a density on all of R^n: ``(rows, ...) -> (rows,)``."""
    return torch.ones(len(x), dtype=torch.bool, device=x.device)


def randomize(module: nn.Module, seed: int = 0, scale: float = 0.3) -> nn.Module:
    """Give every parameter trained-like values, in place: matrices ~ N(0, (2 scale)^2 / fan-in), others ~ N(0, scale^2)."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            width = 2.0 / max(p[:1].numel(), 1) ** 0.5 if p.dim() >= 2 else 1.0
            p.copy_(torch.randn(p.shape, generator=g) * scale * width)
    return module


class Way(NamedTuple):
    """One direction of a map: its name, the call, the call back, and its inputs."""

    name: str
    call: Map
    back: Map
    inputs: Callable[..., Tensor]


class Chart(NamedTuple):
    """Coordinates on a surface, all but a part without area: where a density on the surface is a density on R^k.

    Attributes:
        flat: Rows of data -> coordinates ``(rows, k)``.
        rows: Coordinates -> rows of data and the logarithm of their area for each unit of volume of the coordinates.
    """

    flat: Callable[[Tensor], Tensor]
    rows: Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A family of fresh, identical objects and the inputs that fit them.

    Attributes:
        name: For messages.
        build: Builds the object anew; two builds may differ in their random initial weights.
        event_shape: Shape of one event of ``x``.
        context: Width of the context, 0 for none.
        dtype: Working precision.
        domain: Maps normal noise ``(*batch, *event_shape)`` into the domain of ``forward``.
        range: Maps normal noise into the domain of ``inverse``.
        start: ``x -> y`` of a bijection at ``phi = 0``; the identity by default.
        support: Rows of data -> booleans: where a density is defined; outside it may give NaN.
        saturates: The map flattens out in floating point far out (a sigmoid), so extremes cannot come back.
        weights: Size of the trained-like weights, the scale of ``randomize``.
        context_free: Outputs that may ignore the context.
        idle: Names of parameters that may receive no gradient.
        reparameterised: A density whose draws carry gradients.
        chart: Coordinates for a density with respect to the area of a surface.
        seed: Seed of parameters and inputs.
    """

    name: str
    build: Callable[[], Any]
    event_shape: tuple[int, ...]
    context: int = 0
    dtype: torch.dtype = torch.float32
    domain: Callable[[Tensor], Tensor] = unchanged
    range: Callable[[Tensor], Tensor] = unchanged
    start: Callable[[Tensor], Tensor] = unchanged
    support: Callable[[Tensor], Tensor] = everywhere
    saturates: bool = False
    weights: float = 0.3
    context_free: tuple[int, ...] = ()
    idle: tuple[str, ...] = ()
    reparameterised: bool = True
    chart: Chart | None = None
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.name}, context={self.context}, {str(self.dtype).removeprefix('torch.')}"

    @property
    def tolerance(self) -> Tolerance:
        """The bounds for the working precision."""
        return TOLERANCES[self.dtype]

    def fresh(self, seed: int | None = None) -> Any:
        """A new build from a given seed, with its initial weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed if seed is None else seed)
            built = self.build()
        return built.to(self.dtype) if isinstance(built, nn.Module) else built

    def trained(self) -> Any:
        """A new build with trained-like weights, the same for every call."""
        built = self.fresh()
        return randomize(built, self.seed, self.weights) if isinstance(built, nn.Module) else built

    def noise(self, *shape: int, salt: int = 0) -> Tensor:
        """Standard normal numbers, drawn in float64 so that every dtype sees the same."""
        g = torch.Generator().manual_seed(1000 * self.seed + salt)
        return torch.randn(shape, generator=g, dtype=torch.float64)

    def x(self, *batch: int, salt: int = 1) -> Tensor:
        """Points in the domain of ``forward``: ``(*batch, *event_shape)``."""
        return self.domain(SPREAD * self.noise(*batch, *self.event_shape, salt=salt)).to(self.dtype)

    def z(self, *batch: int, salt: int = 2) -> Tensor:
        """Points in the domain of ``inverse``."""
        return self.range(SPREAD * self.noise(*batch, *self.latent_shape(), salt=salt)).to(self.dtype)

    def latent_shape(self) -> tuple[int, ...]:
        """Event shape on the latent side."""
        built = self.fresh()
        shape = torch.Size(self.event_shape)
        return tuple(built.latent_shape(shape)) if isinstance(built, Transform) else tuple(shape)

    def side(self, *batch: int, salt: int = 3) -> Tensor | None:
        """The second argument: a context ``(*batch, context)``, raw parameters of a bijection, or None."""
        built = self.fresh()
        if isinstance(built, Bijection):
            return self.noise(built.n_params, *batch, *self.event_shape, salt=salt).to(self.dtype)
        return self.noise(*batch, self.context, salt=salt).to(self.dtype) if self.context else None

    @property
    def side_dim(self) -> int:
        """Where the batch of the second argument begins: raw parameters have their planes first."""
        return 1 if isinstance(self.fresh(), Bijection) else 0

    def row(self, side: Tensor | None, index: int) -> Tensor | None:
        """One row of the second argument."""
        return None if side is None else side.select(self.side_dim, index)

    def in_dtype(self, dtype: torch.dtype) -> "Subject":
        """The same subject in another precision."""
        return dataclasses.replace(self, dtype=dtype)

    def ways(self, built: Any | None = None) -> tuple[Way, Way]:
        """Both directions of the trained map."""
        m = self.trained() if built is None else built
        return Way("forward", m.forward, m.inverse, self.x), Way("inverse", m.inverse, m.forward, self.z)


def detached(*tensors: Tensor | None) -> list[Tensor]:
    """Leaves that require gradients, of the tensors that are there and not empty."""
    return [t.detach().clone().requires_grad_() for t in tensors if t is not None]


def event_dim(built: Any) -> int:
    """Rightmost dimensions summed in the log-determinant: 0 for a bijection."""
    if isinstance(built, Transform):
        return built.event_dim
    return len(built.event_shape) if isinstance(built, Density) else 0

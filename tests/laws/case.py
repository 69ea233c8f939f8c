"""What a law case is, and maps of standard normal noise into the domains that cases need."""

import dataclasses
import math
from collections.abc import Callable

import torch

from bijectory.testing import Subject
from bijectory.testing.subject import Chart, everywhere, unchanged

FEATURES = 4
CONTEXT = 3
# A search for a root, or the solution of an equation, is a long graph to capture: every run does it for the layers, and for
# the densities of the recipes; their draws are left to the slow tests.
UNROLLED = ("captures", "to_data_exports")
GRAPHS = (*UNROLLED, "density_captures", "density_exports")  # left to the slow tests where another case is alike
CAPTURES = ("captures",)  # left to the slow tests where the same search captures in another case


@dataclasses.dataclass(frozen=True)
class Case:
    """One object under the laws.

    Attributes:
        name: Shown in test ids; starts with the public name exercised, then ``-variant``.
        build: ``context -> module`` (or bijection).
        contexts: Context widths to try.
        features: Size of the event, or its shape.
        domain: Maps standard normal noise into the domain of ``forward``.
        range: Maps standard normal noise into the range of ``forward`` (domain of ``inverse``).
        start: A bijection's map at ``phi = 0``.
        support: Where a density is defined.
        saturates: Flattens out in floating point, so points at 1e6 cannot come back.
        weights: Size of the trained-like weights.
        context_free: Outputs that may ignore the context.
        idle: Regular expressions of parameters that may receive no gradient.
        reparameterised: Draws of a density carry gradients.
        chart: Coordinates for a density on a surface.
        slow: Laws that take too long on it for every run.
    """

    name: str
    build: Callable[[int], object]
    contexts: tuple[int, ...] = (0, CONTEXT)
    features: int | tuple[int, ...] = FEATURES
    domain: Callable[[torch.Tensor], torch.Tensor] = unchanged
    range: Callable[[torch.Tensor], torch.Tensor] = unchanged
    start: Callable[[torch.Tensor], torch.Tensor] = unchanged
    support: Callable[[torch.Tensor], torch.Tensor] = everywhere
    saturates: bool = False
    weights: float = 0.3
    context_free: tuple[int, ...] = ()
    idle: tuple[str, ...] = ()
    reparameterised: bool = True
    chart: Chart | None = None
    slow: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def subject(self, context: int, dtype: torch.dtype) -> Subject:
        return Subject(
            name=self.name,
            build=lambda: self.build(context),
            event_shape=(self.features,) if isinstance(self.features, int) else self.features,
            context=context,
            dtype=dtype,
            domain=self.domain,
            range=self.range,
            start=self.start,
            support=self.support,
            saturates=self.saturates,
            weights=self.weights,
            context_free=self.context_free,
            idle=self.idle,
            reparameterised=self.reparameterised,
            chart=self.chart,
        )


between = lambda x: 5 * torch.sigmoid(x) - 2
from_between = lambda x: torch.logit((x + 2) / 5)


def logistics(reach: float, slope: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Logit of the distribution function of two equal logistics at plus and minus ``reach``, with a least slope."""
    cdf = lambda x: (torch.sigmoid(slope * (x - reach)) + torch.sigmoid(slope * (x + reach))) / 2
    return lambda x: (0.999 * torch.logit(cdf(x.double())) + 0.001 * x.double()).to(x.dtype)


two_logistics = logistics(math.pi / 12**0.5, 2 / 3**0.5)


def gaussianized(x: torch.Tensor) -> torch.Tensor:
    """Normal quantile of two equal logistics of unit variance together."""
    t = logistics(0.5, math.pi / 1.5)(x.double())
    tail = torch.special.ndtri(torch.sigmoid(-t.abs()))  # the small side of the distribution function keeps its digits
    return torch.where(t < 0, tail, -tail).to(x.dtype)


def angles(x: torch.Tensor) -> torch.Tensor:
    """Angles clear of the seam, where one rounding is a whole turn."""
    return 3.1 * torch.sin(x)


def unit(x: torch.Tensor) -> torch.Tensor:
    """Unit vectors."""
    return x / x.norm(dim=-1, keepdim=True)


def stereographic(features: int, rest: int = 0) -> Chart:
    """Coordinates of the sphere, seen from its north pole, and of ``rest`` more columns as they are."""

    def flat(x: torch.Tensor) -> torch.Tensor:
        u, more = x.split((features, rest), -1)
        return torch.cat((u[:, :-1] / (1 - u[:, -1:]), more), -1)

    def rows(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, more = y.split((features - 1, rest), -1)
        s = y.square().sum(-1, keepdim=True)
        area = (features - 1) * (2 / (1 + s)).log().squeeze(-1)
        return torch.cat((2 * y / (1 + s), (s - 1) / (s + 1), more), -1), area

    return Chart(flat, rows)


def light(x: torch.Tensor) -> torch.Tensor:
    """PowerTails at ``phi = 0``, in the words of the paper."""
    mass = (1 + 0.2 * x.abs() / (torch.pi / 2) ** 0.5) ** -5
    return x.sign() * 2**0.5 * torch.erfinv(1 - mass)


def first_angle(x: torch.Tensor) -> torch.Tensor:
    """An angle and three numbers."""
    return torch.cat((angles(x[..., :1]), x[..., 1:]), -1)


def two_squares(x: torch.Tensor) -> torch.Tensor:
    """Integral of ``1 + 0.999 (t / 10)^2``, the sum of two squares, within [-5, 5]."""
    inner = x.clamp(-5, 5)
    return inner + 0.00333 * inner**3 + (x - inner) * (1 + 0.00999 * inner**2)

"""Run every law on one object: the conformance tests as a call."""

from collections.abc import Callable

import torch
from torch import Tensor

from bijectory.bijections import Bijection
from bijectory.densities import Density
from bijectory.testing.bijections import BIJECTION_LAWS, COSTLY_BIJECTION_LAWS
from bijectory.testing.densities import COSTLY_DENSITY_LAWS, DENSITY_LAWS
from bijectory.testing.subject import Chart, Subject, unchanged
from bijectory.testing.transforms import COSTLY_TRANSFORM_LAWS, TRANSFORM_LAWS
from bijectory.testing.violation import Law
from bijectory.transforms import Transform

Points = Callable[[Tensor], Tensor]


def check_bijection(
    bijection: Bijection,
    *,
    domain: Points = unchanged,
    range: Points = unchanged,
    start: Points = unchanged,
    saturates: bool = False,
    seed: int = 0,
) -> None:
    """Run every law of scalar bijections, in float32 and float64.

    Args:
        bijection: The formula.
        domain: Maps normal noise into the domain of ``forward``.
        range: Maps normal noise into the domain of ``inverse``.
        start: The map at ``phi = 0``, the identity unless documented otherwise.
        saturates: The map flattens out in floating point, so points at 1e6 cannot come back.
        seed: Seed of inputs and parameters.

    Raises:
        LawViolation: At the first law that does not hold.

    Example:
        >>> from bijectory import Affine
        >>> check_bijection(Affine())
    """
    s = Subject(
        type(bijection).__name__,
        lambda: bijection,
        (3,),
        domain=domain,
        range=range,
        start=start,
        saturates=saturates,
        seed=seed,
    )
    _run(s, BIJECTION_LAWS, COSTLY_BIJECTION_LAWS)


def check_transform(
    build: Callable[[], Transform],
    event_shape: int | tuple[int, ...],
    *,
    context: int = 0,
    domain: Points = unchanged,
    range: Points = unchanged,
    saturates: bool = False,
    context_free: tuple[int, ...] = (),
    idle: tuple[str, ...] = (),
    seed: int = 0,
) -> None:
    """Run every law of transforms, in float32 and float64, on trained-like weights.

    Args:
        build: Builds the transform anew.
        event_shape: Shape of one event of ``x``, or the number of features.
        context: Width of the context it reads.
        domain: Maps normal noise into the domain of ``forward``.
        range: Maps normal noise into the domain of ``inverse``.
        saturates: The map flattens out in floating point, so points at 1e6 cannot come back.
        context_free: Outputs that may ignore the context.
        idle: Regular expressions of parameters that may receive no gradient.
        seed: Seed of inputs and parameters.

    Raises:
        LawViolation: At the first law that does not hold.

    Example:
        >>> from bijectory import Affine, Coupling
        >>> check_transform(lambda: Coupling(Affine(), (True, False), hidden=(8,)), 2)
    """
    s = Subject(
        "transform",
        build,
        _shape(event_shape),
        context,
        domain=domain,
        range=range,
        saturates=saturates,
        context_free=context_free,
        idle=idle,
        seed=seed,
    )
    _run(s, TRANSFORM_LAWS, COSTLY_TRANSFORM_LAWS)


def check_density(
    build: Callable[[], Density],
    event_shape: int | tuple[int, ...],
    *,
    context: int = 0,
    domain: Points = unchanged,
    chart: Chart | None = None,
    reparameterised: bool = True,
    idle: tuple[str, ...] = (),
    seed: int = 0,
) -> None:
    """Run every law of densities, in float32 and float64, on trained-like weights.

    Args:
        build: Builds the density anew.
        event_shape: Shape of one event, or the number of features.
        context: Width of the context it reads.
        domain: Maps normal noise into the support.
        chart: Coordinates for a density with respect to the area of a surface.
        reparameterised: Draws carry gradients.
        idle: Regular expressions of parameters that may receive no gradient.
        seed: Seed of inputs and parameters.

    Raises:
        LawViolation: At the first law that does not hold.

    Example:
        >>> from bijectory import StandardNormal
        >>> check_density(lambda: StandardNormal(2), 2)
    """
    s = Subject(
        "density",
        build,
        _shape(event_shape),
        context,
        domain=domain,
        chart=chart,
        reparameterised=reparameterised,
        idle=idle,
        seed=seed,
    )
    _run(s, DENSITY_LAWS, COSTLY_DENSITY_LAWS)


def _shape(event_shape: int | tuple[int, ...]) -> tuple[int, ...]:
    return (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)


def _run(s: Subject, laws: tuple[Law, ...], costly: tuple[Law, ...]) -> None:
    for dtype in (torch.float32, torch.float64):
        for law in laws:
            law(s.in_dtype(dtype))
    for law in costly:
        law(s.in_dtype(torch.float64))

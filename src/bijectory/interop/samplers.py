"""Flows for samplers that speak NumPy: nested sampling (dynesty, nautilus, ...) and ensembles of walkers (emcee, ...).

A nested sampler walks in the unit cube and asks for two functions: the prior's map from the cube to the parameters, here
``prior_transform(flow)``, and the log-likelihood. An MCMC sampler asks for a log-density, here ``log_prob_function(flow)``.
Both functions take one point ``(d,)`` or any batch ``(*batch, d)`` of them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from bijectory.densities import Density
from bijectory.errors import ConfigError, ContextError, NonFiniteError, ShapeError, check, check_type

Cube = Callable[[ArrayLike], NDArray[np.float64]]


def prior_transform(density: Density, c: Any = None) -> Cube:
    """The map from the unit cube to the data of a density: uniform points become draws.

    Exact: quantiles of the base, feature by feature, then the flow.

    Args:
        density: A flow whose base has quantiles in closed form (``StandardNormal``, ``DiagonalNormal``, ``BoxUniform``,
            ``StudentT``, ``TruncatedNormal``, ``Product``, ``TorchDensity`` with ``icdf``), or such a base.
        c: One context, ``(context,)``; None if it reads none.

    Returns:
        A function of points ``(d,)`` or ``(*batch, d)`` of the cube, to float64.

    Raises:
        FlowError: If the base has no quantile function in closed form, at once and not in the middle of a run.
        ConfigError, ContextError: If events are not vectors, or the context is not one.
        ShapeError: From the function, if points have the wrong number of coordinates.

    Example:
        >>> from bijectory import BoxUniform
        >>> prior_transform(BoxUniform(2, lower=(0.0, 10.0), upper=(1.0, 20.0)))([0.5, 0.25])
        array([ 0.5, 12.5])
    """
    features, like, given = _door(density, c)
    with torch.no_grad():
        density.from_uniform(torch.full((features,), 0.5, dtype=torch.float64, device=like.device), given)

    def transform(u: ArrayLike) -> NDArray[np.float64]:
        points = _points(u, features, "u")
        with torch.no_grad():
            return density.from_uniform(points.to(like.device), given).double().cpu().numpy()

    return transform


def log_prob_function(
    density: Density, c: Any = None, *, bounds: Sequence[tuple[float, float]] | None = None
) -> Callable[[ArrayLike], Any]:
    """The log-density as a function of NumPy arrays.

    Args:
        density: A flow, or any density of vectors.
        c: One context, ``(context,)``; None if it reads none.
        bounds: ``(low, high)`` for each feature, beyond which the answer is ``-inf`` without asking the flow: for flows
            that begin with a layer on an interval.

    Returns:
        A function of points ``(d,)``, to a float, or ``(*batch, d)``, to float64 ``(*batch,)``. Points that are not finite
        get ``-inf``.

    Raises:
        ConfigError, ContextError: If events are not vectors, the context is not one, or the bounds do not fit.
        ShapeError: From the function, if points have the wrong number of coordinates.
        NonFiniteError: From the function, if the log-density of a finite point is NaN.

    Example:
        >>> from bijectory import StandardNormal
        >>> f = log_prob_function(StandardNormal(2))
        >>> round(f([0.0, 0.0]), 4), f(np.zeros((5, 2))).shape
        (-1.8379, (5,))
    """
    features, like, given = _door(density, c)
    box = torch.tensor([(-math.inf, math.inf)] * features if bounds is None else list(bounds), dtype=torch.float64)
    fits = box.shape == (features, 2) and bool((box[:, 0] < box[:, 1]).all())
    check(fits, ConfigError, f"bounds must be {features} pairs (low, high), got {bounds!r}.")
    with torch.no_grad():
        inner = density.sample((), given).double().cpu()  # stands in for points where the flow is not asked

    def log_prob(x: ArrayLike) -> Any:
        points = _points(x, features, "x")
        inside = (points.isfinite() & (points >= box[:, 0]) & (points <= box[:, 1])).all(-1)
        safe = torch.where(inside.unsqueeze(-1), points, inner)
        with torch.no_grad():
            value = density.log_prob(safe.to(dtype=like.dtype, device=like.device), given).double().cpu()
        value = torch.where(inside, value, -math.inf)
        bad = value.isnan()
        if bool(bad.any()):
            at = points[bad].reshape(-1, features)[0].tolist()
            raise NonFiniteError(
                f"the log-density is NaN at {at}; if this lies outside the flow's domain, pass bounds=[(low, high), ...]."
            )
        return value.numpy() if value.dim() else float(value)

    return log_prob


def _door(density: Density, c: Any) -> tuple[int, Tensor, Tensor | None]:
    """Number of features, a tensor of the density's dtype and device, the context likewise."""
    check_type(density, Density, "density")
    shape = tuple(density.event_shape)
    check(len(shape) == 1, ConfigError, f"events have shape {shape}; a sampler walks in vectors.")
    like = _like(density)
    if c is None:
        check(not density.context, ContextError, f"this density reads a context of {density.context}; pass c.")
        return shape[0], like, None
    given = torch.as_tensor(np.asarray(c) if not isinstance(c, Tensor) else c).to(dtype=like.dtype, device=like.device)
    one = f"c has shape {tuple(given.shape)}; a sampler needs one context, ({density.context},)."
    embedded = isinstance(getattr(density, "embed", None), nn.Module)
    check(embedded or given.dim() == 1, ContextError, one)
    return shape[0], like, given


def _like(density: nn.Module) -> Tensor:
    tensors = [*density.parameters(), *density.buffers()]
    return next((t for t in tensors if t.is_floating_point()), torch.empty(0))


def _points(x: ArrayLike, features: int, name: str) -> Tensor:
    points = torch.from_numpy(np.array(x, dtype=np.float64))
    ok = points.dim() >= 1 and points.shape[-1] == features
    check(ok, ShapeError, f"{name} has shape {tuple(points.shape)}; expected ({features},) or (*batch, {features}).")
    return points

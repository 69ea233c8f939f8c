r"""Manifolds as formulas: Euclidean space, tori, spheres and products of them, each written in columns of numbers.

A point has ``features`` coordinates: a torus has one angle a column in :math:`[-\pi, \pi]`, the sphere :math:`S^{n-1}` the
:math:`n` coordinates of a unit vector. All metrics are the plain Euclidean product of these columns, so lengths of tangent
vectors are their norms. *Embedded*, an angle is a point of the circle: every manifold here is a product of Euclidean space
and of spheres :math:`S^{d_k}` with unit normals :math:`\nu_k`, and a field of the embedding space, projected, has the
divergence

.. math::
    \operatorname{div} (\Pi h) = \operatorname{tr} \partial h - \sum_k (\nu_k^\top \partial h\, \nu_k + d_k\, \nu_k \cdot h).

Angles are in radians; multiply degrees by :math:`\pi / 180`.

References:
    Flow Matching on General Geometries, Chen, Lipman 2023, arXiv:2302.03660, sec. 3.
"""

import abc
import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from bijectory.errors import ConfigError, DomainError, ShapeError, check, check_type
from bijectory.ops.circle import wrap
from bijectory.ops.geometry import dot, safe_norm, sphere_exp, sphere_log, sphere_path

TOLERANCE = 1e-3
"""How far the norm of a point of a sphere may be from 1: rounded tables pass, vectors of another length do not."""


class Manifold(abc.ABC):
    """A manifold with geodesics in closed form.

    Attributes:
        features: Coordinates of a point.
        embedding: Coordinates of a point of the embedding space, where an angle has two.
        spheres: Dimensions :math:`d_k` of the spheres of the embedding, circles included.
    """

    features: int

    @property
    def embedding(self) -> int:
        return self.features

    @property
    def spheres(self) -> tuple[int, ...]:
        return ()

    @abc.abstractmethod
    def project(self, x: Tensor, v: Tensor) -> Tensor:
        """Tangent part of ``v`` at ``x``, both ``(*batch, features)``."""

    @abc.abstractmethod
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """End of the geodesic that leaves ``x`` with the tangent velocity ``v``, after time 1."""

    @abc.abstractmethod
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """Velocity at ``x`` of the shortest geodesic that is at ``y`` after time 1."""

    @abc.abstractmethod
    def path(self, x: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Point at times ``(*batch,)`` on the shortest geodesic from ``x`` to ``y``, and its velocity."""

    @abc.abstractmethod
    def inside(self, x: Tensor) -> Tensor:
        """Whether rows are points of the manifold, ``(*batch,)``; angles must be in [-pi, pi], norms within 1e-3 of 1."""

    @abc.abstractmethod
    def nearest(self, x: Tensor) -> Tensor:
        """The point of the manifold nearest to any point: wrapped angles, vectors divided by their norm."""

    @abc.abstractmethod
    def check(self, x: Tensor) -> None:
        """Read the values, once, outside of any captured path.

        Raises:
            DomainError: If a row is no point of the manifold; it says which, by how much, and the remedy.
        """

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Length of the shortest geodesic, ``(*batch,)``; its gradient at coincident points is 0."""
        return safe_norm(self.log(x, y))

    # What fields and layers need; the defaults are those of Euclidean space.

    def embed(self, x: Tensor) -> Tensor:
        """Points of the embedding space, ``(*batch, embedding)``; periodic in angles, blind to the length of a vector."""
        return x

    def pull(self, x: Tensor, h: Tensor) -> Tensor:
        """Tangent velocity ``(*batch, features)`` of a velocity ``h`` of the embedding space.

        On a sphere it is extended to every ``x`` but 0 homogeneously of degree 1: norms stay, and the log-determinant of
        its flow in the space around the sphere is the one on the sphere.
        """
        return h

    def normals(self, x: Tensor) -> Tensor:
        """Unit normals of the embedding, ``(len(spheres), *batch, embedding)``."""
        return x.new_zeros(0, *x.shape)

    def restore(self, y: Tensor, x: Tensor) -> Tensor:
        """``y`` with what the flow from ``x`` to ``y`` must keep, and a solver does not: norms, angles within the box."""
        return y


@dataclasses.dataclass(frozen=True)
class Euclidean(Manifold):
    """Euclidean space.

    Args:
        features: Its dimension.

    Raises:
        ConfigError: If ``features < 1``.

    Example:
        >>> Euclidean(2).distance(torch.zeros(2), torch.tensor([3.0, 4.0]))
        tensor(5.)
    """

    features: int

    def __post_init__(self) -> None:
        check(self.features >= 1, ConfigError, f"features must be at least 1, got {self.features}.")

    def project(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def path(self, x: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x, y = torch.broadcast_tensors(x, y)
        return torch.lerp(x, y, t.unsqueeze(-1)), y - x

    def inside(self, x: Tensor) -> Tensor:
        return x.isfinite().all(-1)

    def nearest(self, x: Tensor) -> Tensor:
        return x

    def check(self, x: Tensor) -> None:
        _check_width(self, x)
        bad = (~x.isfinite().all(-1)).sum()
        check(not bool(bad), DomainError, f"{int(bad)} rows are not finite; drop or repair them.")


@dataclasses.dataclass(frozen=True)
class Torus(Manifold):
    r"""Flat torus of angles in :math:`[-\pi, \pi]`: the shortest way is the shortest for every angle.

    Args:
        features: Number of angles.

    Raises:
        ConfigError: If ``features < 1``.

    Example:
        >>> Torus(1).log(torch.tensor([3.0]), torch.tensor([-3.0]))  # across the seam
        tensor([0.2832])
    """

    features: int

    def __post_init__(self) -> None:
        check(self.features >= 1, ConfigError, f"features must be at least 1, got {self.features}.")

    @property
    def embedding(self) -> int:
        return 2 * self.features

    @property
    def spheres(self) -> tuple[int, ...]:
        return (1,) * self.features

    def project(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return wrap(x + v, math.pi)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return wrap(y - x, math.pi)

    def path(self, x: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        v = self.log(x, y)
        return wrap(x + t.unsqueeze(-1) * v, math.pi), v

    def inside(self, x: Tensor) -> Tensor:
        return (x.abs() <= math.pi).all(-1)

    def nearest(self, x: Tensor) -> Tensor:
        return wrap(x, math.pi)

    def check(self, x: Tensor) -> None:
        _check_width(self, x)
        row, bad = _worst(x.abs().amax(-1).nan_to_num(nan=math.inf) - math.pi, 0.0)
        if bad:
            raise DomainError(
                f"{bad} rows have angles outside [-pi, pi], the worst row {row} reaches {float(x[row].abs().max()):.4g}; "
                f"wrap them with Torus({self.features}).nearest(x), and turn degrees into radians."
            )

    def embed(self, x: Tensor) -> Tensor:
        return torch.cat((x.cos(), x.sin()), -1)

    def pull(self, x: Tensor, h: Tensor) -> Tensor:
        a, b = h.chunk(2, -1)
        return x.cos() * b - x.sin() * a

    def normals(self, x: Tensor) -> Tensor:
        return torch.cat((torch.diag_embed(x.cos()), torch.diag_embed(x.sin())), -1).movedim(-2, 0)

    def restore(self, y: Tensor, x: Tensor) -> Tensor:
        # What is outside the box is no angle and stays where it is, so that a density on the box stays one.
        return torch.where(x.abs() > math.pi, x, wrap(y, math.pi))


@dataclasses.dataclass(frozen=True)
class Sphere(Manifold):
    r"""Unit sphere :math:`S^{n-1}` of unit vectors in :math:`\mathbb R^n`; ``Sphere(3)`` is the surface of a ball.

    Args:
        features: ``n``, one more than the dimension of the sphere.

    Raises:
        ConfigError: If ``features < 2``.

    Example:
        >>> north, east = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
        >>> Sphere(3).distance(north, east)
        tensor(1.5708)
    """

    features: int

    def __post_init__(self) -> None:
        check(self.features >= 2, ConfigError, f"features must be at least 2, got {self.features}.")

    @property
    def spheres(self) -> tuple[int, ...]:
        return (self.features - 1,)

    def project(self, x: Tensor, v: Tensor) -> Tensor:
        return v - dot(x, v) * x

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return sphere_exp(x, v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return sphere_log(x, y)

    def path(self, x: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return sphere_path(x, y, t.unsqueeze(-1))

    def inside(self, x: Tensor) -> Tensor:
        return (x.norm(dim=-1) - 1).abs() <= TOLERANCE

    def nearest(self, x: Tensor) -> Tensor:
        return self.embed(x)

    def check(self, x: Tensor) -> None:
        _check_width(self, x)
        norm = x.norm(dim=-1)
        row, bad = _worst((norm - 1).abs().nan_to_num(nan=math.inf), TOLERANCE)
        if bad:
            raise DomainError(
                f"{bad} rows are not unit vectors, the worst row {row} has norm {float(norm[row]):.4g}; divide rows by "
                f"their norm, Sphere({self.features}).nearest(x), or turn angles into unit vectors."
            )

    def embed(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)

    def pull(self, x: Tensor, h: Tensor) -> Tensor:
        size = x.norm(dim=-1, keepdim=True)
        return size * self.project(x / size, h)

    def normals(self, x: Tensor) -> Tensor:
        return self.embed(x).unsqueeze(0)

    def restore(self, y: Tensor, x: Tensor) -> Tensor:
        return y * (x.norm(dim=-1, keepdim=True) / y.norm(dim=-1, keepdim=True))


@dataclasses.dataclass(frozen=True)
class ProductManifold(Manifold):
    """Product of manifolds, their columns side by side: geodesics are geodesics in every factor.

    Args:
        factors: In the order of their columns.

    Raises:
        ConfigError: If there is none, or one is no manifold.

    Example:
        >>> pose = ProductManifold((Sphere(3), Torus(1), Euclidean(2)))
        >>> pose.features, pose.embedding
        (6, 7)
    """

    factors: tuple[Manifold, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", tuple(self.factors))
        check(len(self.factors) > 0, ConfigError, "a ProductManifold needs at least one factor.")
        for k, factor in enumerate(self.factors):
            check_type(factor, Manifold, f"factor {k}")

    @property
    def features(self) -> int:  # type: ignore[override]
        return sum(f.features for f in self.factors)

    @property
    def embedding(self) -> int:
        return sum(f.embedding for f in self.factors)

    @property
    def spheres(self) -> tuple[int, ...]:
        return tuple(d for f in self.factors for d in f.spheres)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The columns of each factor."""
        return x.split([f.features for f in self.factors], -1)

    def _blocks(self, *xs: Tensor) -> Iterator[tuple[Manifold, tuple[Tensor, ...]]]:
        return zip(self.factors, zip(*map(self.split, xs), strict=True), strict=True)

    def project(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.cat([f.project(*parts) for f, parts in self._blocks(x, v)], -1)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.cat([f.exp(*parts) for f, parts in self._blocks(x, v)], -1)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([f.log(*parts) for f, parts in self._blocks(x, y)], -1)

    def path(self, x: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        points, velocities = zip(*(f.path(a, b, t) for f, (a, b) in self._blocks(x, y)), strict=True)
        return torch.cat(points, -1), torch.cat(velocities, -1)

    def inside(self, x: Tensor) -> Tensor:
        return torch.stack([f.inside(part) for f, (part,) in self._blocks(x)]).all(0)

    def nearest(self, x: Tensor) -> Tensor:
        return torch.cat([f.nearest(part) for f, (part,) in self._blocks(x)], -1)

    def check(self, x: Tensor) -> None:
        _check_width(self, x)
        for f, (part,) in self._blocks(x):
            f.check(part)

    def embed(self, x: Tensor) -> Tensor:
        return torch.cat([f.embed(part) for f, (part,) in self._blocks(x)], -1)

    def pull(self, x: Tensor, h: Tensor) -> Tensor:
        hs = h.split([f.embedding for f in self.factors], -1)
        return torch.cat([f.pull(part, u) for f, part, u in zip(self.factors, self.split(x), hs, strict=True)], -1)

    def normals(self, x: Tensor) -> Tensor:
        rows, left = [], 0
        for f, (part,) in self._blocks(x):
            if f.spheres:
                rows.append(torch.nn.functional.pad(f.normals(part), (left, self.embedding - left - f.embedding)))
            left += f.embedding
        return torch.cat(rows) if rows else x.new_zeros(0, *x.shape)

    def restore(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.cat([f.restore(*parts) for f, parts in self._blocks(y, x)], -1)


def _check_width(manifold: Manifold, x: Tensor) -> None:
    ok = x.dim() >= 1 and x.shape[-1] == manifold.features
    check(ok, ShapeError, f"points of {manifold} have {manifold.features} columns, got shape {tuple(x.shape)}.")


def _worst(excess: Tensor, bound: float) -> tuple[tuple[int, ...], int]:
    """Index of the largest number, and how many are larger than ``bound``."""
    bad = int((excess > bound).sum())
    index = int(excess.argmax()) if bad else 0
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(index), excess.shape)) if bad else (), bad

"""Laws of scalar bijections."""

import dataclasses

import torch

from bijectory.bijections import Bijection
from bijectory.testing.maps import COSTLY_MAP_LAWS, MAP_LAWS
from bijectory.testing.subject import Subject, detached
from bijectory.testing.violation import Law, law, require, require_close


@law
def derivative(s: Subject) -> None:
    """``ladj`` is the logarithm of the derivative that autodiff finds, both ways."""
    for way in s.ways():
        x = way.inputs(64).requires_grad_()
        y, ladj = way.call(x, s.side(64))
        (slope,) = torch.autograd.grad(y.sum(), x)
        require_close(f"ladj of {way.name} against autodiff", ladj, slope.log(), s.tolerance.ladj)


@law
def monotone(s: Subject) -> None:
    """Strictly increasing in float64, and never decreasing in the working precision."""
    for way in s.ways():
        x = way.inputs(400).sort(0).values
        side = s.side(1)
        step = way.call(x, side)[0].diff(dim=0)
        ok = (step > 0) | (x.diff(dim=0) <= 0) if s.dtype == torch.float64 else step >= 0
        require(bool(ok.all()), f"{way.name} is not increasing", measured=float(step.min()))


@law
def starts_at_the_start(s: Subject) -> None:
    """``phi = 0`` is the identity or the documented starting map."""
    b = s.trained()
    x = s.x(64)
    zero = x.new_zeros(b.n_params, *x.shape)
    y, ladj = b.forward(x, zero)
    leaf = x.clone().requires_grad_()
    want = s.start(leaf)
    slope = torch.autograd.grad(want.sum(), leaf)[0].log()
    require_close("forward at phi = 0", y, want, s.tolerance.same)
    require_close("ladj of forward at phi = 0", ladj, slope, s.tolerance.same)


@law
def parameters_matter(s: Subject) -> None:
    """Every raw parameter changes the result, with finite gradients, both ways."""
    for way in s.ways():
        phi = s.side(256)
        if phi is None or not phi.numel():
            return
        (phi,) = detached(phi)
        y, ladj = way.call(way.inputs(256), phi)
        (g,) = torch.autograd.grad(y.sin().sum() + ladj.sin().sum(), phi)
        require(bool(g.isfinite().all()), f"gradient of {way.name} with respect to phi is not finite")
        dead = [p for p in range(len(g)) if not g[p].any()]
        require(not dead, f"{way.name} ignores the parameters {dead}")


@law
def parameters_broadcast(s: Subject) -> None:
    """One row of parameters serves many rows of ``x``."""
    for way in s.ways():
        x, phi = way.inputs(5, 7), s.side(7)
        if phi is None:
            return
        full = phi.unsqueeze(1).expand(len(phi), *x.shape)
        for a, b in zip(way.call(x, phi.unsqueeze(1)), way.call(x, full), strict=True):
            require_close(f"{way.name} with broadcast parameters", a, b, s.tolerance.same)


@law
def a_frozen_formula(s: Subject) -> None:
    """A frozen, hashable dataclass, equal to the one rebuilt from its fields."""
    b = s.trained()
    require(isinstance(b, Bijection) and dataclasses.is_dataclass(b), "a bijection is a dataclass")
    require(type(b).__dataclass_params__.frozen, "a bijection is a frozen dataclass")
    again = type(b)(**{f.name: getattr(b, f.name) for f in dataclasses.fields(b) if f.init})
    require(again == b and hash(again) == hash(b), f"{b!r} differs from its rebuild {again!r}")
    require(repr(b) == repr(again), "the printed form differs after a rebuild")


BIJECTION_LAWS: tuple[Law, ...] = (
    *MAP_LAWS,
    derivative,
    monotone,
    starts_at_the_start,
    parameters_matter,
    parameters_broadcast,
    a_frozen_formula,
)
"""Laws that run in every dtype."""

COSTLY_BIJECTION_LAWS: tuple[Law, ...] = COSTLY_MAP_LAWS
"""Laws that are slow, or that need float64; run once."""

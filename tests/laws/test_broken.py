"""A law that cannot fail is a defect: for each law, something deliberately broken that must fail it."""

import dataclasses
import functools
import itertools

import pytest
import torch
from torch import nn

import bijectory as bj
from bijectory.testing import (
    BIJECTION_LAWS,
    COSTLY_BIJECTION_LAWS,
    COSTLY_DENSITY_LAWS,
    COSTLY_TRANSFORM_LAWS,
    DENSITY_LAWS,
    TRANSFORM_LAWS,
    LawViolation,
    Subject,
    check_bijection,
    check_density,
    check_transform,
)

F32, F64 = torch.float32, torch.float64


# --- a transform and a density to break: each fault overrides one thing ---------------------------------------------


class Wrapped(bj.Transform):
    """A sound coupling (with context if asked) behind two methods that the faults below override."""

    def __init__(self, context=0):
        super().__init__()
        self.context = context
        halves = ((True, True, False), (False, False, True))
        self.inner = bj.Chain(*(bj.Coupling(bj.Affine(), m, context, hidden=(8,)) for m in halves))

    def forward(self, x, c=None):
        return self.inner.forward(x, c)

    def inverse(self, z, c=None):
        return self.inner.inverse(z, c)


class LadjTooLarge(Wrapped):
    def forward(self, x, c=None):
        z, ladj = super().forward(x, c)
        return z, 1.1 * ladj

    def inverse(self, z, c=None):
        x, ladj = super().inverse(z, c)
        return x, 1.1 * ladj


class LadjSign(Wrapped):
    def inverse(self, z, c=None):
        x, ladj = super().inverse(z, c)
        return x, -ladj


class InverseOff(Wrapped):
    def inverse(self, z, c=None):
        x, ladj = super().inverse(z, c)
        return x * 1.001, ladj


class NotInverted(Wrapped):
    """A permutation that the inverse applies again."""

    def forward(self, x, c=None):
        z, ladj = super().forward(x, c)
        return z.roll(1, -1), ladj

    def inverse(self, z, c=None):
        return super().inverse(z.roll(1, -1), c)


class InPlace(Wrapped):
    def forward(self, x, c=None):
        return super().forward(x.add_(1), c)


class Counts(Wrapped):
    """State that a call changes."""

    def __init__(self, context=0):
        super().__init__(context)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x, c=None):
        self.calls += 1
        return super().forward(x, c)


class Noisy(Wrapped):
    def forward(self, x, c=None):
        z, ladj = super().forward(x, c)
        return z + 1e-3 * torch.randn_like(z), ladj


class OneBatchDim(Wrapped):
    def forward(self, x, c=None):
        z, ladj = super().forward(x.reshape(-1, 3), c)
        return z, ladj


class BatchStatistics(Wrapped):
    def forward(self, x, c=None):
        return super().forward(x - x.reshape(-1, x.shape[-1]).mean(0), c)


class HidesNaN(Wrapped):
    def forward(self, x, c=None):
        return super().forward(x.nan_to_num(), c)


class BranchesOnValues(Wrapped):
    def forward(self, x, c=None):
        return super().forward(x, c) if x.sum() > -1e9 else (x, x.sum(-1))


class Counter(Wrapped):
    """A Python side effect that capture cannot take."""

    def forward(self, x, c=None):
        print(end="")
        return super().forward(torch.tensor(x.detach().numpy()) if not x.requires_grad else x, c)


class Single(Wrapped):
    """Computes in float32 whatever it is given."""

    def forward(self, x, c=None):
        z, ladj = super().forward(x, c)
        return z.float().to(z.dtype), ladj.float().to(z.dtype)


class Doubles(Wrapped):
    """Returns float64 to a float32 caller."""

    def forward(self, x, c=None):
        z, ladj = super().forward(x, c)
        return z.double(), ladj


class OnTheCpu(Wrapped):
    def forward(self, x, c=None):
        z, ladj = super().forward(x, c)
        return z + torch.zeros(3), ladj


class Overflows(Wrapped):
    def forward(self, x, c=None):
        z, ladj = super().forward(x, c)
        return z + 0 * x.square().square().square(), ladj  # inf - inf in float32 at 1e6


class ContextPerRowOnly(Wrapped):
    def forward(self, x, c=None):
        return super().forward(x, c if c is None else c.reshape(*x.shape[:-1], -1))


class Unplugged(Wrapped):
    def forward(self, x, c=None):
        return super().forward(x, c if c is None else 0 * c)

    def inverse(self, z, c=None):
        return super().inverse(z, c if c is None else 0 * c)


class OneDimensionBlind(Wrapped):
    def forward(self, x, c=None):
        return super().forward(x, c if c is None else c * c.new_tensor([1.0, 0.0]))


class DeafOutput(Wrapped):
    """One output is transformed, but never by the context."""

    def __init__(self, context=0):
        super().__init__(context)
        self.inner = bj.Chain(
            bj.Elementwise(bj.Affine(), 3), bj.Coupling(bj.Affine(), (True, True, False), context, (8,))
        )


class Detached(Wrapped):
    def forward(self, x, c=None):
        z, ladj = super().forward(x, c)
        return z.detach() + x - x.detach(), ladj.detach()


class FirstOrderOnly(Wrapped):
    """The gradient of z is right, and constant for the second derivative."""

    def forward(self, x, c=None):
        z, ladj = super().forward(x, c)
        return _Cube.apply(z), ladj


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x.detach() ** 2


class Unused(Wrapped):
    def __init__(self, context=0):
        super().__init__(context)
        self.spare = nn.Parameter(torch.ones(3))


class Forgets(Wrapped):
    """A constant drawn at build time and not part of the state."""

    def __init__(self, context=0):
        super().__init__(context)
        self.register_buffer("offset", torch.randn(3), persistent=False)

    def forward(self, x, c=None):
        return super().forward(x + self.offset, c)


class RoundedConstant(Wrapped):
    """A constant rounded to float32 when it was built."""

    def __init__(self, context=0):
        super().__init__(context)
        self.register_buffer("third", torch.ones(3) / 3)

    def forward(self, x, c=None):
        return super().forward(x + self.third, c)


BROKEN_TRANSFORMS = [
    ("round_trip", InverseOff, F32),
    ("round_trip", NotInverted, F32),
    ("ladj_opposite", LadjSign, F32),
    ("jacobian", LadjTooLarge, F32),
    ("jacobian", LadjTooLarge, F64),
    ("inputs_untouched", InPlace, F32),
    ("inputs_untouched", Counts, F32),
    ("inputs_untouched", Noisy, F32),
    ("batch_shapes", OneBatchDim, F32),
    ("rows_are_independent", BatchStatistics, F32),
    ("rows_are_independent", HidesNaN, F32),
    ("vmaps", BranchesOnValues, F32),
    ("captures", BranchesOnValues, F64),
    ("captures", Counter, F64),
    ("dtypes", Doubles, F32),
    ("round_trip", Single, F64),
    ("jacobian", Single, F64),
    ("devices", OnTheCpu, F32),
    ("deterministic", Noisy, F32),
    ("extremes", Overflows, F32),
    ("context_broadcasts", ContextPerRowOnly, F32),
    ("context_matters", Unplugged, F32),
    ("context_matters", OneDimensionBlind, F32),
    ("context_matters", DeafOutput, F32),
    ("gradients_reach_parameters", Detached, F32),
    ("gradients_reach_parameters", Unused, F32),
    ("double_backward", FirstOrderOnly, F64),
    ("state_restores", Forgets, F32),
    ("double_is_float64", RoundedConstant, F64),
]
BY_NAME = {f.__name__: f for f in (*TRANSFORM_LAWS, *COSTLY_TRANSFORM_LAWS)}


@pytest.mark.parametrize(("law", "broken", "dtype"), BROKEN_TRANSFORMS)
def test_broken_transform_fails(law, broken, dtype):
    context = 2 if law.startswith("context") else 0
    s = Subject("sound", functools.partial(Wrapped, context), (3,), context, dtype)
    BY_NAME[law](s)
    with pytest.raises(LawViolation) as info:
        BY_NAME[law](dataclasses.replace(s, name="broken", build=functools.partial(broken, context)))
    assert info.value.law == law
    assert "broken" in str(info.value)


# --- bijections ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scale(bj.Bijection):
    """y = x (1 + softness) e^phi[0] + phi[1]: sound while ``softness`` is 0."""

    softness: float = 0.0

    @property
    def n_params(self):
        return 2

    def forward(self, x, phi):
        y = x * (1 + self.softness) * phi[0].exp() + phi[1]
        return y, phi[0].expand(y.shape)

    def inverse(self, y, phi):
        x = (y - phi[1]) * (-phi[0]).exp() / (1 + self.softness)
        return x, -phi[0].expand(x.shape)


class WrongDerivative(Scale):
    def forward(self, x, phi):
        y, ladj = super().forward(x, phi)
        return y, ladj + 0.01

    def inverse(self, y, phi):
        x, ladj = super().inverse(y, phi)
        return x, ladj - 0.01


class Decreasing(Scale):
    def forward(self, x, phi):
        y, ladj = super().forward(x, phi)
        return -y, ladj


class NotAtTheStart(Scale):
    def forward(self, x, phi):
        return super().forward(x, phi + 0.1)

    def inverse(self, y, phi):
        return super().inverse(y, phi + 0.1)


class IgnoresParameter(Scale):
    def forward(self, x, phi):
        return super().forward(x, torch.stack([phi[0], 0 * phi[1]]))


class NoBroadcast(Scale):
    def forward(self, x, phi):
        return super().forward(x, phi.reshape(2, *x.shape))


@dataclasses.dataclass
class Mutable(Scale.__base__):
    n_params = 0

    def forward(self, x, phi):
        return x, torch.zeros_like(x)

    inverse = forward


BROKEN_BIJECTIONS = [
    ("derivative", WrongDerivative()),
    ("derivative", Scale(0.01)),
    ("monotone", Decreasing()),
    ("starts_at_the_start", NotAtTheStart()),
    ("parameters_matter", IgnoresParameter()),
    ("parameters_broadcast", NoBroadcast()),
    ("a_frozen_formula", Mutable()),
]


@pytest.mark.parametrize(("law", "broken"), BROKEN_BIJECTIONS)
def test_broken_bijection_fails(law, broken):
    laws = {f.__name__: f for f in BIJECTION_LAWS}
    s = Subject("sound", Scale, (3,))
    laws[law](s)
    with pytest.raises(LawViolation) as info:
        laws[law](dataclasses.replace(s, build=lambda: broken))
    assert info.value.law == law


# --- densities -------------------------------------------------------------------------------------------------------


class Gauss(bj.Density):
    """A sound normal with a learned mean that a context moves."""

    def __init__(self, context=0):
        super().__init__()
        self.event_shape, self.context = torch.Size((2,)), context
        self.mean = nn.Parameter(torch.randn(2))
        self.weight = nn.Parameter(torch.randn(2, context)) if context else None

    def centre(self, c):
        return self.mean if c is None else self.mean + c @ self.weight.mT

    def log_prob(self, x, c=None):
        return -0.5 * (x - self.centre(c)).square().sum(-1) - 1.8378770664093453

    def rsample(self, shape=(), c=None, *, generator=None):
        lead = (shape,) if isinstance(shape, int) else tuple(shape)
        size = (*lead, *(() if c is None else c.shape[:-1]), 2)
        return self.centre(c) + torch.randn(size, generator=generator, dtype=self.mean.dtype)


class FlatShape(Gauss):
    def log_prob(self, x, c=None):
        return super().log_prob(x, c).reshape(-1)


class Contaminated(Gauss):
    def log_prob(self, x, c=None):
        return super().log_prob(x - x.mean(0, keepdim=True) if x.dim() > 1 else x, c)


class MinusInfinityForNaN(Gauss):
    def log_prob(self, x, c=None):
        return super().log_prob(x, c).nan_to_num(nan=-torch.inf)


class BlindDensity(Gauss):
    def centre(self, c):
        return super().centre(c if c is None else c * c.new_tensor([1.0, 0.0]))


class IgnoresGenerator(Gauss):
    def rsample(self, shape=(), c=None, *, generator=None):
        return super().rsample(shape, c)


class JointOff(Gauss):
    def rsample_and_log_prob(self, shape=(), c=None, *, generator=None):
        x, logp = super().rsample_and_log_prob(shape, c, generator=generator)
        return x, logp + 0.01


class NoGradient(Gauss):
    def rsample(self, shape=(), c=None, *, generator=None):
        return super().rsample(shape, c, generator=generator).detach()


class ForgetsMean(Gauss):
    def __init__(self, context=0):
        super().__init__(context)
        self.hidden_offset = float(torch.randn(()))

    def log_prob(self, x, c=None):
        return super().log_prob(x + self.hidden_offset, c)


class SingleDensity(Gauss):
    def log_prob(self, x, c=None):
        return super().log_prob(x, c).float()


class NaNFarOut(Gauss):
    def log_prob(self, x, c=None):
        return super().log_prob(x, c) + 0 * x.square().square().square().sum(-1)


class MassOff(Gauss):
    def log_prob(self, x, c=None):
        return super().log_prob(x, c) + 0.05


class TooWide(Gauss):
    def rsample(self, shape=(), c=None, *, generator=None):
        return 1.05 * super().rsample(shape, c, generator=generator)


class BranchingDensity(Gauss):
    def log_prob(self, x, c=None):
        return super().log_prob(x, c) if bool(x.sum() > -1e9) else x.sum(-1)


class FirstOrderDensity(Gauss):
    def log_prob(self, x, c=None):
        return super().log_prob(_Cube.apply(x), c)


BROKEN_DENSITIES = [
    ("shapes", FlatShape, F32),
    ("density_rows_are_independent", Contaminated, F32),
    ("density_rows_are_independent", MinusInfinityForNaN, F32),
    ("density_context_broadcasts", BlindDensity, F32),
    ("draws_reproduce", IgnoresGenerator, F32),
    ("joint_draw", JointOff, F32),
    ("density_gradients", NoGradient, F32),
    ("density_copies", ForgetsMean, F32),
    ("density_dtypes", SingleDensity, F64),
    ("density_extremes", NaNFarOut, F32),
    ("integrates_to_one", MassOff, F64),
    ("draws_follow_the_density", TooWide, F64),
    ("density_double_backward", FirstOrderDensity, F64),
    ("density_captures", BranchingDensity, F64),
    ("density_exports", BranchingDensity, F64),
]


@pytest.mark.parametrize(("law", "broken", "dtype"), BROKEN_DENSITIES)
def test_broken_density_fails(law, broken, dtype):
    laws = {f.__name__: f for f in (*DENSITY_LAWS, *COSTLY_DENSITY_LAWS)}
    context = 2 if "context" in law else 0
    s = Subject("sound", functools.partial(Gauss, context), (2,), context, dtype)
    laws[law](s)
    with pytest.raises(LawViolation) as info:
        laws[law](dataclasses.replace(s, build=functools.partial(broken, context)))
    assert info.value.law == law


def test_every_law_has_a_broken_example():
    laws = itertools.chain(
        BIJECTION_LAWS, COSTLY_BIJECTION_LAWS, TRANSFORM_LAWS, COSTLY_TRANSFORM_LAWS, DENSITY_LAWS, COSTLY_DENSITY_LAWS
    )
    shown = {row[0] for row in (*BROKEN_TRANSFORMS, *BROKEN_BIJECTIONS, *BROKEN_DENSITIES)}
    assert {f.__name__ for f in laws} == shown


def test_one_call_runs_them_all():
    check_bijection(Scale())
    check_transform(Wrapped, 3)
    check_density(Gauss, 2)
    with pytest.raises(LawViolation, match=r"derivative.*measured 0\.009"):
        check_bijection(WrongDerivative())
    with pytest.raises(LawViolation, match=r"measured .* bound .* worst element"):
        check_transform(InverseOff, 3)
    with pytest.raises(LawViolation, match="mass"):
        check_density(MassOff, 2)

"""A law that cannot fail is a defect: for each law of transforms, something deliberately broken that must fail it."""

import dataclasses
import functools

import pytest
import torch
from torch import nn

import bijectory as bj
from bijectory.testing import COSTLY_TRANSFORM_LAWS, TRANSFORM_LAWS, LawViolation, Subject, check_transform
from laws.faults import Cube

F32, F64 = torch.float32, torch.float64


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


class DecodesForward(Wrapped):
    """A map without log-determinant that runs the wrong way."""

    def decode(self, z, c=None):
        return self.forward(z, c)[0]


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
        return Cube.apply(z), ladj


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
    ("maps_alone", DecodesForward, F64),
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


def test_every_law_has_a_broken_example():
    assert set(BY_NAME) == {row[0] for row in BROKEN_TRANSFORMS}


def test_one_call_runs_them_all():
    check_transform(Wrapped, 3)
    with pytest.raises(LawViolation, match=r"measured .* bound .* worst element"):
        check_transform(InverseOff, 3)

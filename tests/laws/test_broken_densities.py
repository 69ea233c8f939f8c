"""A law that cannot fail is a defect: for each law of densities, something deliberately broken that must fail it."""

import dataclasses
import functools

import pytest
import torch
from torch import nn

import bijectory as bj
from bijectory.testing import COSTLY_DENSITY_LAWS, DENSITY_LAWS, LawViolation, Subject, check_density
from laws.faults import Cube

F32, F64 = torch.float32, torch.float64


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
        return super().log_prob(Cube.apply(x), c)


class BranchingBack(bj.Elementwise):
    def inverse(self, z, c=None):
        return super().inverse(z, c) if bool(z.sum() > -1e9) else (z, z.sum(-1))


def branching_flow(context):
    return bj.Flow(BranchingBack(bj.Affine(), 2, context), bj.StandardNormal(2))


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
    ("to_data_exports", branching_flow, F64),
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
    assert {f.__name__ for f in (*DENSITY_LAWS, *COSTLY_DENSITY_LAWS)} == {row[0] for row in BROKEN_DENSITIES}


def test_one_call_runs_them_all():
    check_density(Gauss, 2)
    with pytest.raises(LawViolation, match="mass"):
        check_density(MassOff, 2)

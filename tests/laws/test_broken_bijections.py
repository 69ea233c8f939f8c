"""A law that cannot fail is a defect: for each law of bijections, something deliberately broken that must fail it."""

import dataclasses

import pytest
import torch

import bijectory as bj
from bijectory.testing import BIJECTION_LAWS, COSTLY_BIJECTION_LAWS, LawViolation, Subject, check_bijection
from bijectory.testing.maps import COSTLY_MAP_LAWS, MAP_LAWS


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
class Mutable(bj.Bijection):
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


def test_every_law_of_bijections_alone_has_a_broken_example():
    shared = {f.__name__ for f in (*MAP_LAWS, *COSTLY_MAP_LAWS)}  # shown to fail on transforms
    laws = {f.__name__ for f in (*BIJECTION_LAWS, *COSTLY_BIJECTION_LAWS)}
    assert laws - shared == {law for law, _ in BROKEN_BIJECTIONS}


def test_one_call_runs_them_all():
    check_bijection(Scale())
    with pytest.raises(LawViolation, match=r"derivative.*measured 0\.009"):
        check_bijection(WrongDerivative())

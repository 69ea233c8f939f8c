"""What the door of a flow compares its input with: the first parameter, else the first buffer of numbers."""

import pytest
import torch
from torch import nn

import bijectory as bj
from bijectory.densities.validate import _reference
from bijectory.errors import DtypeError


@pytest.mark.parametrize("name", ["nsf", "maf", "planar", "cnf", "residual", "ttf"])
def test_the_first_parameter(name):
    flow = getattr(bj, name)(features=3)
    assert _reference(flow) is next(flow.parameters())


def test_buffers_and_holes():
    base = bj.StandardNormal(2)
    assert _reference(base) is next((b for b in base.buffers() if b.is_floating_point()), None)
    module = nn.Module()
    module.register_parameter("none", None)
    module.register_module("hole", None)
    module.register_buffer("whole", torch.arange(3))
    assert _reference(module) is None
    module.late = nn.Sequential(nn.Module(), nn.Linear(1, 1, dtype=torch.float64))
    assert _reference(module) is module.late[1].weight


def test_a_flow_that_has_moved_is_seen():
    flow = bj.maf(2)
    flow.log_prob(torch.zeros(1, 2))
    flow.double()
    with pytest.raises(DtypeError, match="flow is float64"):
        flow.log_prob(torch.zeros(1, 2))

"""The regression layer and the soft clip: what laws cannot know."""

import pytest
import torch

import bijectory as bj
from bijectory.transforms.regression import ridge


def rows(n=400, seed=0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_regression_recovers_a_linear_gaussian():
    c, noise = rows()[:, :2], rows(seed=1)[:, :2]
    x = (
        c @ torch.tensor([[2.0, 0.0], [1.0, -1.0]]).double()
        + 5
        + noise @ torch.tensor([[1.0, 0.5], [0.0, 0.1]]).double()
    )
    layer = bj.Regression(2, 2).double()
    layer.initialize(x, c)
    z = layer(x, c)[0]
    assert torch.allclose(z.mT.cov(), torch.eye(2).double(), atol=0.02)
    assert z.mean(0).abs().max() < 1e-10
    assert (z.mT @ (c - c.mean(0))).abs().max() / len(c) < 0.02, "no linear relation is left"
    before = [b.clone() for b in layer.buffers()]
    layer.initialize(x + 1, c)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.buffers(), strict=True)), "set once"


def test_ridge_shrinks_noise_and_survives_degenerate_columns():
    c = rows(40)
    c[:, 1] = c[:, 0]
    c[:, 2] = 7.0
    x = rows(40, seed=2)[:, :1]
    slope, offset, freedom = ridge(x, c)
    assert slope.isfinite().all()
    assert offset.isfinite().all()
    assert 1 <= freedom <= 3
    assert slope.norm() < 0.1, "x does not depend on c: cross-validation shrinks the slope"


def test_more_columns_than_rows():
    x, c = rows(20)[:, :1], torch.randn(20, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = bj.Regression(1, 60).double()
    layer.initialize(x, c)
    assert layer(x, c)[0].isfinite().all()


def test_soft_clip_is_the_identity_inside_and_never_leaves():
    clip = bj.SoftClip(-3.0, 5.0, 0.02)
    x = torch.linspace(-1, 3, 50, dtype=torch.float64)
    none = torch.zeros(0, 50)
    y, ladj = clip.forward(x, none)
    assert torch.allclose(y, x, atol=2e-6)
    assert ladj.abs().max() < 2e-5
    far = torch.tensor([-1e6, -100.0, 100.0, 1e6], dtype=torch.float64)
    back, _ = clip.inverse(far, none)
    assert ((back >= -3) & (back <= 5)).all()


def test_uniform_through_the_soft_clip_integrates_to_one():
    clip = bj.SoftClip(0.0, 2.0, 0.1)
    y = torch.linspace(-10, 12, 20001, dtype=torch.float64)
    _, ladj = clip.inverse(y, torch.zeros(0, 1))
    assert abs(torch.trapezoid(ladj.exp() / 2, y).item() - 1) < 1e-6


@pytest.mark.parametrize("arguments", [(1.0, 1.0), (0.0, float("inf")), (0.0, 1.0, 0.0), (0.0, 1.0, 1.5)])
def test_soft_clip_refuses(arguments):
    with pytest.raises(bj.errors.ConfigError):
        bj.SoftClip(*arguments)

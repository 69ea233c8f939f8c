"""Couplings: marginals kept, assignments against brute force, limits of the Schrödinger bridge, contexts, weights."""

import itertools
import math

import pytest
import torch

import bijectory as bj
from bijectory.errors import ContextError
from bijectory.objectives import Pairs
from bijectory.objectives.paths import squared_distances
from bijectory.ops.sinkhorn import sinkhorn

F64 = torch.float64
COUPLINGS = [
    bj.objectives.Independent(),
    bj.OptimalTransport(block=20),
    bj.ConditionalOptimalTransport(block=20),
    bj.SchrodingerBridge(0.5, block=20),
]


def draw(n, seed=0, *, weight=None):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=g, dtype=F64) * torch.tensor([2.0, 0.5]) + 1
    return Pairs(x, torch.randn(n, 2, generator=g, dtype=F64), None, weight)


@pytest.mark.parametrize("coupling", COUPLINGS, ids=lambda c: type(c).__name__)
def test_marginals_are_kept(coupling):
    torch.manual_seed(0)
    pairs = draw(1010)
    got = coupling.pair(pairs, squared_distances)
    assert torch.equal(got.x, pairs.x)
    if isinstance(coupling, bj.SchrodingerBridge):  # drawn: right in the mean over many batches
        e = torch.cat([coupling.pair(draw(100, k), squared_distances).e for k in range(40)])
        assert e.mean(0).abs().max() < 4.5 / 4000**0.5
        assert (e.var(0) - 1).abs().max() < 4.5 * (2 / 4000) ** 0.5 * 1.5
    else:
        assert torch.equal(got.e.sort(0).values, pairs.e.sort(0).values)


def cost_of(pairs):
    return float((pairs.x - pairs.e).square().sum())


@pytest.mark.parametrize("seed", range(3))
def test_assignments_are_the_best_of_all(seed):
    pairs = draw(6, seed)
    best = min(cost_of(pairs._replace(e=pairs.e[list(p)])) for p in itertools.permutations(range(6)))
    assert cost_of(bj.OptimalTransport().pair(pairs, squared_distances)) == pytest.approx(best)
    assert cost_of(bj.ConditionalOptimalTransport().pair(pairs, squared_distances)) == pytest.approx(best)


def test_blocks_are_paired_among_themselves():
    pairs = draw(50)
    got = bj.OptimalTransport(block=25).pair(pairs, squared_distances)
    for part in (slice(0, 25), slice(25, 50)):
        alone = bj.OptimalTransport().pair(Pairs(pairs.x[part], pairs.e[part]), squared_distances)
        assert torch.equal(got.e[part], alone.e)


def test_bridge_tends_to_transport_and_to_independence():
    torch.manual_seed(0)
    pairs = draw(40)
    assigned = bj.OptimalTransport().pair(pairs, squared_distances)
    assert torch.equal(bj.SchrodingerBridge(0.01).pair(pairs, squared_distances).e, assigned.e)
    costs = [cost_of(bj.SchrodingerBridge(s).pair(pairs, squared_distances)) for s in (0.1, 1.0, 3.0)]
    assert cost_of(assigned) < costs[1] < costs[2]
    wide = torch.stack([bj.SchrodingerBridge(1000.0).pair(pairs, squared_distances).e for _ in range(500)])
    # Every draw comes up 500 times or so in the 500 x 40 pairs, whatever the row.
    taken = (wide[:, :, None, 0] == pairs.e[:, 0]).double().mean(0)  # (row, draw) frequencies
    assert (taken - 1 / 40).abs().max() < 5.5 * (1 / 40 / 500) ** 0.5


def test_plan_has_its_marginals_and_the_form_of_the_optimum():
    pairs = draw(30)
    cost = squared_distances(pairs.x, pairs.e)
    log_a, log_b = torch.randn(30, dtype=F64).log_softmax(0), torch.randn(30, dtype=F64).log_softmax(0)
    for epsilon in (0.05, 1.0, 100.0):
        plan = sinkhorn(cost, log_a, log_b, epsilon, tolerance=1e-9, max_iter=20_000)
        torch.testing.assert_close(plan.logsumexp(1), log_a)
        torch.testing.assert_close(plan.exp().sum(0), log_b.exp(), atol=1e-8, rtol=0)
        kernel = plan + cost / epsilon  # f + g: every 2 x 2 minor of a sum of a row and a column term vanishes
        torch.testing.assert_close(kernel[1:, 1:] - kernel[:1, 1:], (kernel[1:, :1] - kernel[:1, :1]).expand(29, 29))


def test_weights_of_the_bridge_are_its_marginal():
    torch.manual_seed(0)
    w = torch.rand(30, dtype=F64) ** 2
    pairs = draw(30, weight=w)
    coupling = bj.SchrodingerBridge(0.7)
    draws = torch.stack([coupling.pair(pairs, squared_distances).e for _ in range(150)])
    mean = (draws.mean(0) * (w / w.sum())[:, None]).sum(0)  # weighted over rows, it is the mean of the noise
    torch.testing.assert_close(mean, pairs.e.mean(0), atol=0.06, rtol=0)


def test_assignments_resample_weighted_rows():
    torch.manual_seed(0)
    pairs = Pairs(
        torch.arange(4.0, dtype=F64)[:, None], torch.randn(4, 1, dtype=F64), None, torch.tensor([0.0, 1.0, 1.0, 2.0])
    )
    got = bj.OptimalTransport().pair(pairs, squared_distances)
    assert got.weight is None
    assert got.x.flatten().tolist() == [1.0, 2.0, 3.0, 3.0]
    assert torch.equal(got.e.sort(0).values, pairs.e.sort(0).values)
    assert torch.equal(got.e, pairs.e.sort(0).values)


def test_labels_keep_their_own_noise():
    torch.manual_seed(0)
    c = torch.eye(2, dtype=F64)[torch.randint(2, (60,))]
    pairs = draw(60)._replace(c=c)
    for coupling in (bj.ConditionalOptimalTransport(), bj.SchrodingerBridge(0.3)):
        got = coupling.pair(pairs, squared_distances)
        for k in range(2):
            own = pairs.e[c[:, k] == 1]
            mine = got.e[c[:, k] == 1]
            assert bool((mine[:, None] == own).all(-1).any(-1).all())
    got = bj.ConditionalOptimalTransport(weight=0.0).pair(pairs, squared_distances)
    assert torch.equal(got.e, bj.OptimalTransport().pair(pairs._replace(c=None), squared_distances).e)


def test_noise_does_not_depend_on_the_context():
    """Data that follow the context: plain transport would give each context noise of its own."""

    def slope(coupling):
        g = torch.Generator().manual_seed(0)
        e, c = [], []
        for _ in range(20):
            context = torch.randn(256, 1, generator=g, dtype=F64)
            noise = torch.randn(256, 1, generator=g, dtype=F64)
            pairs = Pairs(3 * context + 0.3 * torch.randn(256, 1, generator=g, dtype=F64), noise, context)
            e.append(coupling.pair(pairs, squared_distances).e)
            c.append(context)
        return float((torch.cat(e) * torch.cat(c)).mean())

    assert slope(bj.ConditionalOptimalTransport(weight=0.0)) > 0.9
    assert abs(slope(bj.ConditionalOptimalTransport())) < 0.1


def test_transport_refuses_contexts():
    pairs = draw(4)._replace(c=torch.zeros(4, 1))
    with pytest.raises(ContextError, match="use ConditionalOptimalTransport"):
        bj.OptimalTransport().pair(pairs, squared_distances)


def test_small_and_empty_batches():
    for n in (0, 1):
        for coupling in COUPLINGS:
            assert coupling.pair(draw(n), squared_distances).e.shape == (n, 2)
    assert math.isfinite(cost_of(bj.SchrodingerBridge(1e-3).pair(draw(5), squared_distances)))

"""Statistical truth of every recipe for rows: mass by quadrature, draws against the density, overlaps.

False alarms: a Kolmogorov-Smirnov p below 1e-4 comes once in 10,000 tests of a sound flow, ``|z| > 4`` once in 16,000; the
56 flows of one and two features make it about 1 % for one run of them all. The seeds here are fixed, so a test that passes
goes on passing; ``python -m benchmarks.reliability --seeds 20`` repeats with others.
"""

import pytest
import torch

import bijectory as bj
import measures

COSTLY = {("ttf", 2), ("nsf", 2), ("nsf_ar", 2), ("umnn", 2)}  # seconds each
CASES = [(n, d) for n in measures.NAMES for d in (1, 2)]
QUICK = [pytest.param(n, d, marks=[pytest.mark.slow] if (n, d) in COSTLY else []) for n, d in CASES]


@pytest.mark.parametrize(("name", "features"), QUICK)
def test_mass_is_one_by_quadrature(name, features):
    value, error = measures.mass(measures.flow_of(name, features))
    bound = 1e-6 if features == 1 else 1e-4
    assert error < bound, "the quadrature did not converge"
    assert abs(value - 1) <= bound


def test_every_recipe_for_rows_is_measured():
    rows = {n for n in bj.recipes.RECIPES if not n.endswith("_image")} - {"glow", "jet"}  # images
    assert rows - set(measures.NAMES) == {"ncsf", "rfm_sphere", "rfm_torus"}  # no line or plane: see the laws


def test_a_wrong_density_is_seen():
    """A log-determinant 1.001 times what it is, and draws a hundredth too narrow."""

    class Wrong(bj.Flow):
        def log_prob(self, x, c=None):
            return super().log_prob(x, c) + 0.001 * self.to_latent(x)[1]

        def rsample(self, shape=(), c=None, *, generator=None):
            return 0.9 * super().rsample(shape, c, generator=generator)

    flow = measures.flow_of("maf", 1)
    wrong = Wrong(flow.transform, flow.base)
    assert abs(measures.mass(wrong)[0] - 1) > 1e-5
    assert measures.draws_p(wrong, 1) < 1e-4
    assert abs(measures.overlap(wrong, 1)[0]) > 4


@pytest.mark.parametrize("name", ["maf", "nsf", "naf", "planar", "residual", "cnf"])
def test_draws_follow_the_quadrature_of_the_density(name):
    assert measures.draws_p(measures.flow_of(name, 1), seed=1, n=4000) > 1e-4


@pytest.mark.slow  # two minutes
@pytest.mark.parametrize(("name", "features"), CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_draws_and_overlap(name, features, seed):
    flow = measures.flow_of(name, features, seed)
    assert measures.draws_p(flow, seed) > 1e-4
    z, effective = measures.overlap(flow, seed)
    if effective >= 0.3:  # else the weights are too uneven for a verdict
        assert abs(z) <= 4


def test_most_overlaps_have_a_verdict():
    flows = (measures.flow_of(n, 2) for n in ("maf", "real_nvp", "planar", "residual", "sylvester"))
    results = [measures.overlap(flow, 3, n=20_000) for flow in flows]
    assert all(effective >= 0.3 for _, effective in results)
    assert all(abs(z) <= 4 for z, _ in results)


def test_a_context_moves_mass_and_keeps_it():
    """The mass at each of three contexts, for the flow frozen at that context."""
    torch.manual_seed(0)
    flow = bj.testing.randomize(bj.maf(1, 2, layers=2, hidden=(8,))).double()

    class At(bj.Flow):
        point = torch.zeros(2)

        def log_prob(self, x, c=None):
            return flow.log_prob(x, self.point)

        def rsample(self, shape=(), c=None, *, generator=None):
            return flow.rsample(shape, self.point, generator=generator)

    for point in torch.randn(3, 2, dtype=torch.float64) * 2:
        at = At(bj.Chain(), bj.StandardNormal(1)).double()
        at.point = point
        assert abs(measures.mass(at)[0] - 1) <= 1e-6

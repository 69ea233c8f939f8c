"""Rows 13 to 16: do densities integrate to one, and are draws theirs?"""

import numpy as np
import torch
from benchmarks.reliability.register import row

import bijectory as bj
import measures as m


def masses(seed=0):
    found = {(n, d): m.mass(m.flow_of(n, d, seed))[0] - 1 for n in m.NAMES for d in (1, 2)}
    return [max((abs(v), n) for (n, d), v in found.items() if d == k) for k in (1, 2)]


@row(13, "mass by adaptive quadrature, every recipe for rows", "1 ± 1e-6 (1-D), 1 ± 1e-4 (2-D)", "1.00000 most")
def _():
    one, two = masses()
    return (
        f"1 ± {one[0]:.0e} ({one[1]}), 1 ± {two[0]:.0e} ({two[1]}), {len(m.NAMES)} recipes",
        one[0] <= 1e-6 and two[0] <= 1e-4,
        "",
    )


@row(14, "Kolmogorov-Smirnov of 20,000 draws, every recipe", "p > 1e-4, before and after training", "p ≥ 0.3")
def _():
    found = [(m.draws_p(m.flow_of(n, d), 1), f"{n}, d={d}") for n in m.NAMES for d in (1, 2)]
    rows = np.random.default_rng(0).normal(size=(500, 1)) ** 3
    flow, before = bj.nsf(1, layers=2, hidden=(16,)), torch.from_numpy(np.arcsinh(rows)).float()
    bj.training.fit(flow, before, config=bj.training.FitConfig(epochs=20, progress=False))
    trained = m.draws_p(flow.double(), 2)
    return (
        f"least p of {len(found)}: {min(found)[0]:.2g} ({min(found)[1]}); after training {trained:.2g}",
        min(found)[0] > 1e-4 and trained > 1e-4,
        "",
    )


@row(15, "E_p[q/p] at n = 1e5 with ESS ≥ 0.3 n", "|z| ≤ 4", "|z| ≤ 2")
def _():
    found = {f"{n}, d={d}": m.overlap(m.flow_of(n, d), 1) for n in m.NAMES for d in (1, 2)}
    judged = {k: abs(z) for k, (z, part) in found.items() if part >= 0.3}
    top = max(judged, key=judged.__getitem__)
    gated = [k for k in found if k not in judged]
    return (
        f"largest |z| {judged[top]:.2f} ({top}); {len(judged)} of {len(found)} have the size",
        judged[top] <= 4,
        f"without a verdict: {'; '.join(gated)}" if gated else "",
    )


@row(16, "SBC, Gaussian-linear, 1000 ranks", "p > 1e-3; the 90 % interval covers 87 to 93 %", "p > 0.05 at 100, sbi")
def _():
    from torch.distributions import Independent, Normal

    from bijectory.apps.posterior import Prior, fit_npe, rank, sbc, simulate

    prior = Prior(Independent(Normal(torch.zeros(2), torch.ones(2)), 1))

    def model(theta):
        return theta + 0.5 * torch.randn(theta.shape)

    config = bj.training.FitConfig(epochs=60, lr=2e-3, patience=10, progress=False)
    fitted = fit_npe(simulate(prior, model, 4000, seed=0), prior, ensemble=1, config=config)
    ranked = rank(fitted.posterior, simulate(prior, model, 1000, seed=1), seed=2)
    u = (ranked.draws < ranked.theta).double().mean(0)
    inside = float(((u > 0.05) & (u < 0.95)).double().mean())
    p = min(part.ks_p for part in sbc(ranked).parts.values())
    return (
        f"least p {p:.2g}; 90 % intervals cover {inside:.1%}",
        p > 1e-3 and 0.87 <= inside <= 0.93,
        "two parameters, 4000 simulations, one network",
    )


def statistics(seed: int) -> list[str]:
    """Failures of the statistical rows with another seed of weights and draws."""
    failed = []
    for name in m.NAMES:
        for d in (1, 2):
            flow = m.flow_of(name, d, seed)
            value, error = m.mass(flow)
            bound = 1e-6 if d == 1 else 1e-4
            if abs(value - 1) > bound:
                failed.append(f"{name}, d={d}: mass 1 {value - 1:+.1e} (error of the quadrature {error:.0e})")
            if (p := m.draws_p(flow, seed)) <= 1e-4:
                failed.append(f"{name}, d={d}: KS p {p:.1e}")
            z, part = m.overlap(flow, seed, n=20_000 if name == "umnn" else 100_000)
            if part >= 0.3 and abs(z) > 4:
                failed.append(f"{name}, d={d}: z {z:.2f}")
    return failed

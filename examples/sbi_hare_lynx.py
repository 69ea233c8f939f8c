"""Simulation-based inference on real data: what drives the ten-year cycle of snowshoe hare and lynx?

    python examples/sbi_hare_lynx.py

The data are the pelts, in thousands, that the Hudson's Bay Company bought in 1900 to 1920 (Elton and Nicholson 1942, Journal
of Animal Ecology 11; the numbers of Howard 2009, as in Carpenter 2018, "Predator-prey population dynamics: the
Lotka-Volterra model in Stan"). The model is Lotka and Volterra's with log-normal errors. It is used as a simulator only;
because its likelihood is known all the same, the posterior can be held against the truth: by importance weights. Simulation,
training and checks take a minute of one core.
"""

import math

import torch
from torch import Tensor
from torch.distributions import LogNormal, Normal

import bijectory as bj
from bijectory.apps.posterior import Prior, Study, predictive_p, study

HARE = [30.0, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22.0, 25.4, 27.1]
HARE += [40.3, 57.0, 76.6, 52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7]
LYNX = [4.0, 6.1, 9.8, 35.2, 59.4, 41.7, 19.0, 13.0, 8.3, 9.1, 7.4]
LYNX += [8.0, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1, 8.6]
OBSERVED = torch.tensor([HARE, LYNX], dtype=torch.float64).T.log()  # (years, 2)
STEPS = 20  # of a year, fourth-order Runge-Kutta

PRIOR = Prior(
    {
        "birth": LogNormal(math.log(0.5), 0.5),  # of hares, a year
        "catch": LogNormal(math.log(0.025), 0.5),  # of hares, a year and thousand lynxes
        "death": LogNormal(math.log(0.8), 0.5),  # of lynxes, a year
        "growth": LogNormal(math.log(0.025), 0.5),  # of lynxes, a year and thousand hares
        "hares_1900": LogNormal(math.log(30.0), 0.5),
        "lynxes_1900": LogNormal(math.log(5.0), 0.5),
        "error": LogNormal(math.log(0.25), 0.3),  # of the logarithms
    }
)


def trajectory(theta: Tensor) -> Tensor:
    """Logarithms of both populations, ``(n, 7) -> (n, years, 2)``."""
    birth, catch, death, growth, *start, _ = theta.T
    u, h = torch.stack([s.log() for s in start], -1), 1 / STEPS

    def rate(u: Tensor) -> Tensor:
        hare, lynx = u.exp().unbind(-1)
        return torch.stack((birth - catch * lynx, growth * hare - death), -1)

    years = [u]
    for _ in range(len(OBSERVED) - 1):
        for _ in range(STEPS):
            a = rate(u)
            b = rate(u + h / 2 * a)
            c = rate(u + h / 2 * b)
            u = u + h / 6 * (a + 2 * b + 2 * c + rate(u + h * c))
        years.append(u)
    return torch.stack(years, 1)


def simulator(theta: Tensor) -> Tensor:
    way = trajectory(theta)
    return (way + theta[:, -1, None, None] * torch.randn_like(way)).flatten(1)


def log_likelihood(theta: Tensor) -> Tensor:
    return Normal(trajectory(theta), theta[:, -1, None, None]).log_prob(OBSERVED).sum((1, 2))


def main(simulations: int = 5000, checks: int = 1000, epochs: int = 60) -> tuple[Study, Tensor]:
    x = OBSERVED.flatten()
    found = study(PRIOR, simulator, x, simulations=simulations, checks=checks, training={"epochs": epochs})
    theta = found.draws
    weights = bj.apps.psis(PRIOR.log_prob(theta) + log_likelihood(theta) - found.posterior.log_prob(theta), warn=False)
    exact, _ = weights.expectation(theta)
    spread = weights.expectation((theta - exact).square())[0].sqrt()
    print(
        f"{found.fit.simulations.failed} of {simulations} simulations failed; {found.facts['seconds in all']} s in all"
    )
    print(f"{'':>12}  prior mean    posterior mean ± sd    with the likelihood")
    before = PRIOR.sample(4000, seed=0).mean(0)
    for k, name in enumerate(PRIOR.names):
        own = f"{theta[:, k].mean():>12.3g} ± {theta[:, k].std():<8.2g}"
        print(f"{name:>12} {before[k]:>11.3g} {own} {exact[k]:>12.3g} ± {spread[k]:<8.2g}")
    period = 2 * math.pi / (theta[:, 0] * theta[:, 2]).sqrt()  # of small cycles
    print(f"period of small cycles: {period.mean():.1f} ± {period.std():.1f} years")
    print(f"importance weights of {len(theta)} draws: ESS {weights.ess:.0f}, Pareto k {weights.khat:.2f}")
    for when, tests in (("as fitted", found.before), ("recalibrated", found.after)):
        for test in tests:
            print(f"{when}, {test!r}")
    print(f"predictive check: p = {predictive_p(found.predicted, x):.2f} of data as far out as these")
    return found, exact


if __name__ == "__main__":
    main()

"""What the tests of reliability and the page about it measure: one function for each figure, used by both."""

import copy
import inspect
import itertools
import math
import threading

import numpy as np
import torch
from scipy import integrate, stats

import bijectory as bj
from bijectory.testing import randomize
from laws.cases import RECIPES

STACKS = ("nice", "gin", "real_nvp", "maf", "iaf", "nsf", "nsf_ar")  # recipes whose depth is a number of layers
SPLINES = ("nsf", "nsf_ar")


def stack(name, layers, seed=0, features=8, **keywords):
    """A recipe of that depth with its initial weights, and 256 rows of noise."""
    torch.manual_seed(seed)
    flow = bj.recipes.RECIPES[name].build(features, layers=layers, **keywords).eval()
    return flow, torch.randn(256, features)


@torch.no_grad()
def scaled(flow, factor):
    """A copy whose matrices are multiplied."""
    flow = copy.deepcopy(flow)
    for p in flow.parameters():
        if p.dim() > 1:
            p.mul_(factor)
    return flow


@torch.no_grad()
def round_trip(flow, x):
    """Largest error there and back, from either side, and the number of rows with a value that is not finite."""
    z, _ = flow.to_latent(x)
    y, _ = flow.to_data(x)
    back, again = flow.to_data(z)[0], flow.to_latent(y)[0]
    finite = torch.stack([t.isfinite().all(1) for t in (z, y, back, again)]).all(0)
    error = torch.stack([(back - x).abs().max(), (again - x).abs().max()]).nan_to_num(nan=math.inf).max()
    return error.item(), int((~finite).sum())


@torch.no_grad()
def ladj_against_float64(flow, x):
    """Largest difference of the log-determinant in float32 from that of the same weights in float64."""
    wide = copy.deepcopy(flow).double()
    return (flow.to_latent(x)[1] - wide.to_latent(x.double())[1]).abs().max().item()


def ladj_against_autodiff(flow, x):
    """Largest difference of the log-determinant in float64 from that of the Jacobian that autodiff finds."""
    flow, x = copy.deepcopy(flow).double(), x.double()
    worst = 0.0
    for f in (flow.to_latent, flow.to_data):
        jac = torch.func.vmap(torch.func.jacrev(lambda v, f=f: f(v)[0]))(x)
        worst = max(worst, (f(x)[1] - torch.linalg.slogdet(jac).logabsdet).abs().max().item())
    return worst


@torch.no_grad()
def batch_against_rows(flow, x, c=None):
    """Largest difference of log-densities of a batch from those of its rows one by one."""
    together = flow.log_prob(x, c)
    alone = torch.stack([flow.log_prob(v, None if c is None else c[i]) for i, v in enumerate(x)])
    return (together - alone).abs().max().item()


@torch.no_grad()
def bfloat16(flow, x):
    """Mean and largest difference in nats of log-densities under bfloat16 autocast."""
    plain = flow.log_prob(x)
    with torch.autocast("cpu", torch.bfloat16):
        low = flow.log_prob(x)
    error = (low.float() - plain).abs()
    return error.mean().item(), error.max().item(), low.dtype


def threads(flow, x, c=None, *, workers=8, calls=1000):
    """Number of log-densities (``workers x calls``) that differ from the serial answer by a bit."""
    with torch.inference_mode():
        want = [flow.log_prob(v, c) for v in x]
    wrong, barrier = [0] * workers, threading.Barrier(workers)

    def work(k):
        barrier.wait()
        with torch.inference_mode():
            for i in range(calls):
                j = (i + k) % len(x)
                wrong[k] += not torch.equal(flow.log_prob(x[j], c), want[j])

    pool = [threading.Thread(target=work, args=(k,)) for k in range(workers)]
    for t in pool:
        t.start()
    for t in pool:
        t.join()
    return sum(wrong)


# -- statistical truth -------------------------------------------------------------------------------------------------

FLAT = [
    c for c in RECIPES if isinstance(c.features, int) and not c.chart and "ncsf" not in c.name and "torus" not in c.name
]
NAMES = sorted({c.name.split("-")[0] for c in FLAT})
SMALL = {
    "layers": 2,
    "hidden": (8,),
    "bins": 4,
    "components": 2,
    "units": (3,),
    "polynomials": 1,
    "degree": 2,
    "rank": 1,
}
SOLVED = {"method": "dopri8", "steps": 1, "frequencies": 0, "trace": "exact"}
OWN = {  # arguments that keep a small flow cheap and a solved one exact
    **dict.fromkeys(("cnf", "cfm", "ffjord", "rnode"), SOLVED),
    "score_sde": {**SOLVED, "beta_max": 0.11, "sigma_max": 0.02},
    "otflow": {"hidden": 6, "steps": 2},
    "hybrid": {"layers": 1, "frequencies": 0, "method": "rk4", "steps": 1},
    "residual": (exact := {"hidden": (6,), "lipschitz": 0.1, "ladj": "exact"}),
    "idensenet": exact,
    "tarflow": {"width": 8, "depth": 1, "heads": 2},
    "umnn": {"layers": 1, "embedding": 2, "integrand": (6,), "nodes": 16, "bound": 3.0},
    "ttf": {"layers": 1, "tail": 0.05},
    "naf": {"units": 2, "layers": 1},
    "bernstein": {"degree": 4},
    "sos": {"polynomials": 2, "layers": 1},  # else slopes vanish at the edge of a box: ridges too thin for a quadrature
}


def flow_of(name, features, seed=0):
    """A small flow of that recipe with trained-like weights in float64, of the size that the laws take."""
    entry = bj.recipes.RECIPES[name]
    known = inspect.signature(entry.build).parameters
    torch.manual_seed(seed)
    flow = entry.build(features, **{k: v for k, v in {**SMALL, **OWN.get(name, {})}.items() if k in known})
    return randomize(flow, seed, next(c for c in FLAT if c.name.split("-")[0] == name).weights).double().eval()


@torch.no_grad()
def density(flow, x):
    """Density of rows in NumPy; NaN, the overflow at the ends of an infinite range, counts as none."""
    return flow.log_prob(torch.from_numpy(np.ascontiguousarray(x))).exp().nan_to_num(nan=0.0).numpy()


def mass(flow):
    """Integral of the density by adaptive quadrature (SciPy's) far beyond the draws, with its error estimate.

    It is taken over ``t`` in ``x = centre + scale sinh(t)``, in cells between quantiles of the draws: what spans several
    orders of magnitude in ``x`` is thin there, and the rule goes past it without a sign. Cells are finite: over infinite
    ones ``cubature`` of SciPy 1.17 was found 1e-2 off where it claimed 1e-9.
    """
    features = flow.event_shape.numel()
    draws = flow.sample(4000, generator=torch.Generator().manual_seed(0)).numpy()
    low, centre, high = np.quantile(draws, [0.25, 0.5, 0.75], axis=0)
    scale = high - low
    levels = np.linspace(0, 1, 17) if features == 1 else [0, 0.01, 0.1, 0.5, 0.9, 0.99, 1]
    beyond = np.array([0.2, 1.0, 10.0, 100.0, 1e4] if features == 1 else [1.0, 30.0])
    cells = []
    for d, m, s in zip(draws.T, centre, scale, strict=True):
        inner = np.unique(np.quantile(d, levels))
        out = beyond * np.ptp(d)
        knots = np.array([*(inner[0] - out[::-1]), *inner, *(inner[-1] + out)])
        cells.append(list(itertools.pairwise(np.arcsinh((knots - m) / s))))

    def integrand(t):
        return density(flow, centre + scale * np.sinh(t)) * (scale * np.cosh(t)).prod(1)

    accuracy = 1e-9 if features == 1 else 1e-6
    total = error = 0.0
    for cell in itertools.product(*cells):
        ends = zip(*cell, strict=True)
        found = integrate.cubature(integrand, *ends, rtol=accuracy, atol=accuracy, max_subdivisions=1000)
        total, error = total + float(found.estimate), error + float(found.error)
    return total, error


def distribution_function(flow):
    """The distribution function of a flow of one feature, by quadrature of its density on a fine grid."""
    draws = flow.sample(4000, generator=torch.Generator().manual_seed(0)).numpy()[:, 0]
    grid = np.unique(np.quantile(draws, np.linspace(0, 1, 400)))
    grid = np.concatenate([np.linspace(a, b, 50, endpoint=False) for a, b in itertools.pairwise(grid)] + [grid[-1:]])
    wide = np.ptp(grid) * np.geomspace(1e-3, 30, 2000)
    grid = np.concatenate([grid[0] - wide[::-1], grid, grid[-1] + wide])
    values = integrate.cumulative_trapezoid(density(flow, grid[:, None]), grid, initial=0)
    return lambda x: np.interp(x, grid, values)


@torch.no_grad()
def draws_p(flow, seed, n=20_000):
    """Kolmogorov-Smirnov p of draws: against the quadrature of the density for one feature, else of their latents.

    Latents of draws only repeat the base unless the way back fails: that is the fault this one can see.
    """
    g = torch.Generator().manual_seed(seed)
    x = flow.sample(n, generator=g)
    if flow.event_shape.numel() == 1:
        return float(stats.kstest(x.numpy()[:, 0], distribution_function(flow)).pvalue)
    z = flow.to_latent(x)[0].numpy()
    base = flow.base.sample(200_000, generator=g).numpy()
    return min(1.0, z.shape[1] * min(stats.ks_2samp(a, b).pvalue for a, b in zip(z.T, base.T, strict=True)))


@torch.no_grad()
def overlap(flow, seed, n=100_000):
    r"""Sigmas between :math:`E_p[q/p]` and 1, and the effective sample size as a part of ``n``.

    ``q`` is a normal density at a likely draw, as wide as its neighbourhood: chosen for its effective sample size on other
    draws, so that the estimate stays unbiased.
    """
    g = torch.Generator().manual_seed(seed)
    pilot = flow.sample(4000, generator=g)
    logp, best = flow.log_prob(pilot), (-1.0, None)
    for centre in (pilot.median(0).values, *pilot[logp.topk(400).indices[::100]]):
        for part in (0.03, 0.1, 0.3, 1.0):
            near = pilot[(pilot - centre).norm(dim=1).argsort()[: int(part * len(pilot))]]
            for shrink in (0.5, 1.0):
                q = torch.distributions.MultivariateNormal(
                    near.mean(0), shrink * torch.atleast_2d(torch.cov(near.T)), validate_args=False
                )
                best = max(best, (_effective((q.log_prob(pilot) - logp).exp()), q), key=lambda b: b[0])
    x = flow.sample(n, generator=g)
    w = (best[1].log_prob(x) - flow.log_prob(x)).exp()
    return float((w.mean() - 1) / (w.std() / n**0.5)), _effective(w)


def _effective(w):
    return float(w.sum() ** 2 / w.square().sum()) / len(w)

"""Evidence of targets with known answers by every estimator: are the errors within the standard errors that are reported?

    python benchmarks/evidence.py [--seeds 100] [--refits 5] [--only funnel] [--out FILE.json] [--write]

Targets: a correlated normal (closed form), a mixture of two normals (normalised), Neal's funnel (normalised), and a
logistic regression with three coefficients on real data (log Z by nested adaptive quadrature, SciPy). For each a flow is
fitted once by ``fit_posterior`` and a density for the harmonic mean is learned once; then ``--seeds`` estimates follow, each
with new draws, chains and particles, and ``--refits`` times everything is done anew. Counted are the runs that were not
flagged whose error is at most three reported standard errors, and the ratio of the root mean squared error to the mean
standard error. ``--write`` puts the tables into docs/evidence.md. One thread.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import integrate, optimize
from sklearn.datasets import load_iris
from torch import Tensor
from torch.distributions import Normal

import bijectory as bj
from bijectory.apps import (
    Evidence,
    EvidenceEstimate,
    annealed_evidence,
    bridge_evidence,
    evidence,
    harmonic_evidence,
    importance_evidence,
)
from bijectory.apps.evidence.learned import learn_density
from bijectory.apps.evidence.problem import Problem, halves
from bijectory.densities import Funnel

PAGE = Path(__file__).resolve().parent.parent / "docs" / "evidence.md"
METHODS = ("importance", "bridge", "harmonic", "annealed")
COLUMNS = "| target | estimator | flagged | within 3 s.e. | rmse / mean s.e. | mean s.e. | mean error |\n|" + "---|" * 7


class Target(NamedTuple):
    """A log-density with a known log Z."""

    log_density: Callable[[Tensor], Tensor]
    width: int
    log_z: float
    fitting: dict


def gaussian() -> Target:
    root = torch.tensor([[2.0, 0.0, 0.0], [1.5, 0.5, 0.0], [-1.0, 0.3, 1.2]], dtype=torch.float64)
    loc = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)

    def log_density(x: Tensor) -> Tensor:
        z = torch.linalg.solve_triangular(root, (x - loc).T, upper=False)
        return 2.0 - 0.5 * z.square().sum(0)

    return Target(log_density, 3, 2.0 + 1.5 * math.log(2 * math.pi) + float(root.diagonal().log().sum()), {})


def mixture() -> Target:
    def log_density(x: Tensor) -> Tensor:
        parts = torch.stack([Normal(-2.5, 0.7).log_prob(x).sum(-1), Normal(2.5, 1.0).log_prob(x).sum(-1)])
        return 1.5 + (parts + torch.tensor([[0.3], [0.7]], dtype=torch.float64).log()).logsumexp(0)

    return Target(log_density, 2, 1.5, {})


def funnel() -> Target:
    """Scale 3 as published, five features; an autoregressive affine flow from a broad start can represent it."""
    return Target(Funnel(5, 3.0).log_unnormalized, 5, 0.0, {"recipe": "maf", "start": "broad"})


def logistic() -> Target:
    """Iris versicolor against virginica from two measurements, coefficients N(0, 2.5^2)."""
    data = load_iris()
    keep = data.target > 0
    x = data.data[keep][:, 1:3]
    design = torch.from_numpy(np.column_stack([np.ones(len(x)), (x - x.mean(0)) / x.std(0)]))
    sign = torch.from_numpy(np.where(data.target[keep] == 2, 1.0, -1.0))

    def log_density(beta: Tensor) -> Tensor:
        prior = Normal(0.0, 2.5).log_prob(beta).sum(-1)
        return prior + torch.nn.functional.logsigmoid((beta @ design.T) * sign).sum(-1)

    return Target(log_density, 3, quadrature(log_density, 3), {})


def quadrature(log_density: Callable[[Tensor], Tensor], width: int) -> float:
    """log Z of a smooth density with one mode by adaptive cubature in coordinates scaled by its curvature."""

    def value(b: np.ndarray) -> float:
        return float(log_density(torch.from_numpy(b)[None]))

    peak = optimize.minimize(lambda b: -value(b), np.zeros(width), method="BFGS", options={"gtol": 1e-8})
    hessian = torch.autograd.functional.hessian(lambda b: -log_density(b[None])[0], torch.from_numpy(peak.x))
    root = np.linalg.cholesky(np.linalg.inv(hessian.numpy()))
    top = value(peak.x)

    def scaled(t: np.ndarray) -> np.ndarray:
        u = t.reshape(-1, width)
        return np.exp(log_density(torch.from_numpy(peak.x + u @ root.T)).numpy() - top)

    found = integrate.cubature(scaled, [-12.0] * width, [12.0] * width, rule="gk21", rtol=1e-7, atol=1e-9)
    if found.status != "converged":
        raise SystemExit(f"the cubature did not converge: {found}")
    return top + math.log(float(found.estimate)) + float(np.log(np.diag(root)).sum())


TARGETS = {"gaussian": gaussian, "mixture": mixture, "funnel": funnel, "logistic": logistic}


def repeat(target: Target, seeds: int) -> tuple[list[Evidence], dict]:
    """One fit, then ``seeds`` estimates by every estimator and their verdict."""
    begin = time.process_time()
    posterior = bj.fit_posterior(target.log_density, target.width, warn=False, **target.fitting)
    fitted = time.process_time() - begin
    d = posterior.diagnostics
    light = d.khat <= d.khat_limit and d.ess > 0.25 * d.draws
    chains = {"method": "independence" if light else "neutra", "chains": 32, "draws": 100, "thin": 2}
    training = posterior.polish(**chains, seed=10_000).chains
    problem = Problem.of(posterior)
    learned = learn_density(training.draws[::4], problem.density, seed=0)
    found = []
    for seed in range(seeds):
        if light or seed == 0:
            draws = posterior.polish(**chains, seed=seed).chains.draws
        first, second = halves(draws)
        density, names = target.log_density, posterior.parameters
        estimates = [importance_evidence(posterior, seed=seed, warn=False)]
        if light or seed == 0:
            estimates += [
                bridge_evidence(posterior, first, seed=1000 + seed, warn=False),
                harmonic_evidence(density, second, names, flow=learned, warn=False),
            ]
        estimates.append(annealed_evidence(posterior, particles=512, seed=2000 + seed, warn=False))
        found.append(Evidence(tuple(estimates)))
    facts = {"khat": d.khat, "ess": d.ess / d.draws, "fit": fitted, "cpu": time.process_time() - begin, "light": light}
    return found, facts


def refit(target: Target, seed: int) -> Evidence:
    return evidence(target.log_density, target.width, seed=seed, warn=False, **target.fitting)


def count(found: list[EvidenceEstimate], log_z: float) -> dict:
    """Of the estimates that were not flagged: how many are within three standard errors, and how honest these are."""
    good = [e for e in found if e.reliable]
    error = np.array([e.log_z - log_z for e in good])
    se = np.array([e.se for e in good])
    return {
        "runs": len(found),
        "flagged": len(found) - len(good),
        "good": len(good),
        "within": int((np.abs(error) <= 3 * se).sum()),
        "honesty": float(np.sqrt((error**2).mean()) / se.mean()) if len(good) else math.nan,
        "se": float(se.mean()) if len(good) else math.nan,
        "bias": float(error.mean()) if len(good) else math.nan,
    }


def verdicts(found: list[Evidence], log_z: float) -> dict:
    """The same of the recommended estimates of the verdicts."""
    trusted = [e for e in found if e.state == "trusted"]
    row = count([e.recommended for e in trusted], log_z)
    return {**row, "runs": len(found), "flagged": len(found) - len(trusted)}


def line(target: str, what: str, row: dict) -> str:
    numbers = (
        f"{row['within']} of {row['good']} | {row['honesty']:.2f} | {row['se']:.4f} | {row['bias']:+.4f}"
        if row["good"]
        else "none of none | | | "
    )
    return f"| {target} | {what} | {row['flagged']} of {row['runs']} | {numbers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--refits", type=int, default=5)
    parser.add_argument("--only", action="append", help="name of a target; all by default")
    parser.add_argument("--out", type=Path, help="write the counts as JSON")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/evidence.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    lines, again, record = [COLUMNS], [COLUMNS], {}
    for name in options.only or TARGETS:
        target = TARGETS[name]()
        found, facts = repeat(target, options.seeds)
        rows = {m: count([e for f in found for e in f.estimates if e.method == m], target.log_z) for m in METHODS}
        rows["verdict, recommended"] = verdicts(found, target.log_z)
        print(f"{name}: log Z = {target.log_z:.6f}, {facts}", flush=True)
        lines += [line(name, what, row) for what, row in rows.items()]
        print("\n".join(lines[-len(rows) :]), flush=True)
        fresh = [refit(target, 100 + k) for k in range(options.refits)]
        others = {m: count([e for f in fresh for e in f.estimates if e.method == m], target.log_z) for m in METHODS}
        others["verdict, recommended"] = verdicts(fresh, target.log_z)
        again += [line(name, what, row) for what, row in others.items()] if fresh else []
        print("\n".join(again[-len(rows) :]), flush=True)
        record[name] = {"log_z": target.log_z, "facts": facts, "repeated": rows, "refitted": others}
        if options.out:
            options.out.write_text(json.dumps(record, indent=1))
    if options.write:
        text = PAGE.read_text()
        for mark, table in (("repeated", lines), ("refitted", again)):
            head, rest = text.split(f"<!-- {mark} -->")
            text = (
                f"{head}<!-- {mark} -->\n\n" + "\n".join(table) + f"\n\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
            )
        PAGE.write_text(text)


if __name__ == "__main__":
    main()

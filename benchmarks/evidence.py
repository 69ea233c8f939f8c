"""Evidence of targets with known answers by every estimator: are the errors within the standard errors that are reported?

    python benchmarks/evidence.py [--seeds 100] [--refits 2] [--failures 20] [--only funnel] [--out FILE.json] [--write]

Targets: a correlated normal (closed form), a mixture of two normals (normalised), Neal's funnel (normalised), and a
logistic regression with three coefficients on real data (log Z by adaptive cubature, SciPy 1.15 or later). For each a
flow is fitted once by ``fit_posterior`` and a density for the harmonic mean is learned once; then ``--seeds`` estimates
follow, each with new draws, chains and particles, and ``--refits`` times everything is done anew. Counted are the runs
that were not flagged whose error is at most three reported standard errors, and the ratio of the root mean squared error
to the mean standard error. Then come runs that are wrong on purpose, ``--failures`` times each. ``--out`` adds to the
counts of earlier runs for other targets; ``--write`` puts the tables into docs/evidence.md. One thread.
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
from bijectory import Chain, DiagonalNormal, Flow, Mixture, StandardNormal, Whiten
from bijectory.apps import (
    Evidence,
    EvidenceEstimate,
    annealed_evidence,
    bridge_evidence,
    evidence,
    harmonic_evidence,
    importance_evidence,
)
from bijectory.apps.model_evidence.learned import learn_density
from bijectory.apps.model_evidence.problem import Problem, halves
from bijectory.densities import Funnel

PAGE = Path(__file__).resolve().parent.parent / "docs" / "evidence.md"
AFFINE = {"recipe": "real_nvp", "recipe_args": {"layers": 2, "hidden": (16, 16)}}  # enough for one mode, and quick
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

    return Target(log_density, 3, 2.0 + 1.5 * math.log(2 * math.pi) + float(root.diagonal().log().sum()), AFFINE)


def mixture() -> Target:
    def log_density(x: Tensor) -> Tensor:
        parts = torch.stack([Normal(-2.5, 0.7).log_prob(x).sum(-1), Normal(2.5, 1.0).log_prob(x).sum(-1)])
        return 1.5 + (parts + torch.tensor([[0.3], [0.7]], dtype=torch.float64).log()).logsumexp(0)

    return Target(log_density, 2, 1.5, {"recipe_args": {"layers": 3, "hidden": (16, 16)}})


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

    return Target(log_density, 3, quadrature(log_density, 3), AFFINE)


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
    sizes = {"chains": 32, "draws": 100, "thin": 2}
    training = posterior.polish("independence", **sizes, seed=10_000).chains
    learned = learn_density(training.draws[::2], Problem.of(posterior).density, seed=0)
    names, found = posterior.parameters, []
    for seed in range(seeds):
        first, second = halves(posterior.polish("independence", **sizes, seed=seed).chains.draws)
        estimates = (
            importance_evidence(posterior, seed=seed, warn=False),
            bridge_evidence(posterior, first, seed=1000 + seed, warn=False),
            harmonic_evidence(target.log_density, second, names, flow=learned, warn=False),
            annealed_evidence(posterior, particles=512, seed=2000 + seed, warn=False),
        )
        found.append(Evidence(estimates))
    d = posterior.diagnostics
    return found, {"khat": d.khat, "ess": d.ess / d.draws, "fit": fitted, "cpu": time.process_time() - begin}


def refit(target: Target, seed: int) -> Evidence:
    return evidence(target.log_density, target.width, seed=seed, warn=False, **target.fitting)


def normal_flow(at: float, sd: float) -> Flow:
    return Flow(Chain(Whiten(1, [at], [[sd]])), StandardNormal(1)).double()


def two_modes(x: Tensor) -> Tensor:
    """Normals at -4 and 4 of sd 0.5 with a quarter and three quarters of the mass; log Z = 1."""
    parts = torch.cat([Normal(-4.0, 0.5).log_prob(x), Normal(4.0, 0.5).log_prob(x)], -1)
    return 1.0 + (parts + torch.tensor([0.25, 0.75], dtype=torch.float64).log()).logsumexp(-1)


def two_mode_draws(share: float, generator: torch.Generator) -> Tensor:
    right = torch.rand(8, 250, 1, generator=generator, dtype=torch.float64) < share
    noise = torch.randn(8, 250, 1, generator=generator, dtype=torch.float64)
    return torch.where(right, 4.0, -4.0) + 0.5 * noise


def failures(seed: int) -> dict[str, Evidence]:
    """Runs that are wrong on purpose, by name."""
    g = torch.Generator().manual_seed(seed)
    quiet = {"warn": False}
    half, net = normal_flow(4.0, 0.5), Mixture(normal_flow(-4.0, 0.5), normal_flow(4.0, 0.5))
    both = Flow(Chain(), net).double()
    bare = Flow(normal_flow(0.0, 0.25).transform, Mixture(DiagonalNormal(1))).double()  # without wide tails
    draws, left = two_mode_draws(0.75, g), two_mode_draws(0.0, g)
    bell = torch.randn(16, 250, 1, generator=g, dtype=torch.float64)
    stuck = torch.cat([two_mode_draws(0.0, g)[:4], two_mode_draws(1.0, g)[:4]])
    cases = {
        "the flow misses a mode, the draws know it": [
            importance_evidence(two_modes, 1, flow=half, seed=seed, **quiet),
            annealed_evidence(two_modes, 1, flow=half, particles=512, seed=seed, **quiet),
            bridge_evidence(two_modes, draws, 1, flow=half, seed=seed, **quiet),
        ],
        "the draws miss a mode, the flow knows it": [
            importance_evidence(two_modes, 1, flow=both, seed=seed, **quiet),
            harmonic_evidence(two_modes, left, 1, seed=seed, **quiet),
        ],
        "each chain stays in its mode": [bridge_evidence(two_modes, stuck, 1, flow=both, seed=seed, **quiet)],
        "the proposal is four times too narrow": [
            importance_evidence(lambda x: Normal(0.0, 1.0).log_prob(x[:, 0]), 1, flow=bare, seed=seed, **quiet)
        ],
        "harmonic mean at temperature 1, learned density eight times too wide": [
            harmonic_evidence(
                lambda x: Normal(0.0, 1.0).log_prob(x[:, 0]),
                bell,
                1,
                flow=normal_flow(0.0, 8.0),
                temperature=1.0,
                **quiet,
            )
        ],
    }
    return {name: Evidence(tuple(estimates)) for name, estimates in cases.items()}


def failing(seeds: int) -> list[str]:
    """How often each is flagged, and as what."""
    lines = ["| what is wrong | runs | disagree | unreliable | trusted |\n|---|---|---|---|---|"]
    runs = [failures(seed) for seed in range(seeds)]
    states = {name: [r[name].state for r in runs] for name in runs[0]}
    for name, found in states.items():
        counts = " | ".join(str(found.count(s)) for s in ("disagree", "unreliable", "trusted"))
        lines.append(f"| {name} | {len(found)} | {counts} |")
    return lines


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


def counts(found: list[Evidence], log_z: float) -> dict[str, dict]:
    rows = {m: count([e for f in found for e in f.estimates if e.method == m], log_z) for m in METHODS}
    return {**rows, "verdict": verdicts(found, log_z)}


def table(record: dict, kind: str, only: str | None = None) -> str:
    """Markdown of all targets, or of one."""
    names = [n for n in TARGETS if n in record and only in (None, n)]
    return "\n".join([COLUMNS, *(line(n, what, row) for n in names for what, row in record[n][kind].items())])


def save(record: dict, out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(record, indent=1))


def line(target: str, what: str, row: dict) -> str:
    numbers = (
        f"{row['within']} of {row['good']} | {row['honesty']:.2f} | {row['se']:.2g} | {row['bias']:+.2g}"
        if row["good"]
        else "none of none | | | "
    )
    return f"| {target} | {what} | {row['flagged']} of {row['runs']} | {numbers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--refits", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(TARGETS), help="names of targets; all by default")
    parser.add_argument("--failures", type=int, default=20, help="repetitions of the runs that are wrong on purpose")
    parser.add_argument("--out", type=Path, help="write the counts as JSON")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/evidence.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    record = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    names = options.only if options.only is not None else list(TARGETS)
    for name in names:
        target = TARGETS[name]()
        found, facts = repeat(target, options.seeds)
        fresh = [refit(target, 100 + k) for k in range(options.refits)]
        record[name] = {
            "log_z": target.log_z,
            "facts": facts,
            "repeated": counts(found, target.log_z),
            "refitted": counts(fresh, target.log_z),
        }
        save(record, options.out)
        print(f"{name}: log Z = {target.log_z:.6f}, {facts}\n{table(record, 'repeated', name)}", flush=True)
        print(table(record, "refitted", name), flush=True)
    if options.failures:
        record["failures"] = failing(options.failures)
        save(record, options.out)
        print("\n".join(record["failures"]))
    if options.write:
        text = PAGE.read_text()
        tables = {
            "repeated": table(record, "repeated"),
            "refitted": table(record, "refitted"),
            "failures": "\n".join(record.get("failures", [])),
        }
        for mark, made in tables.items():
            head, rest = text.split(f"<!-- {mark} -->")
            text = f"{head}<!-- {mark} -->\n\n{made}\n\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
        PAGE.write_text(text)


if __name__ == "__main__":
    main()

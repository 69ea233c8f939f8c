"""Yesterday's posterior as today's prior: a flow fitted to old draws, nested sampling of new data, a table by names.

    pip install "bijectory[samplers,arviz]"
    python examples/flow_prior.py

A straight line is measured twice. Of the first experiment only draws of its posterior are left; a flow turns them into a
prior that a nested sampler can use. The model is linear and normal, so the evidence of the second experiment is
known exactly.
"""

import dynesty
import numpy as np
import torch

import bijectory as bj

NOISE = 0.5
PRIOR = 4.0  # sd of both parameters before the first experiment


def design(times: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(times), times], -1)


def posterior(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the parameters of the line."""
    covariance = np.linalg.inv(x.T @ x / NOISE**2 + np.eye(2) / PRIOR**2)
    return covariance @ x.T @ y / NOISE**2, covariance


def main(draws: int = 4000, epochs: int = 10, nlive: int = 150) -> tuple[float, float, float]:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    first, second = design(np.linspace(0, 1, 5)), design(np.linspace(0.5, 3, 8))
    truth = np.array([1.0, -0.7])
    y1, y2 = (x @ truth + NOISE * rng.normal(size=len(x)) for x in (first, second))

    mean, covariance = posterior(first, y1)
    old = rng.multivariate_normal(mean, covariance, size=draws)  # all that is left of the first experiment
    flow = bj.nsf(2, layers=2, hidden=(32, 32))
    flow = bj.Flow(bj.Chain(bj.Standardize(2), flow.transform), flow.base)
    bj.fit(flow, torch.tensor(old).float(), config=bj.FitConfig(epochs=epochs, lr=2e-3, progress=False))

    def log_likelihood(theta: np.ndarray) -> float:
        residual = (y2 - second @ theta) / NOISE
        return float(-0.5 * residual @ residual - len(y2) * np.log(NOISE * np.sqrt(2 * np.pi)))

    prior = bj.interop.prior_transform(flow)
    sampler = dynesty.NestedSampler(log_likelihood, prior, 2, nlive=nlive, rstate=rng, bound="single")
    sampler.run_nested(print_progress=False, dlogz=0.2)
    found = sampler.results

    predictive = second @ covariance @ second.T + NOISE**2 * np.eye(len(y2))
    off = y2 - second @ mean
    exact = -0.5 * (off @ np.linalg.solve(predictive, off) + np.linalg.slogdet(2 * np.pi * predictive)[1])
    evidence, error = float(found.logz[-1]), float(found.logzerr[-1])
    print(f"log evidence of the second experiment {evidence:.2f} ± {error:.2f}, exactly {exact:.2f}")

    new = found.samples_equal(rstate=rng)
    tree = bj.interop.to_datatree({"line": new[None]}, dims={"line": ["part"]}, coords={"part": ["intercept", "slope"]})
    print(tree["posterior"]["line"].mean(("chain", "draw")).to_series())
    return evidence, error, float(exact)


if __name__ == "__main__":
    main()

"""Which measurements does a linear model of diabetes need? Evidences of nested models, checked against the closed form.

    python examples/evidence.py

The data are 442 patients of the diabetes set that comes with scikit-learn, all columns standardised. Coefficients have the
prior N(0, sigma^2), sigma^2 an inverse gamma prior: then the evidence is a multivariate Student t density of the
response, known exactly, and one can see whether the four estimates and their standard errors are right.
"""

import math

import torch
from scipy import stats
from sklearn.datasets import load_diabetes
from torch import Tensor
from torch.distributions import InverseGamma, Normal

import bijectory as bj

SHAPE, SCALE = 2.0, 1.0  # of the inverse gamma prior
MODELS = {
    "weight": ["bmi"],
    "weight and lipids": ["bmi", "s5"],
    "weight, lipids, pressure": ["bmi", "s5", "bp"],
    "those and age": ["bmi", "s5", "bp", "age"],
}


def closed_form(x: Tensor, y: Tensor) -> float:
    """log p(y) = log t_{2a}(y; 0, b/a (I + X X^T))."""
    shape = (SCALE / SHAPE) * (torch.eye(len(y), dtype=y.dtype) + x @ x.mT)
    return float(stats.multivariate_t(torch.zeros(len(y)).numpy(), shape.numpy(), df=2 * SHAPE).logpdf(y.numpy()))


def main(epochs: int = 12, models: tuple[str, ...] = tuple(MODELS)) -> tuple[bj.apps.ModelComparison, dict[str, float]]:
    data = load_diabetes()
    rows = torch.from_numpy((data.data - data.data.mean(0)) / data.data.std(0))
    y = torch.from_numpy((data.target - data.target.mean()) / data.target.std())
    found, exact = {}, {}
    for name in models:
        columns = MODELS[name]
        x = rows[:, [data.feature_names.index(c) for c in columns]]

        def log_density(p: Tensor, x: Tensor = x) -> Tensor:  # coefficients, then sigma^2, with every constant
            beta, variance = p[:, :-1], p[:, -1:]
            prior = Normal(0.0, variance.sqrt()).log_prob(beta).sum(-1) + InverseGamma(SHAPE, SCALE).log_prob(p[:, -1])
            return prior + Normal(beta @ x.mT, variance.sqrt()).log_prob(y).sum(-1)

        parameters = {**dict.fromkeys(columns, "real"), "variance": "positive"}
        config = bj.variational_config(epochs=epochs)
        found[name] = bj.evidence(log_density, parameters, name=name, config=config)
        exact[name] = closed_form(x, y)
        print(found[name])
        print(f"  exact       {exact[name]:10.4f}; {(found[name].log_z - exact[name]) / found[name].se:+.1f} s.e.")
    comparison = bj.compare_models(found)
    print(comparison)
    best = max(exact.values())
    total = math.fsum(math.exp(v - best) for v in exact.values())
    print("exact probabilities: " + ", ".join(f"{n} {math.exp(v - best) / total:.4f}" for n, v in exact.items()))
    return comparison, exact


if __name__ == "__main__":
    main()

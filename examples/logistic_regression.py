"""Bayesian logistic regression on real data: which measurements of a cell nucleus tell a malignant tumour from a benign one?

    python examples/logistic_regression.py

The data are the ten mean measurements of the Wisconsin breast cancer set (569 tumours) that comes with scikit-learn,
standardised; the prior of every coefficient is N(0, 2^2). The flow gives the posterior, its evidence, and predictions that
know what they do not know.
"""

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor
from torch.distributions import Normal

import bijectory as bj


def main(epochs: int = 12) -> bj.VariationalPosterior:
    data = load_breast_cancer()
    names = [name.removeprefix("mean ").replace(" ", "_") for name in data.feature_names[:10]]
    x = torch.from_numpy((data.data[:, :10] - data.data[:, :10].mean(0)) / data.data[:, :10].std(0))
    malignant = torch.from_numpy(1.0 - data.target)
    train = torch.arange(len(x)) % 5 != 0

    def log_density(coefficients: Tensor) -> Tensor:  # (n, 11) -> (n,)
        logits = coefficients[:, :1] + coefficients[:, 1:] @ x[train].T
        prior = Normal(0.0, 2.0).log_prob(coefficients).sum(-1)
        return prior - torch.nn.functional.softplus(torch.where(malignant[train] > 0, -logits, logits)).sum(-1)

    config = bj.variational_config(epochs=epochs)
    posterior = bj.fit_posterior(log_density, ["intercept", *names], config=config, warn=False)
    if posterior.diagnostics.verdict != "good":
        posterior = posterior.polish()
    print(posterior.summary())

    draws = torch.from_numpy(posterior.sample(2000, corrected=True, seed=0).to_numpy().copy())
    logits = draws[:, :1] + draws[:, 1:] @ x[~train].T
    p = torch.sigmoid(logits).mean(0)  # averaged over the posterior
    right = ((p > 0.5).double() == malignant[~train]).double().mean()
    nats = torch.where(malignant[~train] > 0, p, 1 - p).log().mean()
    unsure = ((p > 0.1) & (p < 0.9)).double().mean()
    print(f"held-out tumours: {right:.1%} right, {nats:.3f} nats each, {unsure:.0%} between 10 % and 90 %")
    return posterior


if __name__ == "__main__":
    main()

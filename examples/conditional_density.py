"""A conditional density in twenty lines: the law of y given x where mean and spread depend on x.

    python examples/conditional_density.py

The truth is known, so the learned intervals can be checked: 90 % of new y must fall between the 5 % and 95 % quantiles.
"""

import torch

import bijectory as bj


def truth(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    x = 4 * torch.rand(n, 1, generator=generator) - 2
    y = torch.sin(2 * x) + (0.1 + 0.2 * x.abs()) * torch.randn(n, 1, generator=generator)
    return x, y


def main(rows: int = 4000, epochs: int = 30) -> float:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x, y = truth(rows, generator)
    flow = bj.nsf_ar(features=1, context=1, layers=3, hidden=(32, 32))
    result = bj.fit(flow, (y, x), config=bj.FitConfig(epochs=epochs, lr=3e-3, progress=False))
    print(f"{result.steps} steps, validation {-result.best_val:.3f} nats a row")

    x_new, y_new = truth(1000, generator)
    draws = flow.sample(500, x_new, generator=generator)  # 500 draws for each of 1000 contexts
    low, high = draws.quantile(torch.tensor([0.05, 0.95]), dim=0)
    coverage = ((low < y_new) & (y_new < high)).float().mean().item()
    print(f"90 % intervals cover {coverage:.1%} of new rows")
    print(flow.check(y_new, x_new))
    return coverage


if __name__ == "__main__":
    main()

"""A flow put together by hand, a scalar family of one's own, and the laws that it must obey.

python examples/custom_layers.py
"""

import dataclasses

import torch

import bijectory as bj
from bijectory.testing import check_bijection


@dataclasses.dataclass(frozen=True)
class Cubic(bj.Bijection):
    """y = x + a x^3 with a > 0: monotone, inverted by Cardano's formula; starts at a = log 2 + 0.001 for phi = 0."""

    n_params = 1

    def forward(self, x: torch.Tensor, phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = torch.nn.functional.softplus(phi[0]) + 1e-3
        return x + a * x**3, torch.log1p(3 * a * x**2)

    def inverse(self, y: torch.Tensor, phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a = torch.nn.functional.softplus(phi[0]) + 1e-3
        # x = 2 sqrt(1/(3a)) sinh(asinh(3/2 y sqrt(3a)) / 3) solves a x^3 + x = y
        x = 2 / (3 * a).sqrt() * torch.sinh(torch.asinh(1.5 * y * (3 * a).sqrt()) / 3)
        return x, -torch.log1p(3 * a * x**2)


def main() -> float:
    check_bijection(Cubic(), start=lambda x: Cubic().forward(x, torch.zeros(1, *x.shape, dtype=x.dtype))[0])
    first, last = (True, True, False), (False, False, True)
    flow = bj.Flow(
        bj.Chain(
            bj.ActNorm(3),
            bj.Coupling(Cubic(), first, hidden=(32,)),
            bj.LU(3),
            bj.Coupling(bj.RationalQuadratic(bins=8, bound=4.0), last, hidden=(32,)),
            bj.Autoregressive(bj.Affine(), 3, hidden=(32,)),
        ),
        bj.StudentT(3, dof=5.0),
    )
    torch.manual_seed(0)
    z = torch.randn(4000, 3)
    x = torch.stack((z[:, 0], z[:, 1] + z[:, 0] ** 2, torch.exp(0.5 * z[:, 2])), -1)
    result = bj.fit(flow, x, config=bj.FitConfig(epochs=20, lr=3e-3, progress=False))
    print(f"validation {-result.best_val:.3f} nats a row after {result.steps} steps")
    print(flow.check(x))
    return result.best_val


if __name__ == "__main__":
    main()

"""Flow matching on a sphere, a torus and a product: nats lost to the exact density, mass, and pictures.

Three targets with exact densities: a mixture of von Mises-Fisher laws on the sphere; two correlated modes of a pair of
angles, one across the seam, as dihedral angles of proteins are; a direction with a position that depends on it. Each is
trained by ``FlowMatching`` along geodesics with the same settings. KL(target | flow) is a mean over held-out draws with its
standard error, from the exact log-density of the flow.

    python benchmarks/manifolds.py            # docs/manifolds.md and docs/manifolds.png, about two minutes on one core
"""

import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import bijectory as bj
from bijectory.nets import Euclidean, Manifold, ProductManifold, Sphere, Torus
from bijectory.ops.circle import wrap

ROOT = Path(__file__).resolve().parent.parent
ROWS, HELD_OUT, EPOCHS, BATCH, HIDDEN, DRAWS = 20_000, 5_000, 100, 500, (128, 128), 20_000
PI = math.pi


class Sheared(bj.Density):
    """Angles (a, b + k a): correlated, and periodic in both because ``k`` is whole; the shear has determinant 1."""

    def __init__(self, base: bj.Density, k: int) -> None:
        super().__init__()
        self.base, self.k, self.event_shape = base, k, base.event_shape

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = x.unbind(-1)
        return self.base.log_prob(torch.stack((a, wrap(b - self.k * a, PI)), -1))

    def rsample(self, shape=(), c=None, *, generator=None) -> Tensor:
        a, b = self.base.rsample(shape, generator=generator).unbind(-1)
        return torch.stack((a, wrap(b + self.k * a, PI)), -1)


class Attached(bj.Density):
    """A direction, and a position in the plane that is normal around a bent image of the direction."""

    def __init__(self, direction: bj.Density, scale: float) -> None:
        super().__init__()
        self.direction, self.noise, self.scale = direction, bj.StandardNormal(2), scale
        self.event_shape, self.surface = torch.Size((5,)), True

    def _mean(self, u: Tensor) -> Tensor:
        return torch.stack((1.5 * u[..., 0] + u[..., 2], 1.5 * u[..., 1] * u[..., 2]), -1)

    def log_prob(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        u, y = x.split((3, 2), -1)
        rest = self.noise.log_prob((y - self._mean(u)) / self.scale) - 2 * math.log(self.scale)
        return self.direction.log_prob(u) + rest

    def rsample(self, shape=(), c=None, *, generator=None) -> Tensor:
        u = self.direction.sample(shape, generator=generator)
        return torch.cat((u, self._mean(u) + self.scale * self.noise.sample(shape, generator=generator)), -1)


def von_mises(loc: tuple[float, float], kappa: float) -> bj.VonMises:
    p = bj.VonMises(2, kappa)
    with torch.no_grad():
        p.loc.copy_(torch.tensor(loc))
    return p


def directions() -> bj.Mixture:
    means = ((1.0, 0.0, 0.3), (-0.6, 0.7, 0.2), (-0.3, -0.8, 0.6), (0.1, 0.1, -1.0))
    return bj.Mixture(*(bj.VonMisesFisher(m, k) for m, k in zip(means, (8.0, 20.0, 40.0, 5.0), strict=True)))


TARGETS: dict[str, tuple[Manifold, object]] = {
    "sphere": (Sphere(3), directions),
    "torus": (
        Torus(2),
        lambda: bj.Mixture(Sheared(von_mises((-1.2, -2.0), 12.0), -1), Sheared(von_mises((2.9, 0.5), 6.0), 2)),
    ),
    "sphere x plane": (ProductManifold((Sphere(3), Euclidean(2))), lambda: Attached(directions(), 0.4)),
}


def sphere_rule(n: int = 50) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the product rule: Gauss-Legendre in the height, equal turns."""
    height, weight = np.polynomial.legendre.leggauss(n)
    turn = 2 * np.pi * np.arange(2 * n) / (2 * n)
    r = np.sqrt(1 - height**2)
    x = np.stack([np.outer(r, np.cos(turn)), np.outer(r, np.sin(turn)), np.outer(height, np.ones(2 * n))], -1)
    return torch.from_numpy(x.reshape(-1, 3)), torch.from_numpy(np.repeat(weight * np.pi / n, 2 * n))


def mass(name: str, flow: bj.Flow) -> str:
    if name == "sphere x plane":
        return "not measured"
    x, w = sphere_rule()
    if name == "torus":
        side = torch.linspace(-PI, PI, 81, dtype=torch.float64)[:-1]
        x, w = torch.cartesian_prod(side, side), torch.full((80**2,), (2 * PI / 80) ** 2)
    with torch.no_grad():
        p = torch.cat([flow.log_prob(v) for v in x.split(2000)]).exp()
    return f"{float((w * p).sum()):.6f}"


def off(manifold: Manifold, x: Tensor) -> float:
    """How far draws are from the manifold."""
    x = x[:, :3] if isinstance(manifold, ProductManifold) else x
    if isinstance(manifold, Torus):
        return float((x.abs() - PI).clamp(min=0).max())
    return float((x.norm(dim=-1) - 1).abs().max())


def fit_one(name: str) -> tuple[dict, bj.Flow, bj.Density]:
    manifold, build = TARGETS[name]
    target, g = build(), torch.Generator().manual_seed(0)  # type: ignore[operator]
    train, test = target.sample(ROWS, generator=g), target.sample(HELD_OUT, generator=g)
    torch.manual_seed(0)
    flow = bj.manifold_flow(manifold, hidden=HIDDEN, activation="silu", frequencies=2, steps=8)
    config = bj.FitConfig(epochs=EPOCHS, batch_size=BATCH, lr=4e-3, ema_decay=0.998, progress=False, patience=None)
    start = time.process_time()
    flow = bj.fit(flow, train, objective=bj.FlowMatching(), config=config).model.eval()
    seconds = time.process_time() - start
    with torch.no_grad():
        log_p, log_q = target.log_prob(test), torch.cat([flow.log_prob(x) for x in test.split(2000)])
        base = log_p - bj.recipes.manifold_base(manifold).log_prob(test)
        draws = flow.sample(HELD_OUT, generator=g)
        raw = flow.transform.transform.inverse(flow.base.sample(2000, generator=g))[0]
        gap = log_p - log_q
        row = {"entropy": -float(log_p.mean()), "base": float(base.mean()), "gap": float(gap.mean())}
        row |= {"se": float(gap.std() / len(gap) ** 0.5), "seconds": seconds, "off": off(manifold, draws)}
        row |= {"raw": math.nan if isinstance(manifold, Torus) else off(manifold, raw)}
        row |= {"mass": mass(name, flow.double())}
    return row, flow.float(), target


def images(name: str, p: bj.Density) -> np.ndarray:
    """Density over longitude and latitude, or the two angles; draws of the plane for the product."""
    if name == "sphere x plane":
        y = p.sample(DRAWS, generator=torch.Generator().manual_seed(1))[:, 3:]
        return np.histogram2d(*y.T.numpy()[::-1], bins=40, range=[(-3, 3), (-3.5, 3.5)])[0]
    a, b = torch.linspace(-PI, PI, 121), torch.linspace(-PI, PI, 121)
    if name == "sphere":
        b = torch.linspace(-PI / 2, PI / 2, 81)
    lat, lon = torch.meshgrid(b, a, indexing="ij")
    x = torch.stack((lon, lat), -1)
    if name == "sphere":
        x = torch.stack((lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()), -1)
    with torch.no_grad():
        return torch.cat([p.log_prob(r) for r in x.split(20)]).exp().numpy()


def main() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    torch.set_num_threads(1)
    figure, axes = plt.subplots(2, len(TARGETS), figsize=(9, 5))
    lines, start = [], time.process_time()
    for j, name in enumerate(TARGETS):
        row, flow, target = fit_one(name)
        raw = "" if math.isnan(row["raw"]) else f"{row['raw']:.0e}"
        lines.append(
            f"| {name} | {row['entropy']:.3f} | {row['base']:.3f} | {row['gap']:.4f} ± {row['se']:.4f} | {row['mass']} | "
            f"{row['off']:.0e} | {raw} | {row['seconds']:.0f} |"
        )
        print(lines[-1], flush=True)
        exact, learned = (images(name, p) for p in (target, flow))
        for i, (image, title) in enumerate(((exact, f"{name}: exact"), (learned, "learned"))):
            axes[i, j].imshow(image, origin="lower", cmap="magma", vmin=0, vmax=exact.max(), aspect="auto")
            axes[i, j].set(xticks=[], yticks=[])
            axes[i, j].set_title(title, fontsize=9)
    figure.tight_layout(pad=0.4)
    figure.savefig(ROOT / "docs" / "manifolds.png", dpi=80, pil_kwargs={"optimize": True})
    table = "\n".join(lines)
    text = f"""# Flows on spheres, tori and products

A `Tangent` field, solved by `Continuous`, is a flow on a manifold; `FlowMatching` trains it along geodesics
([arXiv:2302.03660](https://arxiv.org/abs/2302.03660)), and its density is exact to the accuracy of the solver.

```python
import bijectory as bj
from bijectory.nets import Euclidean, ProductManifold, Sphere, Torus

flow = bj.rfm_sphere(3)  # unit vectors
flow = bj.rfm_torus(2)  # angles in [-pi, pi]
flow = bj.manifold_flow(ProductManifold((Sphere(3), Euclidean(2))))  # columns side by side
flow = bj.fit(flow, x, objective=bj.FlowMatching()).model
```

`flow.transform.manifold.nearest(x)` wraps angles and divides vectors by their norm; `fit` refuses rows that are no points
of the manifold. A density on a sphere is with respect to its area.

| space | entropy | KL(target, base) | KL(target, flow) | mass | draws off by | without `Confined` | CPU seconds |
|---|---|---|---|---|---|---|---|
{table}

Nats, exact log-densities of {HELD_OUT:,} held-out rows; {ROWS:,} rows, {EPOCHS} epochs in batches of {BATCH}, one seed. The
mass is an integral of the density by quadrature over {2 * 50 * 50:,} points of the sphere and {80**2:,} of the torus.
All in {(time.process_time() - start) / 60:.1f} minutes of one CPU core by `benchmarks/manifolds.py`.

Draws are off a sphere by the error of their norm, off the torus by what they are outside the box. Sphere: four
von Mises-Fisher laws over longitude and latitude. Torus: two correlated modes of a pair of angles, one across the seam.
Product: the position in the plane that depends on the direction, {DRAWS:,} draws of each.

![exact densities above, learned below](manifolds.png)
"""
    (ROOT / "docs" / "manifolds.md").write_text(text)


if __name__ == "__main__":
    main()

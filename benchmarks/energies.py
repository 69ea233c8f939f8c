"""The four energies of Rezende and Mohamed (arXiv:1505.05770, table 1 and figure 3), learnt by variational training.

Planar and radial flows of 2, 8 and 32 maps act on noise and are trained on the energy alone; the ELBO is then compared with
the known log Z, which the program checks by a sum over a grid first. The gap log Z - ELBO is KL(flow | target) in nats.

    python benchmarks/energies.py --work energies/ [--steps 8000]      # trains what is missing, then writes docs/energies.*

About six minutes of one core with the defaults; interrupted, it goes on with the next flow.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

import bijectory as bj

ROOT = Path(__file__).resolve().parent.parent
DEPTHS, KINDS, ENERGIES = (2, 8, 32), ("planar", "radial"), (1, 2, 3, 4)
BATCH, DRAWS, PIXELS, HALF = 128, 50_000, 160, 4.0


def grid_log_z(target: bj.RezendeMohamed, half: float = 10.0, n: int = 2001) -> float:
    """The log of a trapezium sum over ``[-half, half]^2``, in float64."""
    axis = torch.linspace(-half, half, n, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    return float(target.double().log_unnormalized(x).flatten().logsumexp(0)) + 2 * math.log(2 * half / (n - 1))


def pixels() -> torch.Tensor:
    axis = torch.linspace(-HALF, HALF, PIXELS)
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)


def train(kind: str, layers: int, number: int, steps: int) -> tuple[dict, np.ndarray]:
    target = bj.RezendeMohamed(number)
    torch.manual_seed(0)
    flow = bj.recipes.find_recipe(kind).build(2, layers=layers, acts_on="noise")
    objective = bj.ReverseKL(target.log_unnormalized)
    config = bj.FitConfig(
        epochs=10,
        batch_size=BATCH,
        lr=1e-2,
        validation_fraction=0.0,
        ema_decay=None,
        progress=False,
    )
    rows = flow.sample(steps // 10 * BATCH)
    start = time.process_time()
    bj.fit(flow, rows, objective=objective, config=config, callbacks=[bj.Anneal(objective, steps // 2)])
    seconds = time.process_time() - start
    with torch.no_grad():
        torch.manual_seed(1)
        x, log_q = flow.rsample_and_log_prob(DRAWS)
        elbo = target.log_unnormalized(x) - log_q
        image = flow.log_prob(pixels().reshape(-1, 2)).exp().reshape(PIXELS, PIXELS)
    row = {"elbo": float(elbo.mean()), "se": float(elbo.std() / DRAWS**0.5), "seconds": seconds, "steps": steps}
    return row, image.numpy()


def draw(results: dict, grid: dict[int, float], seconds: float, steps: int) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = [(kind, layers) for kind in KINDS for layers in DEPTHS]
    figure, axes = plt.subplots(len(ENERGIES), 1 + len(names), figsize=(1.35 * (1 + len(names)), 5.6))
    for i, number in enumerate(ENERGIES):
        truth = bj.RezendeMohamed(number).log_prob(pixels()).exp().numpy()
        cells = [("exact", truth)] + [(f"{k}, {n}", results[k, n, number][1]) for k, n in names]
        for axis, (title, image) in zip(axes[i], cells, strict=True):
            axis.imshow(image, origin="lower", cmap="magma", vmin=0, vmax=truth.max())
            axis.set(xticks=[], yticks=[])
            if i == 0:
                axis.set_title(title, fontsize=8)
        axes[i, 0].set_ylabel(f"$U_{number}$", fontsize=9)
    figure.tight_layout(pad=0.3)
    figure.savefig(ROOT / "docs" / "energies.png", dpi=100, pil_kwargs={"optimize": True})

    head = "| energy | log Z | log Z, grid |" + "".join(f" {k} {n} |" for k, n in names) + "\n"
    body = ""
    for number in ENERGIES:
        log_z = bj.RezendeMohamed(number).log_z
        gaps = [f"{log_z - results[k, n, number][0]['elbo']:.3f}" for k, n in names]
        body += f"| $U_{number}$ | {log_z:.4f} | {grid[number]:.4f} | " + " | ".join(gaps) + " |\n"
    table = head + "|" + "---|" * (3 + len(names)) + "\n" + body
    error = max(row["se"] for row, _ in results.values())
    text = f"""# The four energies of Rezende and Mohamed

Flows that act on noise (`acts_on="noise"`), trained on the energy alone by the free energy with annealing
(`ReverseKL`, `Anneal`), in the setting of [arXiv:1505.05770](https://arxiv.org/abs/1505.05770), table 1 and figure 3:
2, 8 and 32 planar and radial maps over a learned diagonal normal. The figures are nats lost, log Z − ELBO =
KL(flow | target), from {DRAWS:,} fresh draws (largest standard error {error:.3f}); 0 is perfect. log Z is exact for the
energies with a wall at |x₁| = 4 (see `RezendeMohamed`), and a sum over a grid confirms it.

{table}
{steps:,} steps of {BATCH} draws, Adam with a peak of 1e-2 and a cosine schedule, β from 0.01 to 1 over the first half, one
seed, no choice of the best; {seconds / 60:.1f} minutes of one CPU core for all {len(results)} flows. Few maps leave out
parts or fill the gaps between them, as in the paper; the density in the pictures is evaluated at the pixels, which for a
planar flow that acts on noise takes one scalar root a map. Made by `benchmarks/energies.py`.

![exact densities in the first column, then planar and radial flows of 2, 8 and 32 maps](energies.png)
"""
    (ROOT / "docs" / "energies.md").write_text(text)
    print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    grid = {number: grid_log_z(bj.RezendeMohamed(number)) for number in ENERGIES}
    results = {}
    for kind in KINDS:
        for layers in DEPTHS:
            for number in ENERGIES:
                path = options.work / f"{kind}-{layers}-{number}-{options.steps}.json"
                if not path.exists():
                    row, image = train(kind, layers, number, options.steps)
                    np.save(path.with_suffix(".npy"), image)
                    path.write_text(json.dumps(row))
                    print(f"{path.stem:20} gap {bj.RezendeMohamed(number).log_z - row['elbo']:.3f}", flush=True)
                results[kind, layers, number] = json.loads(path.read_text()), np.load(path.with_suffix(".npy"))
    draw(results, grid, sum(row["seconds"] for row, _ in results.values()), options.steps)


if __name__ == "__main__":
    main()

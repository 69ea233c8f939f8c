"""Every recipe on the same six toy densities of the plane: held-out nats against the exact value, and pictures.

Each recipe is fitted with its defaults (or the arguments below, where the defaults are made for more than a plane), the same
rows, the same optimiser settings and the same number of steps. The targets have exact densities, so the gap to the truth,
KL(target | flow), is known up to the noise of 20,000 held-out rows (about 0.01 nats).

    python benchmarks/gallery.py fit --work gallery/ [--recipes nsf,maf]      # skips what is done, so it can be interrupted
    python benchmarks/gallery.py draw --work gallery/                          # docs/gallery.md and docs/gallery.png
    python benchmarks/gallery.py draw --work continuous/ --page gallery-continuous
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

import bijectory as bj

ROOT = Path(__file__).resolve().parent.parent
TARGETS = {
    "two moons": lambda: bj.TwoMoons(),
    "rings": lambda: bj.Rings(),
    "checkerboard": lambda: bj.Checkerboard(),
    "eight modes": lambda: bj.GaussianRing(),
    "25 modes": lambda: bj.GaussianGrid(),
    "banana": lambda: bj.Banana(),
}
ROWS, HELD_OUT, EPOCHS, GRID = 20_000, 20_000, 8, 96
SKIP = {"ncsf": "lives on a torus", "rfm_torus": "lives on a torus", "rfm_sphere": "lives on a sphere"}
SKIP |= {"tarflow": "takes minutes a fit"}
ARGUMENTS: dict[str, dict] = {}


def fit_one(name: str, target: bj.Density, seed: int) -> tuple[dict, np.ndarray]:
    g = torch.Generator().manual_seed(seed)
    train, test = target.sample(ROWS, generator=g), target.sample(HELD_OUT, generator=g)
    torch.manual_seed(seed)
    recipe = bj.recipes.find_recipe(name)
    core = recipe.build(2, **ARGUMENTS.get(name, {}))
    scale = bj.Standardize(2)
    scale.initialize(train)
    flow = bj.Flow(bj.Chain(scale, core.transform), core.base)
    regression = recipe.objective in bj.objectives.REGRESSIONS
    own = {"epochs": 3 * EPOCHS, "lr": 1e-2, "ema_decay": 0.99} if regression else {"epochs": EPOCHS, "lr": 2e-3}
    config = bj.FitConfig(batch_size=250, seed=seed, progress=False, patience=None, **own)
    objective = bj.objectives.find_objective(recipe.objective)
    start = time.process_time()
    result = bj.fit(flow, train, objective=objective, config=config)
    seconds = time.process_time() - start
    flow = result.model.eval()
    with torch.no_grad():
        log_p, log_q = target.log_prob(test), torch.cat([flow.log_prob(x) for x in test.split(2000)])
        low, high = test.amin(0) - 0.3, test.amax(0) + 0.3
        axes = [torch.linspace(float(a), float(b), GRID) for a, b in zip(low, high, strict=True)]
        grid = torch.stack(torch.meshgrid(*axes, indexing="xy"), -1).reshape(-1, 2)
        image = torch.cat([flow.log_prob(x) for x in grid.split(2304)]).exp().reshape(GRID, GRID)
        truth = target.log_prob(grid).exp().reshape(GRID, GRID)
    gap = log_p - log_q
    row = {
        "nats": float(log_q.mean()),
        "exact": float(log_p.mean()),
        "gap": float(gap.mean()),
        "se": float(gap.std() / len(gap) ** 0.5),
        "seconds": seconds,
        "parameters": sum(p.numel() for p in flow.parameters()),
    }
    return row, np.stack([image.numpy(), truth.numpy()])


def fit_all(work: Path, names: list[str]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    for name in names:
        for k, (label, build) in enumerate(TARGETS.items()):
            path = work / f"{name}-{label.replace(' ', '_')}.json"
            if path.exists():
                continue
            row, image = fit_one(name, build(), seed=k)
            np.save(path.with_suffix(".npy"), image)
            path.write_text(json.dumps({"recipe": name, "target": label, **row}))
            print(f"{name:16} {label:13} gap {row['gap']:.3f} +- {row['se']:.3f}  {row['seconds']:.0f} s", flush=True)


def draw(work: Path, page: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows: dict[str, dict] = {}
    for path in work.glob("*.json"):
        row = json.loads(path.read_text())
        rows.setdefault(row["recipe"], {})[row["target"]] = row | {"image": np.load(path.with_suffix(".npy"))}
    rows = {name: per for name, per in rows.items() if len(per) == len(TARGETS)}
    order = [r.name for r in sorted(bj.recipes.RECIPES.values(), key=lambda r: (r.year, r.name)) if r.name in rows]
    every = [r.name for r in bj.recipes.RECIPES.values() if r.event == "features"]
    absent = [f"`{n}` {SKIP.get(n, 'was not run')}" for n in every if n not in rows]
    figure, axes = plt.subplots(len(order) + 1, len(TARGETS), figsize=(len(TARGETS), len(order) + 1), squeeze=False)
    for j, label in enumerate(TARGETS):
        cells = [(rows[order[0]][label]["image"][1], label)] + [(rows[n][label]["image"][0], "") for n in order]
        top = cells[0][0].max()
        for i, (image, title) in enumerate(cells):
            axes[i, j].imshow(image, origin="lower", cmap="magma", vmin=0, vmax=top, aspect="auto")
            axes[i, j].set(xticks=[], yticks=[])
            axes[i, j].set_title(title, fontsize=6)
    for i, name in enumerate(["exact", *order]):
        axes[i, 0].set_ylabel(name, fontsize=6)
    figure.tight_layout(pad=0.2)
    figure.savefig(ROOT / "docs" / f"{page}.png", dpi=80, pil_kwargs={"optimize": True})

    head = (
        f"| recipe | parameters | CPU seconds a fit | {' | '.join(TARGETS)} |\n|---|---|---|{'---|' * len(TARGETS)}\n"
    )
    exact = " | ".join(f"{-rows[order[0]][t]['exact']:.3f}" for t in TARGETS)
    body = f"| *entropy of the target* | | | {exact} |\n"
    for name in order:
        gaps = " | ".join(f"{rows[name][t]['gap']:.3f}" for t in TARGETS)
        seconds = np.median([rows[name][t]["seconds"] for t in TARGETS])
        body += f"| `{name}` | {rows[name]['two moons']['parameters']:,} | {seconds:.0f} | {gaps} |\n"
    left_out = f"Left out: {'; '.join(absent)}.\n" if page == "gallery" else ""
    error = max(r["se"] for per in rows.values() for r in per.values())
    which = "every recipe" if page == "gallery" else "continuous flows"
    text = f"""# Gallery: {which} on the same six densities

Each recipe with its defaults, {ROWS:,} rows, {EPOCHS} epochs of batches of 250 (Adam, peak 2e-3, cosine;
what regresses on noise takes cheaper steps, so three times as many, peak 1e-2, weights averaged), one seed. The figures are
held-out nats lost to the exact density, KL(target | flow), on {HELD_OUT:,} rows; the largest standard error is
{error:.3f}. Small is good, 0 is perfect. A short fit: it shows what each family finds quickly, not its limit.
{left_out}Made by `benchmarks/gallery.py`.

{head}{body}
![exact densities in the first row, then one row for each recipe]({page}.png)
"""
    (ROOT / "docs" / f"{page}.md").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("fit", "draw"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipes", default="")
    parser.add_argument("--page", default="gallery")
    options = parser.parse_args()
    torch.set_num_threads(1)
    every = [r.name for r in bj.recipes.RECIPES.values() if r.event == "features" and r.name not in SKIP]
    if options.command == "fit":
        fit_all(options.work, options.recipes.split(",") if options.recipes else every)
    else:
        draw(options.work, options.page)


if __name__ == "__main__":
    main()
